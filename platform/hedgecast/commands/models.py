"""``hedgecast models``: what is registered, what is served, what may be."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hedgecast.registry.checks import Check, gate_checks
from hedgecast.registry.store import ModelStore

app = typer.Typer(no_args_is_help=True, help="Registered models and their promotion.")

_Registry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        help="Directory of the embedded registry or address of an MLflow server; default: $HEDGECAST_HOME.",
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_models(registry: _Registry = None, as_json: _AsJson = False) -> None:
    """All registered versions.

    Example: hedgecast models list --json
    """
    versions = ModelStore(registry).versions()
    if as_json:
        print(json.dumps([dataclasses.asdict(version) for version in versions]))
        return
    table = Table("model", "version", "aliases", "fingerprint", "program")
    for version in versions:
        table.add_row(
            version.name,
            str(version.version),
            ", ".join(version.aliases),
            version.tags.get("fingerprint", "")[:12],
            version.tags.get("program", ""),
        )
    Console().print(table if versions else "no model is registered yet: hedgecast train STUDY.toml")


@app.command()
def promote(
    reference: Annotated[str, typer.Argument(help="NAME@candidate or NAME@VERSION.")],
    registry: _Registry = None,
    as_json: _AsJson = False,
) -> None:
    """Move `champion` to a version, when it passes every check.

    Example: hedgecast models promote german_grid@candidate
    """
    store = ModelStore(registry)
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        metrics = store.fetch(reference, Path(folder)).manifest.metrics
    checks = gate_checks(metrics)
    if not as_json:
        show_checks(checks, Console())
    version = store.promote(reference, checks)
    if as_json:
        print(
            json.dumps(
                {"champion": version.reference, "checks": [dataclasses.asdict(check) for check in checks]}
            )
        )
    else:
        Console().print(f"{version.reference} is now champion")


def show_checks(checks: list[Check], console: Console) -> None:
    """Print each check with its figure, its bound and whether it holds."""
    table = Table("check", "figure", "bound", "")
    for check in checks:
        mark = "[green]holds[/]" if check.passed else "[red]fails[/]"
        table.add_row(check.name, f"{check.figure:.4g}", f"{check.relation} {check.bound:g}", mark)
    console.print(table)
