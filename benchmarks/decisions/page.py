"""docs/decisions.md, made from the result files that there are."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from entries import ENTRIES
from notes import NOTES, OPENING

from hedgecast.report.comparison import figure, spread

Found = Mapping[str, Any]


def write(page: pathlib.Path, results: pathlib.Path) -> None:
    """All tables, in the order of the tasks; a task without results is named as not run."""
    lines = ["# Decisions: Diffusion-DFL and its alternatives", "", *OPENING.strip().splitlines(), ""]
    for name, entry in ENTRIES.items():
        lines += [f"## {entry.title} (`{name}`)", ""]
        path = results / f"decisions_{name}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            lines += _TABLES.get(name, _comparison)(found)
        else:
            lines += ["Not run yet.", ""]
        if name in NOTES:
            lines += [*NOTES[name].strip().splitlines(), ""]
    page.write_text("\n".join(lines), encoding="utf-8")


def _comparison(found: Found) -> list[str]:
    baseline = found["baseline"]
    rows = []
    for entry in found["entries"]:
        low_high = entry["difference_interval"]
        realism = entry["realism"]
        rows.append(
            [
                _count(entry),
                entry["label"],
                figure(entry["cost"]),
                "" if entry["is_baseline"] else spread(entry["difference"], low_high),
                figure(entry["seed_deviation"]) if len(found["seeds"]) > 1 else "",
                _share(realism.get("coverage")),
                f"{entry['train_seconds']:.0f}",
                f"{entry['peak_memory_mib']:.0f}",
            ]
        )
    heads = [
        "scenarios",
        "method",
        "cost",
        f"less {baseline}",
        "seed s.d.",
        "in 90 % band",
        "train, s",
        "peak MiB",
    ]
    first, last = found["days"]
    lines = _table(heads, rows)
    lines += [
        f"- {_joint_against(pair)}" for pair in found["pairs"] if _is_shown({pair["label"], pair["other"]})
    ]
    oracle = found["facts"].get("oracle")
    lines += [
        "",
        f"{found['entries'][0]['num_days']} test days {first} to {last}, seeds "
        f"{', '.join(map(str, found['seeds']))}; {found['facts']['created_time'][:10]}."
        + ("" if oracle is None else f" Deciding with the truth costs {figure(oracle['cost'])}."),
        "",
    ]
    return lines


def _count(entry: Found) -> str:
    decided, drawn = entry["num_scenarios"], entry["drawn"]
    return f"{decided} for {drawn:,}" if drawn > decided else str(decided)


_JOINT = "diffusion-dfl"


def _is_shown(pair: set[str]) -> bool:
    """The joint method and what it starts from, or a method of another task."""
    other = pair - {_JOINT}
    return len(other) == 1 and ("diffusion" in other or "@" in next(iter(other)))


def _joint_against(pair: Found) -> str:
    first = pair["label"] == _JOINT
    sign, other = (1.0, pair["other"]) if first else (-1.0, pair["label"])
    low, high = sorted(sign * value for value in pair["interval"])
    return (
        f"{pair['num_scenarios']} scenarios, {_JOINT} less {other}: "
        f"{spread(sign * pair['difference'], (low, high))}"
    )


def _exponential(found: Found) -> list[str]:
    optimum, seeds = found["optimum"], found["seeds"]
    rows = [
        [
            group["method"],
            str(group["scenarios"]),
            ", ".join(f"{cost:.4f}" for cost in group["costs"]),
            f"{group['excess']:+.4f} [{', '.join(f'{end:.4f}' for end in group['excess_interval'])}]",
            f"{group['within_noise']} of {seeds}",
            ", ".join(f"{cost:.4f}" for cost in group["law_costs"]),
        ]
        for group in found["groups"]
    ]
    heads = [
        "decided by",
        "scenarios",
        "cost on fresh draws, by seed",
        "less the optimum's, mean of seeds",
        "seeds within noise",
        "cost by the law, by seed",
    ]
    return [
        *_table(heads, rows),
        f"{found['training_draws']} training, {found['validation_draws']} validation and "
        f"{found['fresh_draws']} fresh draws. The optimum costs {found['population_optimum']} by the law, "
        f"on the fresh draws {optimum['cost']:.4f} (standard error {optimum['standard_error']:.4f}); "
        f"{found['created_time'][:10]}.",
        "",
    ]


def _portfolio(found: Found) -> list[str]:
    rows = [
        [
            row["method"],
            spread(row["mean_cvar"], tuple(row["mean_cvar_interval"])),
            spread(row["sharpe"], tuple(row["sharpe_interval"])),
            f"{row['return_per_year']:.1%}",
        ]
        for row in found["rows"]
    ]
    lines = _table(["method", "mean-CVaR, bp a week", "Sharpe a year", "return a year"], rows)
    lines += [
        f"- diffusion-dfl less {pair['other']}: mean-CVaR "
        f"{spread(pair['mean_cvar'], tuple(pair['mean_cvar_interval']))}, Sharpe "
        f"{spread(pair['sharpe'], tuple(pair['sharpe_interval']))}"
        for pair in found["pairs"]
    ]
    days = found["parts"]["test"]
    return [*lines, "", f"{days[0]} decisions {days[1]} to {days[2]}; {found['created_time'][:10]}.", ""]


def _training_cost(found: Found) -> list[str]:
    rows = []
    for row in found["rows"]:
        if "failed" in row:
            rows.append([row["label"], str(row["scenarios"]), "failed", "", "", ""])
            continue
        mark = " (calculated)" if row["calculated"] else ""
        rows.append(
            [
                row["label"],
                str(row["scenarios"]),
                f"{row['days']}",
                f"{row['epoch_seconds']:.0f}{mark}",
                f"{row['batch_memory_mib']:.0f}{mark}",
                f"{row['solve_share']:.0%}",
            ]
        )
    heads = [
        "estimator",
        "scenarios",
        "days measured",
        "seconds an epoch",
        "MiB a step of 64 days",
        "solve's share",
    ]
    return [*_table(heads, rows), "", f"One thread, processor seconds; {found['created_time'][:10]}.", ""]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


_TABLES: dict[str, Callable[[Found], list[str]]] = {
    "exponential": _exponential,
    "portfolio": _portfolio,
    "training-cost": _training_cost,
}
