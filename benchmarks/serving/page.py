"""The page on the cost of serving, written from the result file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

OVERHEAD_MS, OVERHEAD_SHARE = 6.0, 0.25
THROUGHPUT_RATIO = 3.0
_TITLES = {"background": "gRPC in the same process", "ray": "Ray Serve on the same machine"}
_HEAD = """# What serving costs

Decide over gRPC against the same work called directly: the same bundle (24 hourly steps, one series, made
up), the same requests, no gap replications, callers in closed loops. *direct* is `LocalBackend.answer`, one
thread that draws and one that solves; *served* is the client's call, conversions of both sides included.
Blocks of both alternate. The aims: an overhead at the median of one caller of at most 6 ms or 25 %, whichever
is larger, and at 16 callers three times the requests a second of one. The rate of one caller is measured
before that of 16, and a shared machine moves by a tenth in between: eight runs of 2026-11-30 at 200 scenarios
through Ray Serve had 2.64 to 3.24 times, 2.9 in the mean (benchmarks/LOG.md).

Made by `make bench-serve` from `benchmarks/results/serve.json`.
"""
# Of processes that get another share of the machine than the direct calls.
_LOADED = {
    "ray": (
        "Linux shares a loaded machine out by session (autogroup), and the service has one of its own:\n"
        "the likely reason why served calls come out faster than direct ones, which is no gain.\n"
    )
}
_COLUMNS = (
    *("scenarios", "callers", "requests", "direct p50", "p99", "p99.9", "served p50", "p99", "p99.9"),
    *("direct a second", "served a second"),
)


def page(result: dict[str, Any]) -> str:
    """The page in Markdown."""
    return _HEAD + "".join(_section(name, result[name]) for name in _TITLES if name in result)


def overhead(row: dict[str, Any]) -> tuple[float, float, bool]:
    """Milliseconds at the median, their share of the direct call, and whether that is within the aim."""
    direct, served = row["direct"]["p50_ms"], row["served"]["p50_ms"]
    more = served - direct
    return more, more / direct, more <= max(OVERHEAD_MS, OVERHEAD_SHARE * direct)


def _section(name: str, found: dict[str, Any]) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in sorted(machine["versions"].items()))
    load = f"load average {machine['load_before']} before and {machine['load_after']} after"
    where = f"{machine['processor']}, {machine['cores']} cores"
    text = f"\n## {_TITLES[name]}\n\n{machine['date']}, {where}, {load};\n{versions}.\n"
    if "days" in found:
        text += f"Requests for {found['days']} days in turn; those that wait together are solved together.\n"
    if "solvers" in found:
        text += f"{found['solvers']} solvers, each with one call at a time (`HEDGECAST_SOLVER_CALLS=1`).\n"
    loaded = machine["load_before"] > machine["cores"]
    if loaded:
        text += (
            "**The machine was loaded by other work**: milliseconds are several times what they are on an\n"
            "idle one, only the comparison of both ways means anything, and the aims are not settled by it.\n"
            + _LOADED.get(name, "")
        )
    text += "Milliseconds; with fewer than 1,000 requests p99.9 is next to the largest.\n\n"
    text += _cells(_COLUMNS) + "|" + "---|" * len(_COLUMNS) + "\n"
    text += "".join(_line(row) for row in found["rows"]) + "\n"
    return text + "".join(_verdicts(found["rows"], loaded=loaded))


def _cells(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def _line(row: dict[str, Any]) -> str:
    direct, served = row["direct"], row["served"]
    quantiles = [way[name] for way in (direct, served) for name in ("p50_ms", "p99_ms", "p999_ms")]
    rates = [direct["requests_per_second"], served["requests_per_second"]]
    counts = [row["scenarios"], row["concurrent"], row["requests"]]
    return _cells([*counts, *(f"{figure:,.1f}" for figure in [*quantiles, *rates])])


def _verdicts(rows: list[dict[str, Any]], *, loaded: bool) -> list[str]:
    told = []
    for scenarios in sorted({row["scenarios"] for row in rows}):
        by_callers = {row["concurrent"]: row for row in rows if row["scenarios"] == scenarios}
        if 1 in by_callers:
            more, share, within = overhead(by_callers[1])
            verdict = "within the aim" if within else "**over the aim**"
            if loaded:
                verdict = "not settled on a loaded machine"
            told.append(
                f"- {scenarios:,} scenarios: overhead at the median {more:.1f} ms ({share:.0%}), {verdict}.\n"
            )
        for callers in (16, 32):
            if {1, callers} <= by_callers.keys():
                one, many = (by_callers[n]["served"]["requests_per_second"] for n in (1, callers))
                verdict = "reaches the aim" if many >= THROUGHPUT_RATIO * one else "**misses the aim of 3**"
                rate = f"{many / one:.2f} times the rate of one"
                told.append(f"- {scenarios:,} scenarios: {callers} callers have {rate}, {verdict}.\n")
    return told
