"""Product allocation with exponential utility: is the population optimum reached?

The published synthetic task: ten products, amounts from 0 to 2, cost exp(-profit), independent profits of two
modes and no context. Its population optimum is 0.40056. Each method's scenarios decide once, and the decision
is priced twice: on 100,000 fresh draws, the same for all, and by the law itself,

    E exp(-y'z) = prod_k sum_m p_m exp(-a_m z_k + (s z_k)^2 / 2)                                 (1)

with modes a_m of probability p_m and spread s. A decision is within noise of the optimum where the interval
of its cost less the optimum's, paired draw by draw, holds zero and ends below 0.01. 100,000 fresh draws show
an excess of 0.0006 or more. n draws of the law itself decided on directly cost 30/n to 40/n more than the
optimum by (1), so 100,000 training draws, or scenarios, use up half of that before any model errs; here are
several times as many of both. The law is known and draws cost nothing.

The cost's slope is made by few draws, those of many losses: see `LearningConfig.norm_decay`, and LOG.md for
where training ends without it. Which epoch of the joint phase is kept, or none, is for the validation draws
to say. With an excess of 0.003 the cost of a draw differs by 0.2, so 128 draws, one decision for each 32 of
them, would say it at random, and a decision on 20,000 scenarios has an error of its own of 0.002: see
`_choosing`.

Source: Zhao et al. (2025), section 5.1, https://arxiv.org/abs/2510.11590.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from small import CONFIG
from torch import Tensor
from utility import SharedUtility, minimizer

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.whitening import Whitening
from hedgecast.learning.budget import Budget
from hedgecast.learning.fit import JOINT, Fit, Fitted, Job, Progress, Trainer, Weights
from hedgecast.learning.methods import fit_methods
from hedgecast.learning.methods.diffusion import Diffusion
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.part import Part
from hedgecast.programs.catalog.product_allocation import exponential_profits

NUM_PRODUCTS = 10
LIMIT = 2.0
OPTIMAL_AMOUNT = 0.54521
POPULATION_OPTIMUM = 0.40056
MODES, SHARES, SPREAD = (0.5, -1.5), (0.9, 0.1), 0.075
NUM_TRAIN, NUM_VALIDATION, NUM_FRESH = 400_000, 400_000, 100_000
# Validation draws that stop pretraining and judge realism; all of them choose the joint epoch.
NUM_STOPPING = 128
NUM_CHOOSING = 200_000
"""Scenarios of the decision by which the joint epoch is chosen."""
WIDEST = 0.01
"""Ends of intervals beyond this show that an amount has a bad tail, not that it is as good as the optimum."""
COUNTS = (25, 200, 1000, 10_000, 100_000, 1_000_000)
PER_DAY = 100_000
"""Scenarios made at once: the network holds half a KiB of each in a layer."""
METHODS = ("ridge-residual", "gaussian", "diffusion", "diffusion-dfl")
# Chosen on draws of their own (training seeds 50 and 77, priced by equation (1)); see LOG.md.
SETTINGS = dataclasses.replace(
    CONFIG,
    generator=Generator.Config(
        denoiser=Denoiser.Config(hidden=64, num_blocks=2),
        # No map for skew and tails: of two modes it makes a broad one and a needle.
        whitening=Whitening.Config(conditional_size=False, marginals="normal"),
        # One call of the network a step; heun makes two for the same.
        sampler="adams",
        sampler_steps=12,
    ),
    learning_rate=3e-3,
    epochs=16,
    patience=16,
    batch_days=4096,
    samples_per_day=1,
    ema_decay=0.98,
    scenarios=4,
    joint_epochs=1,
    joint_learning_rate=1e-3,
    balance="weighted",
    norm_decay=0.99,
    budget=Budget.Config(score_scenarios=2),
)


def run(seeds: int) -> dict[str, Any]:
    """Cost on fresh draws and by the law, by method and number of scenarios."""
    fresh = exponential_profits(NUM_FRESH, generator=torch.Generator().manual_seed(1_000_003))
    best = torch.full((NUM_PRODUCTS,), OPTIMAL_AMOUNT, dtype=torch.float64)
    least = _costs(best, fresh)
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        draws = torch.Generator().manual_seed(seed)
        profits = exponential_profits(NUM_TRAIN + NUM_VALIDATION, generator=draws)
        rows.append(_row("training draws", seed, NUM_TRAIN, minimizer(profits[:NUM_TRAIN], LIMIT)))
        rows += _methods(profits, seed)
    for row in rows:
        costs = _costs(torch.tensor(row["amounts"], dtype=torch.float64), fresh)
        row |= {"cost": float(costs.mean()), **_paired(costs - least)}
    return {
        "title": "product allocation, exponential utility",
        "rows": rows,
        "groups": _groups(rows, fresh, least),
        "optimum": {"cost": float(least.mean()), "standard_error": _standard_error(least)},
        "population_optimum": POPULATION_OPTIMUM,
        "training_draws": NUM_TRAIN,
        "validation_draws": NUM_VALIDATION,
        "fresh_draws": NUM_FRESH,
        "seeds": seeds,
    }


def law_cost(amounts: Tensor) -> float:
    """Equation (1)."""
    variance = (SPREAD * amounts).square() / 2.0
    modes = [share * torch.exp(-mode * amounts + variance) for mode, share in zip(MODES, SHARES, strict=True)]
    return float(torch.stack(modes).sum(dim=0).prod())


def _methods(profits: Tensor, seed: int) -> list[dict[str, Any]]:
    whole = Part.of_arrays(torch.zeros(len(profits), 1), profits.unsqueeze(1))
    train = whole.select(slice(0, NUM_TRAIN))
    validation = whole.select(slice(NUM_TRAIN, NUM_TRAIN + NUM_STOPPING))
    config = dataclasses.replace(SETTINGS, seed=seed)
    program = SharedUtility(NUM_PRODUCTS, LIMIT)
    fitted = fit_methods(METHODS, train, validation, config, program, trainer=_choosing(profits[NUM_TRAIN:]))
    rows = []
    for name, method in fitted.items():
        facts = {}
        if name == "diffusion-dfl":
            assert isinstance(method, Diffusion)
            facts = {"best_joint_epoch": method.history.best_joint_epoch, "train_seconds": method.seconds}
        scenarios = _scenarios(method, validation, seed)
        rows += [_row(name, seed, count, minimizer(scenarios[:count], LIMIT)) | facts for count in COUNTS]
    return rows


def _scenarios(method: ScenarioMethod, days: Part, seed: int) -> Tensor:
    """As many as the largest of `COUNTS`: all days have one law, so those of several are of one."""
    parts = []
    for day in range(COUNTS[-1] // PER_DAY):
        drawn = method.scenarios(days.select(slice(day, day + 1)), PER_DAY, seed)
        parts.append(drawn.paths[0].flatten(1))
    return torch.cat(parts)


def _choosing(draws: Tensor) -> Trainer:
    """Trains here, and keeps of the joint phase the epoch whose one decision costs least on ``draws``.

    None of its epochs, where the pretrained weights cost least; only epochs within the margins of realism.
    """

    def train(job: Job, progress: Progress | None = None) -> Fitted:
        epochs: list[Weights] = []

        def keep(fit: Fit) -> None:
            state = fit.state_dict()
            if state["phase"] == JOINT:
                average = state["phase_state"]["average"]
                epochs.append({name: value.clone() for name, value in average.items()})

        fitted = Fit(job).run(progress, keep)
        real = _within_margins(fitted, job)
        costs = [
            _cost_of(job, weights, draws) if real[epoch] else np.inf for epoch, weights in enumerate(epochs)
        ]
        best = int(np.argmin(costs))
        fitted.history.set_best(best, joint=True)
        return dataclasses.replace(fitted, joint=epochs[best])

    return train


def _within_margins(fitted: Fitted, job: Job) -> list[bool]:
    """Of the pretrained weights and each joint epoch: as in `JointPhase.acceptable`."""
    history, config = fitted.history, job.config
    scores = [1.0, *history.joint_score_ratios]
    noise = [loss / history.joint_noise_losses[0] for loss in history.joint_noise_losses]
    noise_bound, score_bound = 1.0 + config.noise_matching_margin, 1.0 + config.budget.score_margin
    return [n <= noise_bound and s <= score_bound for n, s in zip(noise, scores, strict=True)]


@torch.no_grad()
def _cost_of(job: Job, weights: Weights, draws: Tensor) -> float:
    model = copy.deepcopy(job.model)
    model.denoiser.load_state_dict(weights)
    generator = torch.Generator().manual_seed(job.config.seed)
    scenarios = model.draw(job.train.context[:1], NUM_CHOOSING, generator)[0].flatten(1).double()
    return float(torch.exp(-draws @ minimizer(scenarios, LIMIT)).mean())


def _row(method: str, seed: int, count: int, amounts: Tensor) -> dict[str, Any]:
    return {
        "method": method,
        "seed": seed,
        "scenarios": count,
        "law_cost": law_cost(amounts),
        "amounts": [round(float(amount), 5) for amount in amounts],
    }


def _groups(rows: list[dict[str, Any]], fresh: Tensor, least: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Of each method and number of scenarios: the mean over seeds, and how many seeds are within noise."""
    members: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault((row["method"], row["scenarios"]), []).append(row)
    found = []
    for (method, count), group in members.items():
        costs = [_costs(torch.tensor(row["amounts"], dtype=torch.float64), fresh) for row in group]
        within = [row["excess_interval"][0] <= 0.0 <= row["excess_interval"][1] <= WIDEST for row in group]
        found.append(
            {
                "method": method,
                "scenarios": count,
                "costs": [row["cost"] for row in group],
                "law_costs": [row["law_cost"] for row in group],
                "within_noise": sum(within),
                **_paired(np.mean(costs, axis=0) - least),
            }
        )
    return found


def _costs(amounts: Tensor, fresh: Tensor) -> NDArray[np.float64]:
    return np.asarray(torch.exp(-fresh @ amounts).numpy())


def _paired(excess: NDArray[np.float64]) -> dict[str, Any]:
    """Mean and 95 % interval of the cost less the optimum's, draw by draw."""
    mean, error = float(excess.mean()), 1.96 * _standard_error(excess)
    return {"excess": mean, "excess_interval": [mean - error, mean + error]}


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
