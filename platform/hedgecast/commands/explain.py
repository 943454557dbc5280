"""``hedgecast explain``: which scenarios drive a plan, and what it would be without hedge."""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from hedgecast.client import ExplanationAnswer
from hedgecast.commands import question as ask


def explain(
    model: ask.Model,
    rows: ask.Rows,
    known: ask.Known = None,
    timestamp: ask.Timestamp = "timestamp",
    address: ask.Address = ask.ADDRESS,
    scenarios: ask.ScenarioCount = 200,
    seed: ask.Seed = 0,
    risk: ask.RiskText = "expectation",
    given: ask.Given = None,
    top: Annotated[int, typer.Option(help="Most influential scenarios to show.")] = 10,
    authorities: ask.Authorities = None,
    deadline: ask.Deadline = 60.0,
    as_json: ask.AsJson = False,
) -> None:
    """Which scenarios drive the plan, and what the same plan without hedge would cost.

    Examples:

        hedgecast explain --model german_grid@champion --rows history.csv

        hedgecast explain --model german_grid --rows history.csv --risk cvar:0.9 --top 5 --json
    """
    with ask.connect(address, authorities, deadline) as client:
        asked = ask.question(
            client, model, rows, known, timestamp, given=given, scenarios=scenarios, seed=seed, risk=risk
        )
        answer = client.explain(model, **asked, top_scenarios=top)
    if as_json:
        print(json.dumps(ask.plain(answer)))
    else:
        show(answer, Console())


def show(answer: ExplanationAnswer, console: Console) -> None:
    """Print what the hedge is worth and which scenarios move the plan."""
    figures = Table(title=f"The plan of {answer.model} and the same without hedge", show_header=False)
    hedge = answer.unhedged_expected_cost - answer.expected_cost
    figures.add_row("expected cost of the plan", f"{answer.expected_cost:.5g}")
    figures.add_row("of the plan for the mean scenario", f"{answer.unhedged_expected_cost:.5g}")
    figures.add_row("what that one was planned to cost", f"{answer.unhedged_planned_cost:.5g}")
    figures.add_row("worth of the hedge", f"{hedge:.4g}")
    for name, values in answer.decision.items():
        change = values - answer.unhedged_decision[name]
        figures.add_row(f"{name}: mean hedge", f"{change.mean():+.4g} (largest {_largest(change):+.4g})")
    console.print(figures)
    title = f"Scenarios that drive it, of {answer.scenario_count}"
    table = Table("scenario", "probability", "cost", "moves the plan by", "most at", title=title)
    for influence in answer.influences:
        name, values = max(influence.shift.items(), key=lambda item: float(np.abs(item[1]).max()))
        where = np.unravel_index(int(np.abs(values).argmax()), values.shape)
        place = f"{name}[{', '.join(str(int(i)) for i in where)}] {_largest(values):+.4g}"
        table.add_row(
            str(influence.scenario),
            f"{influence.probability:.4g}",
            f"{influence.cost:.5g}",
            f"{influence.magnitude:.4g}",
            place,
        )
    console.print(table)


def _largest(values: np.ndarray) -> float:
    return float(values.flat[int(np.abs(values).argmax())])
