"""``hedgecast evaluate``: the planner's own plans against the best one, by a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import typer
from rich.console import Console
from rich.table import Table

from hedgecast.client import Difference, EvaluationAnswer, PlanEvaluation
from hedgecast.commands import question as ask
from hedgecast.core.errors import DataError


def evaluate(
    plans: Annotated[
        list[Path],
        typer.Argument(
            help="Plans: JSON ({variable: values}, or what `decide --json` printed) or CSV with one column a "
            "variable. Named by their file's name."
        ),
    ],
    model: ask.Model,
    rows: ask.Rows,
    known: ask.Known = None,
    timestamp: ask.Timestamp = "timestamp",
    address: ask.Address = ask.ADDRESS,
    scenarios: ask.ScenarioCount = 200,
    seed: ask.Seed = 0,
    risk: ask.RiskText = "expectation",
    given: ask.Given = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals of differences.")] = 0.95,
    authorities: ask.Authorities = None,
    deadline: ask.Deadline = 60.0,
    as_json: ask.AsJson = False,
) -> None:
    """Say whether a plan of yours is worse than the best one, by how much, and whether that is certain.

    All plans meet the same scenarios, on which the best one has not been made.

    Examples:

        hedgecast evaluate mine.json last_week.csv --model german_grid@champion --rows history.csv

        hedgecast evaluate mine.json --model german_grid --rows history.csv --scenarios 1000 --json
    """
    candidates = {path.stem: read_plan(path) for path in plans}
    if len(candidates) < len(plans):
        raise DataError("two plans have files of the same name, and plans are named by it: rename one")
    with ask.connect(address, authorities, deadline) as client:
        asked = ask.question(
            client, model, rows, known, timestamp, given=given, scenarios=scenarios, seed=seed, risk=risk
        )
        answer = client.evaluate(model, candidates, **asked, confidence=confidence)
    if as_json:
        print(json.dumps(ask.plain(answer)))
    else:
        show(answer, Console())


def read_plan(path: Path) -> dict[str, Any]:
    """Variable to values, from a JSON or CSV file.

    Raises
    ------
    DataError
        No such file, or not of a known form.
    """
    try:
        if path.suffix == ".csv":
            table = pyarrow.csv.read_csv(path)
            return {name: np.asarray(table.column(name), np.float64) for name in table.column_names}
        content = json.loads(path.read_text(encoding="utf-8"))
        values = content.get("decision", content)
        return {name: np.asarray(entries, np.float64) for name, entries in values.items()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", file=str(path)) from error
    except (ValueError, TypeError, AttributeError, pa.ArrowInvalid) as error:
        raise DataError(
            f'{path} is no plan: write {{"schedule": [1.0, ...]}} as .json, or a .csv with one column a '
            "variable",
            file=str(path),
        ) from error


def show(answer: EvaluationAnswer, console: Console) -> None:
    """Print the ranking, with what each plan breaks."""
    table = Table(title=f"Plans by {answer.model}, over {answer.scenario_count} scenarios")
    table.add_column("plan")
    for name in ("expected cost", "expected regret", "above the best plan", "above the first"):
        table.add_column(name, justify="right")
    for plan in answer.plans:
        table.add_row(plan.label, *_cells(plan, answer.confidence))
    table.add_row("[dim]best plan[/]", *_cells(answer.best, answer.confidence))
    console.print(table)
    for plan in answer.plans:
        for violation in plan.violations:
            where = f" in {violation.scenarios} scenarios" if violation.scenarios else ""
            amount = "no recourse" if np.isinf(violation.amount) else f"by {violation.amount:.4g}"
            console.print(
                f"[red]{plan.label}[/] breaks {violation.constraint}: {amount}{where}", highlight=False
            )


def _cells(plan: PlanEvaluation, confidence: float) -> list[str]:
    return [
        f"{plan.expected_cost:.5g}",
        f"{plan.expected_regret:.4g}",
        _difference(plan.above_best, confidence),
        _difference(plan.above_leader, confidence),
    ]


def _difference(found: Difference | None, confidence: float) -> str:
    if found is None:
        return "infinite"
    if found.mean == 0.0 and found.standard_error == 0.0:
        return "-"
    certain = "" if found.certain else ", not certain"
    low, high = found.lower_bound, found.upper_bound
    return f"{found.mean:+.4g} [{low:+.4g}, {high:+.4g}] ({confidence:.0%}{certain})"
