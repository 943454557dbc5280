"""``hedgecast decide``: ask a running service for a plan, from rows in a file."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from hedgecast.client import DecisionAnswer
from hedgecast.commands import question as ask


def decide(
    model: ask.Model,
    rows: ask.Rows,
    known: ask.Known = None,
    timestamp: ask.Timestamp = "timestamp",
    address: ask.Address = ask.ADDRESS,
    scenarios: ask.ScenarioCount = 200,
    seed: ask.Seed = 0,
    risk: ask.RiskText = "expectation",
    given: ask.Given = None,
    gap_replications: Annotated[
        int | None,
        typer.Option(
            help="Fresh samples for the optimality gap's interval; 0: none; default: the service's."
        ),
    ] = None,
    authorities: ask.Authorities = None,
    deadline: ask.Deadline = 60.0,
    as_json: ask.AsJson = False,
) -> None:
    """The plan that a running service has for the day that follows the rows of a file.

    The file (CSV or Parquet) has one column `timestamp` (UTC, or with an offset) and one column per series
    of the model. What is known ahead (a holiday, a temperature forecast) comes in a second file with one row
    per step of the decision period.

    Examples:

        hedgecast decide --model german_grid@champion --rows history.csv

        hedgecast decide --model german_grid --rows history.parquet --risk cvar:0.95 --scenarios 1000 --json
    """
    with ask.connect(address, authorities, deadline) as client:
        asked = ask.question(
            client, model, rows, known, timestamp, given=given, scenarios=scenarios, seed=seed, risk=risk
        )
        answer = client.decide(model, **asked, gap_replications=gap_replications)
    if as_json:
        print(json.dumps(answer_record(answer)))
    else:
        show(answer, Console())


def answer_record(answer: DecisionAnswer) -> dict[str, Any]:
    """The answer as plain data for JSON, without the scenarios."""
    record: dict[str, Any] = ask.plain(answer)
    del record["scenarios"]
    return record


def show(answer: DecisionAnswer, console: Console) -> None:
    """Print the plan and what it is expected to cost."""
    per_step = {name: values for name, values in answer.decision.items() if values.ndim == 1}
    plan = Table(title=f"Plan of {answer.model}, program {answer.program}")
    plan.add_column("UTC")
    for name in per_step:
        plan.add_column(f"{name} {answer.units.get(name, '')}".strip(), justify="right")
    for position, time in enumerate(answer.times):
        cells = [
            f"{values[position]:.3f}" for values in per_step.values() if len(values) == len(answer.times)
        ]
        plan.add_row(np.datetime_as_string(time, unit="m").replace("T", " "), *cells)
    console.print(plan)
    figures = Table(title=f"What it costs, over {answer.scenario_count} scenarios", show_header=False)
    for label, value in _figures(answer):
        figures.add_row(label, value)
    console.print(figures)
    if answer.prices:
        console.print(_prices(answer))
    for warning in answer.warnings:
        console.print(f"[yellow]warning[/] {warning}")


def _prices(answer: DecisionAnswer) -> Table:
    table = Table("constraint that binds", "entries", "largest shadow price", title="What limits the plan")
    for price in answer.prices:
        largest = price.values.flat[int(np.abs(price.values).argmax())]
        where = " (in every scenario)" if price.recourse else ""
        table.add_row(f"{price.constraint}{where}", str(np.count_nonzero(price.values)), f"{largest:.4g}")
    return table


def _figures(answer: DecisionAnswer) -> list[tuple[str, str]]:
    error = 1.96 * answer.expected_regret_standard_error
    gap = answer.gap
    return [
        ("expected cost", f"{answer.expected_cost:.4g}"),
        ("expected regret", f"{answer.expected_regret:.4g} +- {error:.2g} (95 %, Monte Carlo)"),
        *(
            []
            if gap is None
            else [
                (
                    "from the best plan, by the model",
                    f"at most {gap.upper_bound:.4g} ({gap.confidence:.0%}, {gap.replications} fresh samples)",
                )
            ]
        ),
        *(
            (f"regret, {level:.0%} quantile", f"{value:.4g}")
            for level, value in answer.regret_quantiles.items()
        ),
        (f"regret, mean beyond {answer.tail_level:.0%}", f"{answer.regret_cvar:.4g}"),
        ("value of perfect information", f"{answer.expected_value_of_perfect_information:.4g}"),
        ("value of the stochastic solution", f"{answer.value_of_stochastic_solution:.4g}"),
        *(
            (f"one unit more of {name}", f"{slopes.item():+.4g}")
            for name, slopes in answer.sensitivities.items()
            if slopes.size == 1
        ),
        (
            "verdict",
            f"{answer.verdict.state.lower()}, primal {answer.verdict.primal_residual:.0e}, "
            f"dual {answer.verdict.dual_residual:.0e}, {answer.verdict.iterations} iterations",
        ),
        ("milliseconds", ", ".join(f"{stage} {1e3 * s:.1f}" for stage, s in answer.durations.items())),
    ]
