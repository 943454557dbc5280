"""``hedgecast train``: a study to a registered model."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hedgecast.commands.models import show_checks
from hedgecast.commands.steps import Steps
from hedgecast.commands.workflow import BASELINE, Prepared, bundle_of, evaluate, fit_methods
from hedgecast.core.errors import ConfigError, GateRefusedError
from hedgecast.core.process import peak_memory_mib
from hedgecast.learning.methods import check_method
from hedgecast.learning.methods.diffusion import Diffusion
from hedgecast.learning.study import read_study
from hedgecast.registry.checks import gate_checks
from hedgecast.registry.store import ModelStore


def train(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Keep the bundle in this folder, too.")] = None,
    registry: Annotated[
        str | None, typer.Option(help="Directory or MLflow address; default: $HEDGECAST_HOME.")
    ] = None,
    scenarios: Annotated[int, typer.Option(help="Scenarios of each validation day.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a study's model, export it, register it, and make it champion if it passes its checks.

    Examples:

    hedgecast train german_grid

    hedgecast train my_study.toml --set learning.seed=3 --set learning.joint_epochs=20
    """
    console = Console(stderr=as_json)
    steps = Steps(console)
    config = read_study(study, changes or [])
    name = config.learning.method
    check_method(name)
    if not name.startswith("diffusion"):
        raise ConfigError(
            f"learning.method = {name!r} has no network to export: use diffusion or diffusion-dfl, and "
            "hedgecast backtest to compare others",
            key="learning.method",
        )
    with steps.step("read the data"):
        prepared = Prepared.of(config)
    with steps.step("train"):
        methods = fit_methods(prepared, (BASELINE, name), console)
    with steps.step("validate"):
        evaluation = evaluate(
            prepared,
            prepared.split.validation,
            methods,
            count=scenarios,
            seed=config.learning.seed,
            console=console,
        )
    method = methods[name]
    assert isinstance(method, Diffusion)
    with (
        steps.step("export and register", waiting="tracing the graphs"),
        tempfile.TemporaryDirectory(prefix="hedgecast-") as folder,
    ):
        bundle = bundle_of(prepared, method, evaluation, output or Path(folder) / "bundle")
        store = ModelStore(registry)
        version = store.register(bundle)
    checks = gate_checks(bundle.manifest.metrics)
    show_checks(checks, console)
    try:
        version = store.promote(version.reference, checks)
        refusal = None
    except GateRefusedError as error:
        refusal = str(error)
    console.print(refusal or f"{version.reference} is now champion")
    if as_json:
        record = {
            "model": dataclasses.asdict(version),
            "champion": refusal is None,
            "refusal": refusal,
            "counts": prepared.counts(),
            "training": bundle.manifest.training,
            "metrics": bundle.manifest.metrics,
            "validation": evaluation.records(),
            "seconds": steps.seconds,
            "peak_memory_mib": peak_memory_mib(),
        }
        print(json.dumps(record))
