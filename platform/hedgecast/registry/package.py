"""A trained generator and its study as a bundle."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hedgecast.data.features import features
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.windows import Windows
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.study import Study
from hedgecast.registry.bundle import (
    GENERATOR_WEIGHTS,
    PROGRAM_FILE,
    SETTINGS,
    VALIDATION_DAYS,
    Bundle,
    write_bundle,
)
from hedgecast.registry.checks import DENOISER_PARITY, SCENARIO_PARITY
from hedgecast.registry.evidence import ValidationDays
from hedgecast.registry.export import export_graphs
from hedgecast.registry.graphs import BASELINE_GRAPH, DENOISER_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.weights import weights_of
from hedgecast.scenarios.envelope import Envelope, envelope_of
from hedgecast.version import __version__

_SPREAD_DAYS, _SPREAD_SCENARIOS = 60, 100
_RECORDED = ("torch", "numpy", "cvxpy", "onnx", "onnxscript", "onnxruntime")


def package(
    folder: Path,
    *,
    study: Study,
    schema: FeatureSchema,
    generator: Generator,
    context: Tensor,
    train: Windows,
    training: Mapping[str, Any],
    metrics: Mapping[str, float],
    days: ValidationDays,
) -> Bundle:
    """The bundle of a trained model, its graphs checked against torch.

    Parameters
    ----------
    folder : Path
        Where it shall stand; a bundle there gives way.
    study : Study
        What was trained, on what, for which decision.
    schema : FeatureSchema
        What a context row is made of.
    generator : Generator
        Trained.
    context : Tensor
        (B, C) raw features of real days, for the comparison of the graphs with torch.
    train : Windows
        The training days, whose ranges serving holds contexts and scenarios against.
    training : mapping
        What the training run reports: days, losses, seconds. The ``[learning]`` table is kept beside it.
    metrics : mapping
        Figures of the validation days.
    days : ValidationDays
        Their costs, which a promotion compares.

    Raises
    ------
    BundleError
        A graph differs from torch, or ``folder`` holds something else.
    """
    graphs = export_graphs(generator, context)
    files = {
        SCENARIOS_GRAPH: graphs.scenarios,
        BASELINE_GRAPH: graphs.baseline,
        DENOISER_GRAPH: graphs.denoiser,
        GENERATOR_WEIGHTS: weights_of(generator),
        VALIDATION_DAYS: days.to_bytes(),
    }
    if study.program.path is not None:
        files[PROGRAM_FILE] = Path(study.program.path).read_bytes()
    measured = {
        **metrics,
        SCENARIO_PARITY: graphs.scenarios_parity.relative_error,
        DENOISER_PARITY: graphs.denoiser_parity.relative_error,
    }
    manifest = {
        "name": study.name,
        "created_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "method": study.learning.method,
        "seed": study.learning.seed,
        "versions": _versions(),
        "data": study.data.to_dict(),
        "schema": schema.to_dict(),
        "generator": {
            "names": list(schema.targets),
            "units": list(schema.target_units),
            "num_slots": generator.num_steps,
            "num_features": generator.num_features,
            "noise_size": generator.dim,
            "sampler": f"{generator.config.sampler}, {generator.config.sampler_steps} steps",
        },
        "program": study.program.to_dict(),
        "envelope": _envelope(generator, train).to_dict(),
        "safety": study.safety.to_dict(),
        # A student's own record begins with its teacher's, whose settings made what it learned from.
        "training": {SETTINGS: study.learning.to_dict(), **training},
        "metrics": measured,
    }
    return write_bundle(folder, files=files, card=_card(manifest), manifest=manifest)


def _envelope(generator: Generator, train: Windows) -> Envelope:
    """Ranges of the training days, and of the spread of the model's scenarios on some of them."""
    rows, schema = features(train), train.schema
    chosen = rows[:: max(1, len(rows) // _SPREAD_DAYS)]
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        paths = generator.draw(torch.from_numpy(chosen).float(), _SPREAD_SCENARIOS, draws)
    spreads = paths.double().std(dim=1).mean(dim=1).numpy()
    return envelope_of(
        {name: rows[:, index] for index, name in enumerate(schema.names)},
        {name: train.history[:, :, index] for index, name in enumerate(schema.columns)},
        {name: train.slots[:, :, index] for index, name in enumerate(schema.targets)},
        {name: spreads[:, index] for index, name in enumerate(schema.targets)},
    )


def _versions() -> dict[str, str]:
    versions = {"hedgecast": __version__}
    for name in _RECORDED:
        # onnxruntime may be there as onnxruntime-gpu.
        for candidate in (name, f"{name}-gpu"):
            try:
                versions[candidate] = importlib.metadata.version(candidate)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    versions["torch"] = torch.__version__
    return versions


def _card(manifest: Mapping[str, Any]) -> str:
    def table(values: Mapping[str, Any]) -> str:
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in values.items())
        return f"| | |\n| --- | --- |\n{rows}\n"

    generator, program = manifest["generator"], manifest["program"]
    # Figures; the tables of settings in it would not fit a cell.
    training = {name: value for name, value in manifest["training"].items() if not isinstance(value, dict)}
    what = program.get("name") or program.get("path")
    series = ", ".join(
        f"{name} ({unit or 'no unit'})"
        for name, unit in zip(generator["names"], generator["units"], strict=True)
    )
    return f"""# {manifest["name"]}

Scenarios of {series} over {generator["num_slots"]} slots of a day, for the decision program `{what}`.
Method `{manifest["method"]}`, seed {manifest["seed"]}, {generator["sampler"]}.
Written {manifest["created_time"]}.

## Use
Scenarios follow the law that the training days support. Context outside their range, or data measured in
another way, is outside what was checked. Expected regret is expected under this law, not under the world's.

## Training
{table(training)}
## Validation
{table(manifest["metrics"])}
## Program parameters
{table(program.get("parameters", {}))}
## Versions
{table(manifest["versions"])}"""


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
