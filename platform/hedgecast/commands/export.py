"""``hedgecast export``: a registered model with its network in half precision, as a bundle in a folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hedgecast.commands.steps import Steps
from hedgecast.commands.workflow import PARITY_DAYS, Prepared
from hedgecast.learning.study import read_study
from hedgecast.registry.half import PRECISIONS, half_bundle
from hedgecast.registry.store import CANDIDATE, ModelStore


def export(
    study: Annotated[str, typer.Argument(help="The model's study: a file, or the name of a shipped one.")],
    output: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    precision: Annotated[str, typer.Option(help=f"Of the network: {' or '.join(PRECISIONS)}.")] = "float16",
    model: Annotated[
        str | None, typer.Option(help="NAME@VERSION or NAME@ALIAS; default: the study's candidate.")
    ] = None,
    changed: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key; repeatable.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Directory or MLflow address; default: $HEDGECAST_HOME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a model's bundle with its network in half precision, for GPUs, and say what error that makes.

    Noise, scaling and the solver's steps stay in float32. The error against float32 is measured on contexts
    of validation days, here on the CPU, and kept in the new manifest; above a bound nothing is written.
    On the CPU such a bundle is refused unless HEDGECAST_ALLOW_PROVIDER_FALLBACK is set.

    Examples:

    hedgecast export german_grid --output runs/float16

    hedgecast export german_grid --model german_grid@3 --precision bfloat16 --output runs/bfloat16 --json
    """
    console = Console(stderr=as_json)
    steps = Steps(console)
    config = read_study(study, changed or [])
    store = ModelStore(registry)
    version = store.resolve(model or f"{config.name}@{CANDIDATE}")
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        bundle = store.fetch(version.reference, Path(folder))
        with steps.step("read the data"):
            context = Prepared.of(config).validation.context[:PARITY_DAYS]
        with steps.step("export", waiting="tracing the graph"):
            made = half_bundle(bundle, context, precision, output)
    metrics = {name: value for name, value in made.manifest.metrics.items() if name.startswith(precision)}
    if as_json:
        print(json.dumps({"model": version.reference, "output": str(output), **metrics}))
        return
    console.print(f"{version.reference} in {precision}: {output}")
    for name, value in metrics.items():
        console.print(f"  {name.replace('_', ' ')} {value:.1e}")
