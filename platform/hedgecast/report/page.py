"""One HTML file and its pictures: what was decided, against which scenarios, at what cost.

The pictures are also written as PNG files beside the page; the page embeds them, so that it can be
mailed as one file. Nothing here computes a result: every number comes in.
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure

from hedgecast.report.realism import realism_chart, realism_table
from hedgecast.report.style import BLUE, GREEN, GREY, ORANGE, RED, picture
from hedgecast.scenarios.realism import Realism

_BANDS = ((0.025, 0.975, 0.15), (0.10, 0.90, 0.22), (0.25, 0.75, 0.30))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DayPicture:
    """One day: its scenarios, the decision, and what happened."""

    times: np.ndarray
    """(T,) datetime64, local clock, start of each step."""
    scenarios: np.ndarray
    """(S, T)."""
    decision: np.ndarray
    """(T,)."""
    realized: np.ndarray
    """(T,)."""
    regret: np.ndarray
    """(S,) regret of the decision under each scenario."""
    realized_regret: float
    """Regret of the decision on the real day."""
    quantity: str
    """What is uncertain, in words."""
    decision_name: str
    """What is decided, in words."""
    unit: str
    """Of scenarios, decision and realized."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodRow:
    """One method's line in the table: means over the test days, with paired intervals."""

    label: str
    cost: float
    """Mean realized cost per day."""
    regret: float
    """Mean realized regret per day."""
    difference: float
    """Mean cost less the baseline's, same days."""
    interval: tuple[float, float]
    """95 % paired bootstrap interval of the difference."""
    crps: float
    """Mean CRPS over steps, in the unit of the data; NaN for a single scenario."""
    coverage: float
    """Share of steps inside the central 90 % of the scenarios; NaN for a single scenario."""
    baseline: bool = False
    """Whether the others are compared with this one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Everything that a report shows."""

    title: str
    lead: str
    """One paragraph: what was done, on which days."""
    day: DayPicture
    rows: Sequence[MethodRow]
    num_days: int
    """Days in the table."""
    num_scenarios: int
    """Scenarios of each method and day."""
    facts: Mapping[str, Mapping[str, Any]]
    """Small tables: heading to name to value."""
    notes: Sequence[str] = ()
    """What the reader should know when reading the figures."""
    realism: Mapping[str, Realism] = dataclasses.field(default_factory=dict)
    """How real each method's scenarios are, by label; none: the page has no such section."""
    transfer: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Regret per day on the second decision, by label."""


def write_report(folder: Path, page: Page) -> Path:
    """Path of ``report.html``, written in ``folder`` with its pictures beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "fan_chart": fan_chart(page.day),
        "schedule": schedule_chart(page.day),
        "regret": regret_chart(page.day),
        "methods": methods_chart(page.rows),
    }
    if page.realism:
        figures["realism"] = realism_chart(page.realism)
    images = {}
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=130)
        images[name] = base64.b64encode(path.read_bytes()).decode("ascii")
    report = folder / "report.html"
    report.write_text(_html(page, images), encoding="utf-8")
    return report


def fan_chart(day: DayPicture) -> Figure:
    """Central bands of the scenarios by time, some single paths, and the realized day."""
    figure, (axes,) = picture()
    for low, high, alpha in _BANDS:
        lower, upper = np.quantile(day.scenarios, [low, high], axis=0)
        axes.fill_between(
            day.times, lower, upper, color=BLUE, alpha=alpha, lw=0, label=f"central {high - low:.0%}"
        )
    axes.plot(day.times, day.scenarios[:8].T, color=BLUE, lw=0.6, alpha=0.6)
    axes.plot(day.times, day.realized, color="black", lw=2, label="realized")
    axes.set_title(f"{day.scenarios.shape[0]} scenarios of {day.quantity}")
    _finish_time_axis(axes, day.unit)
    return figure


def schedule_chart(day: DayPicture) -> Figure:
    """The decision against the realized day and the scenarios' range."""
    figure, (axes,) = picture()
    lower, upper = np.quantile(day.scenarios, [0.005, 0.995], axis=0)
    axes.fill_between(day.times, lower, upper, color=BLUE, alpha=0.15, lw=0, label="99 % of scenarios")
    axes.step(day.times, day.decision, where="mid", color=ORANGE, lw=2.2, label=day.decision_name)
    axes.plot(day.times, day.realized, color="black", lw=2, label="realized")
    short = day.realized > day.decision
    if short.any():
        axes.plot(day.times[short], day.realized[short], "o", color=RED, label="short")
    axes.set_title(f"The {day.decision_name} and what was needed")
    _finish_time_axis(axes, day.unit)
    return figure


