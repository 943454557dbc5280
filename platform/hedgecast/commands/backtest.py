"""``hedgecast backtest``: every method on the test days."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hedgecast.commands.steps import Steps, peak_memory_mib
from hedgecast.commands.workflow import BASELINE, Evaluation, Prepared, evaluate, fit_methods
from hedgecast.core.errors import ConfigError
from hedgecast.learning.methods import METHODS, check_method
from hedgecast.learning.study import read_study


def backtest(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    methods: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(METHODS),
    scenarios: Annotated[int, typer.Option(help="Scenarios of each day, for all methods.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of scenarios and intervals.")] = 0,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare methods by the realized cost of their decisions on the test days.

    Intervals are 95 %, paired by day against ridge with residual scenarios, over blocks of a week.

    Examples:

    hedgecast backtest german_grid

    hedgecast backtest my_study.toml --methods point,ridge-residual --scenarios 1000 --json
    """
    console = Console(stderr=as_json)
    steps = Steps(console)
    config = read_study(study, changes or [])
    names = _names(methods)
    with steps.step("read the data"):
        prepared = Prepared.of(config)
    with steps.step("train"):
        fitted = fit_methods(prepared, names, console)
    with steps.step("decide every test day"):
        evaluation = evaluate(
            prepared, prepared.split.test, fitted, count=scenarios, seed=seed, console=console
        )
    if as_json:
        record = {
            "study": config.to_dict(),
            "counts": prepared.counts(),
            "scenarios": scenarios,
            "seed": seed,
            "baseline": BASELINE,
            "methods": evaluation.records(),
            "days": evaluation.backtest.records(),
            "seconds": steps.seconds,
            "peak_memory_mib": peak_memory_mib(),
        }
        print(json.dumps(record))
    else:
        console.print(table_of(evaluation))


def table_of(evaluation: Evaluation) -> Table:
    """The methods as a table for the terminal."""
    days = len(evaluation.backtest.days)
    table = Table(title=f"Realized cost per day over {days} days")
    table.add_column("method", no_wrap=True)
    for heading in ("count", "cost", "to baseline", "regret", "CRPS", "in 90 %"):
        table.add_column(heading, justify="right")
    for row in evaluation.rows:
        realism, difference = evaluation.realism[row.label], row.difference
        table.add_row(
            row.label,
            str(row.num_scenarios),
            _figure(row.cost),
            "baseline"
            if row.is_baseline
            else f"{_figure(difference.mean)} [{_figure(difference.low)}, {_figure(difference.high)}]",
            _figure(row.regret),
            f"{realism.crps:.4g}",
            "-" if row.num_scenarios == 1 else f"{realism.coverage:.1%}",
        )
    return table


def _figure(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 10_000 else f"{value:,.0f}"


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--methods {text!r} names none: choose from {', '.join(METHODS)}", key="methods")
    for name in names:
        check_method(name)
    # The baseline is always there: differences are taken against it.
    return names if BASELINE in names else (BASELINE, *names)
