"""``hedgecast performance``: what a served version's decisions were worth, by their outcomes."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hedgecast.client import ModelPerformance
from hedgecast.commands import question as ask

_MEANS = {
    "regret": "realized regret",
    "regret_excess": "less what had been expected",
    "cost": "realized cost",
    "cost_excess": "less what had been expected",
}
_COLOURS = {"IN_BAND": "green", "OUT_OF_BAND": "red"}


def performance(
    name: Annotated[str, typer.Argument(help="NAME, NAME@ALIAS or NAME@VERSION.")],
    address: ask.Address = ask.ADDRESS,
    authorities: ask.Authorities = None,
    deadline: ask.Deadline = 60.0,
    as_json: ask.AsJson = False,
) -> None:
    """What the decisions of a version were worth, by the outcomes that a running service recorded.

    Regret and cost with standard errors, the coverage of each quantile with its band, drift, and what the
    canary's outcomes recommend. The token comes from `HEDGECAST_TOKEN`.

    Examples:

    hedgecast performance german_grid@champion

    hedgecast performance german_grid@7 --address decisions.example.com:50051 --authorities ca.crt
    --json
    """
    with ask.connect(address, authorities, deadline) as client:
        found = client.performance(name)
    if as_json:
        print(json.dumps(ask.plain(found)))
    else:
        show(found, Console())


def show(found: ModelPerformance, console: Console) -> None:
    """Print the figures, the coverages and what follows from them."""
    figures = Table("", "mean", "standard error", title=f"{found.name}: {found.outcomes} outcomes")
    for field, label in _MEANS.items():
        mean = getattr(found, field)
        figures.add_row(label, _figure(mean.mean), _figure(mean.standard_error))
    console.print(figures)
    title = f"What came true at or below each quantile, latest {found.regret.count} outcomes"
    coverages = Table("series", "quantile", "found", "to expect", "band", "", title=title)
    for item in found.coverages:
        coverages.add_row(
            item.series,
            f"{item.level:.1%}",
            f"{item.covered_share:.1%}",
            f"{item.expected_share:.1%}",
            f"{item.lower_bound:.1%} to {item.upper_bound:.1%}",
            _state(item.state),
        )
    console.print(coverages)
    for line in conclusions(found):
        console.print(line, markup=False, highlight=False)


def conclusions(found: ModelPerformance) -> list[str]:
    """The sentences below the tables."""
    drift, canary = found.drift, found.canary
    known = not math.isnan(drift.p_value)
    word = "drifted" if drift.drifted else "no drift" if known else "too few outcomes to tell of drift"
    shifts = f": location {drift.location:+.3g}, spread {drift.spread:+.3g}, p = {drift.p_value:.2g}"
    lines = [f"costs within their laws: {word}{shifts if known else ''}"]
    if found.warning:
        lines.append(f"warning: {found.warning}")
    if canary is not None:
        action = canary.action.lower().replace("_", " ")
        lines.append(f"canary {canary.name}: {action}; {canary.reason}")
    return lines


def _figure(value: float) -> str:
    return "too few" if math.isnan(value) else f"{value:.5g}"


def _state(state: str) -> str:
    text = state.lower().replace("_", " ")
    colour = _COLOURS.get(state)
    return text if colour is None else f"[{colour}]{text}[/]"
