"""docs/sampler.md and its picture, made from the result files that there are."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hedgecast.learning.fidelity import BUDGET, COST, SCORES
from hedgecast.report.style import BLUE, GREEN, GREY, ORANGE, RED, picture

FIGURES = (*SCORES, COST)
HEADS = {"crps": "CRPS", "energy_score": "energy score", "variogram_score": "variogram score", COST: "cost"}
COLORS = {"euler": GREY, "adams": BLUE, "dpm": ORANGE, "heun": GREEN, "student": RED}
OPENING = """
How many network calls scenarios need. The teacher is the trained model with its own sampler (Heun, 4 steps,
8 calls). Every other row draws from the same noise, and its figures are changes relative to the teacher's,
paired by the day, on the test days; nothing was chosen on test days. `student`: `hedgecast distill`. `euler`,
`adams`, `dpm`, `heun`: the teacher's network with another solver, no training. Changes are means over seeds,
with the largest of any seed in brackets; negative is better. *distance*: root mean square between scenario i
and the teacher's scenario i, in units of the scenarios' spread.

Times are medians of 1,000 scenarios of one context on one thread, as a share of the teacher's in the same
process and in turn with it. The machine did other work meanwhile: seconds would say nothing, and shares of
models with as many calls differ by up to a factor of two.

Made by `make bench-sampler` from `benchmarks/results/sampler_*.json`.
"""


def write(docs: pathlib.Path, results: pathlib.Path) -> None:
    """Page and picture; without results, nothing."""
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("sampler_*.json"))
    ]
    if not records:
        return
    lines = ["# Few steps: quality against network calls against time", "", *OPENING.strip().splitlines(), ""]
    lines += ["![change of the scores and the cost by network calls](sampler.svg)", ""]
    for record in records:
        lines += _section(record)
    notes = pathlib.Path(__file__).with_name("notes.md")
    if notes.is_file():
        lines += notes.read_text(encoding="utf-8").strip().splitlines()
    (docs / "sampler.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(records, docs / "sampler.svg")


def _section(record: Mapping[str, Any]) -> list[str]:
    seeds = record["seeds"]
    first, names = seeds[0], _names(seeds)
    numbers = ", ".join(str(seed["seed"]) for seed in seeds)
    machine, versions = record["machine"], record["versions"]
    rows = [_row(name, seeds) for name in names]
    heads = ["model", "calls", "seeds", *HEADS.values(), "distance", "time, torch", "time, ONNX"]
    changed = [f"seed {seed['seed']}: {', '.join(seed['changed'])}" for seed in seeds if seed["changed"]]
    about = (
        f"{first['test_days']} test days, {first['scenarios']} scenarios a day, {first['training_days']} "
        f"training days; seeds {numbers}. {record['date']}, {machine['processor']}, {machine['cores']} "
        f"cores, load {machine['load'][1]:.1f}; "
    )
    about += ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    if changed:
        about += f" Changed from the study: {'; '.join(changed)}."
    return [
        f"## {record['study']}",
        "",
        about,
        "",
        "| " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * (len(heads) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        _verdict(seeds),
        "",
    ]


def _row(name: str, seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [seed["models"][name] for seed in seeds if name in seed["models"]]
    cells = []
    for figure in FIGURES:
        changes = [model["changes"][figure]["relative"] for model in found]
        worst = max(changes, key=abs)
        mean = sum(changes) / len(changes)
        cells.append(f"{mean:+.2%}" + (f" [{worst:+.2%}]" if len(changes) > 1 else ""))
    distance = sum(model["distance"] for model in found) / len(found)
    shares = [
        [seed["time"][kind][name] for seed in seeds if name in seed["time"][kind]]
        for kind in ("torch", "onnx")
    ]
    times = [f"{sum(values) / len(values):.2f}" if values else "" for values in shares]
    return [name, str(found[0]["calls"]), str(len(found)), *cells, f"{distance:.3f}", *times]


def _verdict(seeds: Sequence[Mapping[str, Any]]) -> str:
    """What the students' worst seed says about the budget."""
    parts = []
    for name in (name for name in _names(seeds) if name.startswith("student")):
        found = [seed["models"][name]["changes"] for seed in seeds if name in seed["models"]]
        beyond = [
            f"{HEADS[figure]} {changes[figure]['relative']:+.2%}"
            for changes in found
            for figure in FIGURES
            if abs(changes[figure]["relative"]) > BUDGET
        ]
        parts.append(f"{name}: {'; '.join(beyond) if beyond else f'all within {BUDGET:.0%}'}")
    return f"Students against {BUDGET:.0%} on every figure and seed: {'. '.join(parts)}."


def _names(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """All models: the teacher, students, then solvers by calls."""
    found = {name: model for seed in seeds for name, model in seed["models"].items()}
    order = {"teacher": 0, "student": 1, "euler": 2, "adams": 3, "dpm": 4, "heun": 5}
    return sorted(found, key=lambda name: (order[name.split()[0]], found[name]["calls"]))


def _draw(records: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Largest change of any figure by calls, one panel a study; logarithmic on both axes."""
    drawing, axes = picture(columns=len(records))
    for axis, record in zip(axes, records, strict=True):
        points: dict[str, dict[int, list[float]]] = {}
        for seed in record["seeds"]:
            for name, model in seed["models"].items():
                kind = name.split()[0]
                if kind == "teacher":
                    continue
                size = max(abs(model["changes"][figure]["relative"]) for figure in FIGURES)
                points.setdefault(kind, {}).setdefault(model["calls"], []).append(size)
        for kind, color in COLORS.items():
            calls = sorted(points.get(kind, {}))
            sizes = [100 * max(points[kind][count]) for count in calls]
            axis.plot(calls, sizes, color=color, marker="o", lw=1.6, label=kind)
        axis.axhline(100 * BUDGET, color="black", lw=0.8, ls="--")
        axis.set(xscale="log", yscale="log", xlabel="network calls of one scenario", title=record["study"])
        axis.set_xticks([1, 2, 4, 10, 20, 50], labels=["1", "2", "4", "10", "20", "50"])
    axes[0].set_ylabel("largest change of any figure\nagainst the teacher, %")
    axes[-1].legend(frameon=False, loc="lower right")
    # The same results give the same file.
    drawing.savefig(path, metadata={"Date": None})