def regret_chart(day: DayPicture) -> Figure:
    """How the regret of the decision is distributed over the scenarios."""
    figure, (axes,) = picture()
    axes.hist(day.regret, bins=40, color=BLUE, alpha=0.75)
    axes.axvline(day.regret.mean(), color=ORANGE, lw=2.2, label=f"expected {day.regret.mean():.4g}")
    high = float(np.quantile(day.regret, 0.95))
    axes.axvline(high, color=GREY, lw=1.6, ls="--", label=f"95 % quantile {high:.4g}")
    axes.axvline(day.realized_regret, color="black", lw=2, label=f"realized {day.realized_regret:.4g}")
    axes.set_title("Regret of the decision under the scenarios")
    axes.set_xlabel("cost above the cost with perfect foresight")
    axes.set_ylabel("scenarios")
    axes.legend(frameon=False)
    return figure


def methods_chart(rows: Sequence[MethodRow]) -> Figure:
    """Cost of each method less the baseline's, with 95 % paired intervals."""
    figure, (axes,) = picture(height=1.1 + 0.55 * len(rows))
    for position, row in enumerate(reversed(rows)):
        color = (
            GREY if row.baseline else (GREEN if row.interval[1] < 0 else RED if row.interval[0] > 0 else BLUE)
        )
        low, high = row.interval
        axes.plot([low, high], [position, position], color=color, lw=3, solid_capstyle="butt")
        axes.plot([row.difference], [position], "o", color=color, ms=8)
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    baseline = next((row.label for row in rows if row.baseline), "the baseline")
    axes.set_xlabel(f"realized cost per day less that of {baseline} (left is better)")
    # Where one method is far off, the others must stay readable.
    spread = max((abs(bound) for row in rows for bound in row.interval), default=1.0)
    typical = np.median([abs(bound) for row in rows for bound in row.interval if not row.baseline] or [1.0])
    if spread > 20 * typical > 0:
        axes.set_xscale("symlog", linthresh=float(typical))
    return figure


def _finish_time_axis(axes: Any, unit: str) -> None:
    axes.set_ylabel(unit)
    axes.set_xlabel("local time")
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.legend(frameon=False, ncols=2)


_STYLE = """
body{font:16px/1.55 system-ui,sans-serif;color:#111827;max-width:60rem;margin:2.5rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.3rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .6rem;border-bottom:1px solid #e5e7eb;text-align:right}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #9ca3af}
img{max-width:100%;height:auto}.lead{color:#374151}.note{color:#6b7280;font-size:.92rem}
.base td{background:#f3f4f6}
.wide{font-size:.85rem}.wide td,.wide th{padding:.35rem .3rem}
.grid td{overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1.2rem}
"""


def _html(page: Page, images: Mapping[str, str]) -> str:
    def embedded(name: str, text: str) -> str:
        return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{images[name]}">'

    facts = "".join(_fact_table(heading, table) for heading, table in page.facts.items())
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in page.notes)
    realism = ""
    if page.realism:
        realism = (
            f"<h2>How real the scenarios are</h2>{realism_table(page.realism, page.transfer)}"
            f"{embedded('realism', 'rank histograms and coverage of each method')}"
        )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{html.escape(page.title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(page.title)}</h1>
<p class="lead">{html.escape(page.lead)}</p>
<h2>The scenarios, and the day as it came</h2>
{embedded("fan_chart", "fan chart of the scenarios with the realized day")}
<h2>The decision</h2>
{embedded("schedule", "the schedule against the realized day")}
<h2>Its regret</h2>
{embedded("regret", "histogram of the regret over the scenarios")}
<h2>Over {page.num_days} test days, {page.num_scenarios} scenarios each</h2>
{_method_table(page.rows)}
{embedded("methods", "cost of each method less the baseline with intervals")}
{realism}
<ul class="note">{notes}</ul>
<div class="grid">{facts}</div>
</body></html>
"""


def _method_table(rows: Sequence[MethodRow]) -> str:
    body = []
    for row in rows:
        low, high = row.interval
        difference = "baseline" if row.baseline else f"{row.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
        cells = [
            html.escape(row.label),
            f"{row.cost:.2f}",
            difference,
            f"{row.regret:.2f}",
            _or_dash(row.crps, "{:.3f}"),
            _or_dash(row.coverage, "{:.1%}"),
        ]
        style = ' class="base"' if row.baseline else ""
        body.append(f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("method", "realized cost per day", "difference, 95 % paired", "regret", "CRPS", "90 % coverage")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _fact_table(heading: str, table: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(_text(value))}</td></tr>"
        for name, value in table.items()
    )
    return f"<section><h2>{html.escape(heading)}</h2><table><tbody>{rows}</tbody></table></section>"


def _or_dash(value: float, form: str) -> str:
    return "-" if np.isnan(value) else form.format(value)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
