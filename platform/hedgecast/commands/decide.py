"""``hedgecast decide``: ask a running service for a plan, from rows in a file."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from hedgecast.client import Client, DecisionAnswer, TlsFiles
from hedgecast.commands.rows import rows_from_file
from hedgecast.core.errors import ConfigError


def decide(
    model: Annotated[str, typer.Option(help="NAME, NAME@ALIAS or NAME@VERSION.")],
    rows: Annotated[Path, typer.Option(help="CSV or Parquet file with the rows before the decision period.")],
    known: Annotated[
        Path | None, typer.Option(help="File with the rows known ahead, one per step of the period.")
    ] = None,
    timestamp: Annotated[str, typer.Option(help="Name of the time column.")] = "timestamp",
    address: Annotated[str, typer.Option(help="HOST:PORT of the service.")] = "127.0.0.1:50051",
    scenarios: Annotated[int, typer.Option(help="Scenarios to draw.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    risk: Annotated[
        str, typer.Option(help="expectation, worst, cvar:ALPHA, mixture:BETA:ALPHA, or regret-cvar:ALPHA.")
    ] = "expectation",
    given: Annotated[
        list[str] | None,
        typer.Option(help="NAME=NUMBER or NAME=[a,b,...]: a parameter known now; repeatable."),
    ] = None,
    authorities: Annotated[Path | None, typer.Option(help="PEM file: makes the channel secure.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds to wait, retries included.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The plan that a running service has for the day that follows the rows of a file.

    The file (CSV or Parquet) has one column `timestamp` (UTC, or with an offset) and one column per series
    of the model; `hedgecast models --address` names them. What is known ahead (a holiday, a
    temperature forecast) comes in a second file with one row per step of the decision period.

    Examples:

        hedgecast decide --model german_grid@champion --rows history.csv

        hedgecast decide --model german_grid --rows history.parquet --risk cvar:0.95 --scenarios 1000 --json
    """
    tls = None if authorities is None else TlsFiles(authorities=authorities)
    # A token on the command line would stand in the process list.
    token = os.environ.get("HEDGECAST_TOKEN")
    with Client(address, token=token, tls=tls, deadline_seconds=deadline) as client:
        wanted = client.model(model)
        past = rows_from_file(rows, timestamp, list(wanted.history_columns))
        ahead = None if known is None else rows_from_file(known, timestamp, list(wanted.known_columns))
        answer = client.decide(
            model,
            history=past.columns,
            history_times=past.times,
            known=None if ahead is None else ahead.columns,
            known_times=None if ahead is None else ahead.times,
            given=_given(given or []),
            scenario_count=scenarios,
            seed=seed,
            risk=risk,
        )
    if as_json:
        print(json.dumps(answer_record(answer)))
    else:
        show(answer, Console())


def answer_record(answer: DecisionAnswer) -> dict[str, Any]:
    """The answer as plain data for JSON; times in ISO 8601, UTC."""
    record: dict[str, Any] = {
        field.name: getattr(answer, field.name)
        for field in dataclasses.fields(answer)
        if field.name not in ("decision", "times", "scenarios", "verdict")
    }
    for name in ("cost_quantiles", "regret_quantiles"):
        record[name] = {str(level): value for level, value in record[name].items()}
    record = {key: dict(value) if hasattr(value, "items") else value for key, value in record.items()}
    record["decision"] = {name: values.tolist() for name, values in answer.decision.items()}
    record["times"] = [f"{np.datetime_as_string(time, unit='s')}Z" for time in answer.times]
    record["verdict"] = dataclasses.asdict(answer.verdict)
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
    for warning in answer.warnings:
        console.print(f"[yellow]warning[/] {warning}")


def _figures(answer: DecisionAnswer) -> list[tuple[str, str]]:
    error = 1.96 * answer.expected_regret_standard_error
    return [
        ("expected cost", f"{answer.expected_cost:.4g}"),
        ("expected regret", f"{answer.expected_regret:.4g} +- {error:.2g} (95 %, Monte Carlo)"),
        *(
            (f"regret, {level:.0%} quantile", f"{value:.4g}")
            for level, value in answer.regret_quantiles.items()
        ),
        (f"regret, mean beyond {answer.tail_level:.0%}", f"{answer.regret_cvar:.4g}"),
        ("value of perfect information", f"{answer.expected_value_of_perfect_information:.4g}"),
        ("value of the stochastic solution", f"{answer.value_of_stochastic_solution:.4g}"),
        (
            "verdict",
            f"{answer.verdict.state.lower()}, primal {answer.verdict.primal_residual:.0e}, "
            f"dual {answer.verdict.dual_residual:.0e}, {answer.verdict.iterations} iterations",
        ),
        ("milliseconds", ", ".join(f"{stage} {1e3 * s:.1f}" for stage, s in answer.durations.items())),
    ]


def _given(pairs: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        try:
            value = json.loads(text)
            given[name] = np.asarray(value, np.float64)
        except (json.JSONDecodeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"--given {pair!r}: write NAME=NUMBER or NAME=[a,b,...], for example capacity=80", given=pair
            ) from error
        if not separator or not name:
            raise ConfigError(f"--given {pair!r}: write NAME=NUMBER", given=pair)
    return given
