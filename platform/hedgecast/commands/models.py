"""``hedgecast models``: what is registered, what is served, what may be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from hedgecast.core.errors import GateRefusedError
from hedgecast.registry.checks import Check, Rule
from hedgecast.registry.store import ModelStore, ModelVersion

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

    The first champion may not be shown worse than ridge with residual scenarios on its validation days; a
    later one must be shown better than the champion it replaces, by the 95 % paired interval of both models'
    regrets on the same days. A student of the champion (hedgecast distill) must be shown to lose less than
    2 % of its teacher's regret and scores, need fewer network calls and draw its teacher's scenarios from the
    same noise. In every case the scenarios must be real. A refusal (exit code 2) names each check, its figure
    and its bound.

    Examples:

    hedgecast models promote german_grid@candidate

    hedgecast models promote german_grid@7 --json
    """
    outcome = try_promotion(ModelStore(registry), reference)
    if as_json:
        print(json.dumps(outcome.to_dict()))
    else:
        show_checks(outcome.checks, Console())
        print(outcome)
    if outcome.refusal is not None:
        raise typer.Exit(2)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a promotion."""

    version: ModelVersion
    """The version that was to be champion, as it now stands."""
    replaced: ModelVersion | None
    """The champion before it, where it gave way."""
    checks: tuple[Check, ...]
    """All that were made."""
    refusal: str | None
    """Why it is not champion; None: it is."""
    rule: Rule
    """What it was held to."""

    def __str__(self) -> str:
        if self.refusal is not None:
            return self.refusal
        instead = "" if self.replaced is None else f" instead of {self.replaced.reference}"
        student = ", as its student" if self.rule == "student" else ""
        return f"{self.version.reference} is now champion{instead}{student}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.version.reference,
            "champion": self.refusal is None,
            "replaced": None if self.replaced is None else self.replaced.reference,
            "rule": self.rule,
            "refusal": self.refusal,
            "checks": [check.to_dict() for check in self.checks],
        }


def try_promotion(store: ModelStore, reference: str) -> Outcome:
    """Promote a version if it passes its checks, and say what came of it."""
    try:
        found = store.promote(reference)
    except GateRefusedError as error:
        return Outcome(
            version=store.resolve(reference),
            replaced=None,
            checks=cast("tuple[Check, ...]", error.facts["checks"]),
            refusal=str(error),
            rule=cast("Rule", error.facts["rule"]),
        )
    return Outcome(
        version=found.version,
        replaced=found.replaced,
        checks=found.checks,
        refusal=None,
        rule=found.rule,
    )


def show_checks(checks: Sequence[Check], console: Console) -> None:
    """Print each check with its figure, its bound and whether it holds."""
    table = Table("check", "figure", "bound", "")
    for check in checks:
        mark = "[green]holds[/]" if check.passed else "[red]fails[/]"
        table.add_row(check.name, f"{check.figure:.4g}", f"{check.relation} {check.bound:.4g}", mark)
    console.print(table)
