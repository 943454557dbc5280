"""``hedgecast train``: a study to a registered model."""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hedgecast.commands.models import show_checks, try_promotion
from hedgecast.commands.steps import Steps
from hedgecast.commands.workflow import BASELINE, Prepared, bundle_of, champion_of, evaluate, fit_methods
from hedgecast.core.errors import ConfigError
from hedgecast.core.process import peak_memory_mib
from hedgecast.learning.fit import Trainer, train_here
from hedgecast.learning.methods import check_method
from hedgecast.learning.methods.diffusion import Diffusion
from hedgecast.learning.study import Study, read_study
from hedgecast.learning.trainers import TrainerOptions, remote_trainer
from hedgecast.registry.store import ModelStore, default_home


def train(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Keep the bundle in this folder, too.")] = None,
    registry: Annotated[
        str | None, typer.Option(help="Directory or MLflow address; default: $HEDGECAST_HOME.")
    ] = None,
    scenarios: Annotated[
        int, typer.Option(min=50, help="Scenarios of each validation day: fewer pass no gate.")
    ] = 200,
    num_workers: Annotated[
        int, typer.Option("--workers", min=0, help="Ray processes that share each step; 0: none.")
    ] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each worker a GPU.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(help="Of checkpoints: a directory, s3://... Default: $HEDGECAST_HOME/runs."),
    ] = None,
    run_name: Annotated[
        str | None, typer.Option(help="Go on with this run of the storage, or begin it under this name.")
    ] = None,
    max_failures: Annotated[int, typer.Option(min=0, help="Times that lost workers are replaced.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a study's model, export it, register it, and make it champion if it passes its checks.

    With --workers, Ray Train shares every step among processes: those of the cluster at $RAY_ADDRESS (set in
    a `ray job submit`), else of a private one on this machine. Their number does not change the result.

    Examples:

    hedgecast train german_grid

    hedgecast train my_study.toml --set learning.seed=3 --set learning.joint_epochs=20

    hedgecast train my_study.toml --workers 2 --storage s3://bucket/runs --run-name march

    ray job submit --working-dir . -- hedgecast train my_study.toml --workers 8
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
    trainer = _trainer(config, num_workers, gpu, storage, run_name, max_failures)
    with steps.step("read the data"):
        prepared = Prepared.of(config)
    try:
        with steps.step("train"):
            methods = fit_methods(prepared, (BASELINE, name), console, trainer)
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        raise typer.Exit(130) from None
    method = methods[name]
    assert isinstance(method, Diffusion)
    store = ModelStore(registry)
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        with steps.step("validate"):
            evaluation = evaluate(
                prepared,
                prepared.split.validation,
                {**methods, **champion_of(store, config.name, prepared, Path(folder), console)},
                count=scenarios,
                seed=config.learning.seed,
                console=console,
            )
        with steps.step("export and register", waiting="tracing the graphs"):
            bundle = bundle_of(prepared, method, evaluation, output or Path(folder) / "bundle")
            version = store.register(bundle, curves=method.history.curves())
            outcome = try_promotion(store, version.reference)
    show_checks(outcome.checks, console)
    console.print(str(outcome))
    if as_json:
        record = {
            "model": dataclasses.asdict(outcome.version),
            "champion": outcome.refusal is None,
            "rule": outcome.rule,
            "refusal": outcome.refusal,
            "checks": [check.to_dict() for check in outcome.checks],
            "counts": prepared.counts(),
            "training": bundle.manifest.training,
            "metrics": bundle.manifest.metrics,
            "validation": evaluation.records(),
            "seconds": steps.seconds,
            "peak_memory_mib": peak_memory_mib(),
        }
        print(json.dumps(record))


def _trainer(
    study: Study, num_workers: int, gpu: bool, storage: str | None, run_name: str | None, max_failures: int
) -> Trainer:
    """This process, or Ray's workers."""
    if num_workers == 0:
        if gpu or storage is not None or run_name is not None:
            raise ConfigError("--gpu, --storage and --run-name are for workers: give --workers 1 or more")
        return train_here
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    options = TrainerOptions(
        num_workers=num_workers,
        gpu=gpu,
        storage=str(default_home() / "runs") if storage is None else storage,
        run_name=f"{study.name}-{now}" if run_name is None else run_name,
        max_failures=max_failures,
    )
    return remote_trainer("ray", study, options)
