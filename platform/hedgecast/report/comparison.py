"""A comparison of methods as JSON, Markdown and a picture."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hedgecast.report.style import BLUE, GREEN, GREY, RED, picture

FORMAT = 1
"""Of the JSON file."""
NAMES = ("results.json", "results.md", "results.png")
_REALISM_HEADINGS = {
    "crps": "CRPS",
    "crps_tails": "tail CRPS",
    "energy_score": "energy",
    "variogram_score": "variogram",
    "coverage": "in 90 %",
    "pit_distance": "PIT distance",
    "pit_p_value": "PIT p",
    "increment_distance": "ramps",
    "autocorrelation_distance": "autocorrelation",
    "two_sample_auc": "AUC",
    "diversity_ratio": "diversity",
    "transfer_regret": "second regret",
}
HEADLINES = ("crps", "coverage", "two_sample_auc", "diversity_ratio")
"""Realism figures for a narrow table: sharpness, honesty, likeness, variety."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One method at one number of scenarios."""

    label: str
    num_scenarios: int
    """Asked for, to decide on; methods of one scenario have one whatever is asked for."""
    drawn: int
    """For each day; more than decided on where few stand for many."""
    num_days: int
    num_seeds: int
    cost: float
    """Mean realized cost per day."""
    cost_interval: tuple[float, float]
    regret: float
    """Mean cost above that of the day known ahead."""
    relative_regret: float
    cost_cvar: float
    """Of the worst tenth of days."""
    expected_cost: float
    """What the scenarios made the method expect."""
    difference: float
    """Mean cost less the baseline's, same days and number of scenarios."""
    difference_interval: tuple[float, float]
    is_baseline: bool
    seed_costs: tuple[float, ...]
    """Mean cost of each seed."""
    seed_deviation: float | None
    """Standard deviation of ``seed_costs``."""
    realism: Mapping[str, float]
    """Means over seeds."""
    train_seconds: float
    """Mean over seeds."""
    decide_seconds: float
    """Drawing and solving all test days, mean over seeds."""
    peak_memory_mib: float
    """Largest over seeds, of a process that did nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two methods on the same days."""

    label: str
    other: str
    num_scenarios: int
    difference: float
    """Mean cost of ``label`` less that of ``other``."""
    interval: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Everything that a comparison found."""

    title: str
    baseline: str
    level: float
    """Of all intervals."""
    block_days: int
    """Of their bootstrap."""
    seeds: tuple[int, ...]
    days: tuple[str, str]
    """First and last."""
    entries: Sequence[Entry]
    pairs: Sequence[Pair]
    failures: Sequence[Mapping[str, Any]]
    """Trials that ended with an error: label, seed, message, log."""
    facts: Mapping[str, Any]
    """Study, counts of days, versions, machine."""

    @property
    def scenario_counts(self) -> tuple[int, ...]:
        """Numbers of scenarios, in order."""
        return tuple(sorted({entry.num_scenarios for entry in self.entries}))

    def at(self, num_scenarios: int) -> list[Entry]:
        """The entries of one number of scenarios."""
        return [entry for entry in self.entries if entry.num_scenarios == num_scenarios]

    def counted(self, num_scenarios: int) -> str:
        """That number in words, with how many were drawn where those stand for more."""
        drawn = max(entry.drawn for entry in self.at(num_scenarios))
        text = f"{num_scenarios} scenarios"
        return f"{text} for {drawn:,} drawn" if drawn > num_scenarios else text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite becomes null."""
        plain: dict[str, Any] = _finite({"format": FORMAT, **dataclasses.asdict(self)})
        return plain


def write_results(folder: Path, results: Results) -> tuple[Path, ...]:
    """The three files in ``folder``, each replaced as a whole."""
    image = io.BytesIO()
    results_chart(results).savefig(image, format="png", dpi=150)
    contents = (
        (json.dumps(results.to_dict(), indent=2, allow_nan=False) + "\n").encode(),
        results_markdown(results).encode(),
        image.getvalue(),
    )
    paths = tuple(folder / name for name in NAMES)
    for path, content in zip(paths, contents, strict=True):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        os.replace(partial, path)
    return paths


