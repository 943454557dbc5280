"""The estimators of the task gradient: bias and variance where the exact gradient is known.

`linear-gaussian`: scenarios m + noise, cost 1/2 |z - y|^2, exact gradient m - y; days are independent
replicates.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import pathlib
import platform
from typing import Any

import cvxpy as cp
import torch
from rich.console import Console
from rich.table import Table

from hedgecast.learning.draws import Draws
from hedgecast.learning.estimators.elbo import Elbo, ElboConfig
from hedgecast.learning.estimators.pathwise import Pathwise
from hedgecast.learning.estimators.score_function import ScoreFunction
from hedgecast.learning.estimators.seam import GradientEstimator, Scene
from hedgecast.learning.objective import TaskLoss
from hedgecast.programs.program import TwoStageProgram
from hedgecast.testing import gaussian_generator, reach

RESULTS = pathlib.Path(__file__).parent / "results"
REPLICATES, SAMPLER_STEPS = 4000, 24
MEAN, CAME = (0.4, -0.3), (1.2, 0.5)


def quadratic() -> TaskLoss:
    plan, load = cp.Variable(2, name="plan"), cp.Parameter(2, name="load")
    cost = 0.5 * cp.sum_squares(plan - load)
    return TaskLoss(
        TwoStageProgram(name="quadratic", decision=plan, uncertain=load, recourse_cost=cost), smoothing=0.0
    )


def gaussian_cases() -> dict[str, tuple[GradientEstimator, float]]:
    """Estimators, and the known factor of each one's mean."""

    def score(scenarios: int = 8, **changes: Any) -> ScoreFunction:
        elbo = Elbo(ElboConfig(**changes), log_mean=-0.4, log_std=1.4)
        return ScoreFunction(scenarios=scenarios, elbo=elbo, clip_ratio=0.2)

    def pathwise(last: int = SAMPLER_STEPS, scenarios: int = 8) -> Pathwise:
        return Pathwise(scenarios=scenarios, drawn=scenarios, grad_steps=last, checkpointed=False)

    normals = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    simple = float(torch.sin(torch.atan(torch.exp(-0.4 + 1.4 * normals))).square().mean())
    return {
        "pathwise": (pathwise(), 1.0),
        "pathwise, 50 scenarios": (pathwise(scenarios=50), 1.0),
        "pathwise, last half": (pathwise(SAMPLER_STEPS // 2), reach(SAMPLER_STEPS, SAMPLER_STEPS // 2)),
        "score function, 1 level": (score(noise_levels=1), 1.0),
        "score function, 4 levels": (score(noise_levels=4), 1.0),
        "score function, 16 levels": (score(noise_levels=16), 1.0),
        "score function, 4 levels, importance": (score(noise_levels=4, importance=True), 1.0),
        "score function, 4 levels, 50 scenarios": (score(50, noise_levels=4), 1.0),
        "score function, 4 levels, simple": (score(noise_levels=4, weighting="simple"), simple),
    }


def gaussian() -> dict[str, Any]:
    task = quadratic()
    came = torch.tensor(CAME, dtype=torch.float64).expand(REPLICATES, -1)
    exact = torch.tensor(MEAN, dtype=torch.float64) - came[0]
    rows = {}
    for name, (estimator, factor) in gaussian_cases().items():
        mean = torch.tensor(MEAN, dtype=torch.float64).expand(REPLICATES, -1)
        model = gaussian_generator(mean, sampler_steps=SAMPLER_STEPS)
        draws = Draws(torch.Generator().manual_seed(1), REPLICATES, came)
        context = torch.arange(REPLICATES, dtype=torch.float64).unsqueeze(1)
        scene = Scene(context=context, whitened=came, realized=came.unsqueeze(2), weight=None, draws=draws)
        estimate = estimator(model, scene, task)
        (slope,) = torch.autograd.grad(estimate.loss, model.denoiser.mean)
        found = REPLICATES * slope
        error = found.std(dim=0) / math.sqrt(REPLICATES)
        # In units of the exact gradient: an estimator that is off by a known factor is scaled back by it.
        relative = float(found.var(dim=0).sum()) / factor**2 / float(exact.square().sum())
        rows[name] = {
            "mean": found.mean(dim=0).tolist(),
            "known_factor": factor,
            "standard_errors_from_known_mean": float(
                ((found.mean(dim=0) - factor * exact) / error).abs().max()
            ),
            "relative_variance": relative,
        }
    return {"case": "linear-gaussian", "replicates": REPLICATES, "exact": exact.tolist(), "rows": rows}


def environment() -> dict[str, Any]:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": model[0] if model else platform.processor(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numba", "numpy", "cvxpy")},
    }


def show(record: dict[str, Any]) -> None:
    columns = list(dict.fromkeys(key for row in record["rows"].values() for key in row if key != "mean"))
    table = Table(title=record["case"])
    for column in ("estimator", *columns):
        table.add_column(column.replace("_", " "), justify="left" if column == "estimator" else "right")
    for name, row in record["rows"].items():
        table.add_row(name, *(f"{row[column]:.3f}" for column in columns))
    Console(stderr=True).print(table)


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    record = environment() | gaussian()
    show(record)
    print(json.dumps(record), flush=True)
    (RESULTS / "estimators_linear-gaussian.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
