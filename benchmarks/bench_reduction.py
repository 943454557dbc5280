"""What a reduction of scenarios costs on real days: each method's distance and its error in units of cost.

Scenarios of the Gaussian method for days of the German grid's test year are reduced to a few; the study's
program is solved on all and on the few, and the few's decision is judged on all of them. ``first`` is the
baseline that costs nothing: the first few of the draw, which is a random sample. Errors are means over days,
with the standard error of that mean over days; the seed decides the draw.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import platform
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hedgecast.data.datasets import load_table
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import split_windows
from hedgecast.data.windows import build_windows
from hedgecast.learning.methods import fit_methods
from hedgecast.learning.part import Part
from hedgecast.learning.study import read_study
from hedgecast.programs.catalog import load_program
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.reduction_error import reduction_error
from hedgecast.programs.solution import Decision
from hedgecast.scenarios.reduction import reduce_set
from hedgecast.scenarios.scenario_set import ScenarioSet

RESULTS = pathlib.Path(__file__).parent / "results"
METHODS: dict[str, dict[str, Any]] = {
    "first": {},
    "forward-selection, order 1": {"method": "forward-selection", "order": 1},
    "forward-selection, order 2": {"method": "forward-selection", "order": 2},
    "k-means": {"method": "k-means"},
    "quantiles": {"method": "quantiles"},
}


def draw(num_days: int, count: int, seed: int) -> tuple[TwoStageProgram, ScenarioSet]:
    """The study's program, and scenarios of ``num_days`` days spread over the test year."""
    study = read_study("german_grid")
    table = load_table(study.data)
    split = split_windows(build_windows(table, FeatureSchema.from_table(study.data, table)), study.split)
    train, validation, test = (Part.of(part) for part in (split.train, split.validation, split.test))
    rows = np.linspace(0, len(test) - 1, num_days).round().astype(np.int64)
    fitted = fit_methods(["gaussian"], train, validation, study.learning)["gaussian"]
    program = load_program(study.program, test.targets.shape[1])
    return program, fitted.scenarios(test.select(rows), count, seed)


def reduced(
    program: TwoStageProgram, full: ScenarioSet, optimum: Decision, name: str, count: int
) -> dict[str, Any]:
    """One row: a method at one count."""
    start = time.process_time()
    if name == "first":
        few, distance = full.first(count), None
    else:
        few, parts = reduce_set(full, count, **METHODS[name])
        distance = float(np.mean([part.relative_distance for part in parts]))
    seconds = (time.process_time() - start) / full.num_contexts
    found = reduction_error(
        program, full.values, few.values, reduced_probabilities=few.weights(), optimum=optimum
    )
    error = found.error
    return {
        "method": name,
        "count": count,
        "relative_distance": distance,
        "error": error.mean().item(),
        "standard_error": (error.std() / len(error) ** 0.5).item(),
        "relative_error": (error.mean() / found.cost_full.abs().mean()).item(),
        "optimism": found.optimism.mean().item(),
        "cpu_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--days", type=int, default=24)
    parser.add_argument("--scenarios", type=int, default=1000)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    program, full = draw(options.days, options.scenarios, options.seed)
    full = ScenarioSet(paths=full.paths.double(), names=full.names, units=full.units, source=full.source)
    optimum = program.solve(full.values).require_optimal()
    rows = [reduced(program, full, optimum, name, count) for count in options.counts for name in METHODS]
    table = Table("kept", "method", "distance", "error", "of cost", "optimism", "s a day")
    for row in rows:
        distance = "" if row["relative_distance"] is None else f"{row['relative_distance']:.3f}"
        table.add_row(
            str(row["count"]), row["method"], distance, f"{row['error']:.2f} +- {row['standard_error']:.2f}",
            f"{row['relative_error']:.2%}", f"{row['optimism']:.1f}", f"{row['cpu_seconds']:.3f}",
        )  # fmt: skip
    Console().print(table)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "days": options.days,
        "scenarios": options.scenarios,
        "seed": options.seed,
        "cost_full": optimum.objective.mean().item(),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reduction_german-grid.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}))


if __name__ == "__main__":
    main()