def results_markdown(results: Results) -> str:
    """The tables, one for each number of scenarios, and what they mean."""
    first, last = results.days
    lines = [f"# {results.title}", ""]
    for count in results.scenario_counts:
        entries = results.at(count)
        realism = realism_names(entries)
        lines += [f"## {results.counted(count)}", ""]
        lines += _table(
            ["method", *decision_headings(results)], [[e.label, *decision_cells(e)] for e in entries]
        )
        heads = ["method", *realism.values(), *EFFORT_HEADINGS]
        lines += _table(heads, [[e.label, *effort_cells(e, realism)] for e in entries])
        pairs = [pair for pair in results.pairs if pair.num_scenarios == count]
        if pairs:
            lines += ["Cost per day of every two methods:", ""]
            rows = [[f"{p.label} less {p.other}", spread(p.difference, p.interval)] for p in pairs]
            lines += _table(["methods", "difference"], rows)
    num_days = results.entries[0].num_days if results.entries else 0
    lines += [
        f"{num_days} test days, {first} to {last}; seeds {', '.join(map(str, results.seeds))}. Intervals: "
        f"{results.level:.0%}, over days, by a bootstrap of blocks of {results.block_days} days on the mean "
        "over seeds, differences paired by day. The seed s.d. is that of the seeds' mean costs. Each seed "
        "trained afresh in a process of its own, whose seconds and peak memory these are. All methods had "
        "the same days, numbers of scenarios and settings; none was tuned here.",
        "",
    ]
    for failure in results.failures:
        lines += [f"Failed: {failure['label']}, seed {failure['seed']}: {failure['message']}", ""]
    return "\n".join(lines)


def results_chart(results: Results) -> Figure:
    """Cost less the baseline's, interval over days and one mark a seed, one column a number of scenarios."""
    counts = results.scenario_counts
    labels = list(dict.fromkeys(entry.label for entry in results.entries))
    figure, axes = picture(height=1.6 + 0.5 * len(labels), columns=max(len(counts), 1))
    for axis, count in zip(axes, counts, strict=False):
        entries = results.at(count)
        base = {entry.label: entry for entry in entries}[results.baseline]
        for entry in entries:
            place = len(labels) - 1 - labels.index(entry.label)
            low, high = entry.difference_interval
            color = GREY if entry.is_baseline else GREEN if high < 0 else RED if low > 0 else BLUE
            axis.plot([low, high], [place, place], color=color, lw=3, solid_capstyle="butt")
            axis.plot([entry.difference], [place], "o", color=color, ms=8)
            if len(entry.seed_costs) > 1:
                marks = [cost - base.cost for cost in entry.seed_costs]
                axis.plot(marks, [place - 0.22] * len(marks), "|", color=color, ms=7)
        axis.axvline(0, color="black", lw=1)
        axis.set_title(results.counted(count))
        axis.set_xlabel(f"cost per day less {results.baseline}")
        _keep_readable(axis, entries)
    axes[0].set_yticks(range(len(labels)), list(reversed(labels)))
    axes[0].set_ylim(-0.6, len(labels) - 0.4)
    return figure


def realism_names(entries: Sequence[Entry], *, headlines: bool = False) -> dict[str, str]:
    """Realism figures that any entry has, with their headings; ``headlines``: of `HEADLINES` only."""
    names = dict.fromkeys(name for entry in entries for name in entry.realism)
    if headlines:
        names = dict.fromkeys(name for name in HEADLINES if name in names)
    return {name: _REALISM_HEADINGS.get(name, name.replace("_", " ")) for name in names}


def decision_headings(results: Results) -> list[str]:
    """Of `decision_cells`."""
    return ["cost per day", f"less {results.baseline}", "regret", "seed s.d."]


def decision_cells(entry: Entry, *, interval: bool = True) -> list[str]:
    """What the decisions of one entry cost; ``interval``: with that of the cost itself."""
    low, high = entry.cost_interval
    return [
        f"{figure(entry.cost)} [{figure(low)}, {figure(high)}]" if interval else figure(entry.cost),
        "baseline" if entry.is_baseline else spread(entry.difference, entry.difference_interval),
        figure(entry.regret),
        "-" if entry.seed_deviation is None else figure(entry.seed_deviation),
    ]


EFFORT_HEADINGS = ("train s", "decide s", "peak MiB")


def effort_cells(entry: Entry, realism: Mapping[str, str]) -> list[str]:
    """How real the scenarios of one entry are, and what they took."""
    return [
        *(_or_dash(entry.realism.get(name, math.nan)) for name in realism),
        f"{entry.train_seconds:.1f}",
        f"{entry.decide_seconds:.1f}",
        f"{entry.peak_memory_mib:,.0f}",
    ]


def figure(value: float) -> str:
    """A cost with as many digits as say something."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 10_000 else f"{value:,.2f}" if size >= 10 else f"{value:.3f}"


def spread(value: float, interval: tuple[float, float]) -> str:
    """A difference with its sign and its interval."""
    low, high = interval
    sign = "+" if value > 0 else ""
    return f"{sign}{figure(value)} [{figure(low)}, {figure(high)}]"


def _keep_readable(axis: Any, entries: Sequence[Entry]) -> None:
    # Where one method is far off, the others must stay readable.
    sizes = [abs(bound) for entry in entries if not entry.is_baseline for bound in entry.difference_interval]
    typical = float(np.median(sizes)) if sizes else 0.0
    if typical > 0 and max(sizes) > 20 * typical:
        axis.set_xscale("symlog", linthresh=typical)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return [_row(heads), _row(rule), *map(_row, rows), ""]


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _or_dash(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
