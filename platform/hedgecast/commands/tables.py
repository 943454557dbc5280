"""Tables of methods for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hedgecast.commands.workflow import Evaluation
from hedgecast.report.comparison import (
    EFFORT_HEADINGS,
    Results,
    decision_cells,
    decision_headings,
    effort_cells,
    figure,
    realism_names,
    spread,
)


def table_of(evaluation: Evaluation) -> Table:
    """Methods that were trained in this process, on the same days."""
    days = len(evaluation.backtest.days)
    headings = ("count", "cost", "to baseline", "regret", "CRPS", "in 90 %")
    table = _empty(f"Realized cost per day over {days} days", headings)
    for row in evaluation.rows:
        realism, difference = evaluation.realism[row.label], row.difference
        table.add_row(
            row.label,
            str(row.num_scenarios),
            figure(row.cost),
            "baseline" if row.is_baseline else spread(difference.mean, (difference.low, difference.high)),
            figure(row.regret),
            f"{realism.crps:.4g}",
            "-" if row.num_scenarios == 1 else f"{realism.coverage:.1%}",
        )
    return table


def results_tables(results: Results, num_scenarios: int) -> tuple[Table, Table]:
    """A comparison of trials at one number of scenarios: what was decided, and how real and costly it was."""
    entries = results.at(num_scenarios)
    realism = realism_names(entries, headlines=True)
    decisions = _empty(f"{results.title}, {results.counted(num_scenarios)}", decision_headings(results))
    effort = _empty("Realism and effort", [*realism.values(), *EFFORT_HEADINGS])
    for entry in entries:
        decisions.add_row(entry.label, *decision_cells(entry, interval=False))
        effort.add_row(entry.label, *effort_cells(entry, realism))
    return decisions, effort


def _empty(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=heading.startswith("less"))
    return table
