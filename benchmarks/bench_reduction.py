"""What a reduction of scenarios costs: each method's distance and its error in units of cost.

``german-grid``: scenarios of the Gaussian method for days of the grid's test year, decided by the study's
program. ``pjm``: ridge regression with residual scenarios for test days of that benchmark, where a 0.99
quantile is asked for; needs its table. The other cases are the shipped programs on sets drawn from their
default history. The program is solved on all and on the few, and the few's decision is judged on all of them.
``first`` is the baseline that costs nothing: the first few of the draw, which is a random sample. Errors are
means over sets, with the standard error of that mean; the seed decides the draw.

    python benchmarks/bench_reduction.py                        all cases but pjm; takes minutes
    python benchmarks/bench_reduction.py portfolio --counts 25 50
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import pathlib
import platform
import sys
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from shipped import SHIPPED

from hedgecast.data.datasets import load_table
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import split_windows
from hedgecast.data.windows import build_windows
from hedgecast.learning.methods import fit_methods
from hedgecast.learning.part import Part
from hedgecast.learning.study import read_study
from hedgecast.programs.catalog import load_program
from hedgecast.programs.catalog.history import history
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.reduction_error import reduction_error
from hedgecast.programs.risk import EXPECTATION, Risk
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


Case = tuple[TwoStageProgram, ScenarioSet, Risk]
GRID, PJM = "german-grid", "pjm"


def from_history(case: str, num_sets: int, count: int, seed: int) -> Case:
    """A shipped program, and ``num_sets`` sets of rows of its history, of at most half of them each."""
    name, measure, build = SHIPPED[case]
    pool = history(name)
    rows = pool.paths[0].double()
    generator = torch.Generator().manual_seed(seed)
    size = min(count, len(rows) // 2)
    paths = [rows[torch.randperm(len(rows), generator=generator)[:size]] for _ in range(num_sets)]
    full = ScenarioSet(paths=torch.stack(paths), names=pool.names, units=pool.units, source=pool.source)
    return build(), full, Risk.parse(measure)


def from_grid(num_days: int, count: int, seed: int) -> Case:
    """The study's program, and scenarios of ``num_days`` days spread over the test year."""
    study = read_study("german_grid")
    table = load_table(study.data)
    split = split_windows(build_windows(table, FeatureSchema.from_table(study.data, table)), study.split)
    train, validation, test = (Part.of(part) for part in (split.train, split.validation, split.test))
    rows = np.linspace(0, len(test) - 1, num_days).round().astype(np.int64)
    fitted = fit_methods(["gaussian"], train, validation, study.learning)["gaussian"]
    program = load_program(study.program, test.targets.shape[1])
    return program, _double(fitted.scenarios(test.select(rows), count, seed)), EXPECTATION


def from_pjm(num_days: int, count: int, seed: int) -> Case:
    """The published program, and scenarios of ``num_days`` days spread over the test days."""
    # A task of benchmarks/decisions: found there by name, as by the processes of trials.
    sys.path.insert(0, str(pathlib.Path(__file__).parent / "decisions"))
    task = importlib.import_module("pjm").task("chosen")
    rows = np.linspace(0, len(task.test) - 1, num_days).round().astype(np.int64)
    name = "ridge-residual"
    fitted = fit_methods([name], task.train, task.validation, task.config)[name]
    return task.program(), _double(fitted.scenarios(task.test.select(rows), count, seed)), EXPECTATION


def _double(drawn: ScenarioSet) -> ScenarioSet:
    return ScenarioSet(paths=drawn.paths.double(), names=drawn.names, units=drawn.units, source=drawn.source)


def reduced(case: Case, optimum: Decision, name: str, count: int) -> dict[str, Any]:
    """One row: a method at one count."""
    program, full, risk = case
    start = time.process_time()
    if name == "first":
        few, distance = full.first(count), None
    else:
        few, parts = reduce_set(full, count, **METHODS[name])
        distance = float(np.mean([part.relative_distance for part in parts]))
    seconds = (time.process_time() - start) / full.num_contexts
    found = reduction_error(
        program, full.values, few.values, reduced_probabilities=few.weights(), risk=risk, optimum=optimum
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


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All rows of one case, shown too."""
    sizes = (options.sets, options.scenarios, options.seed)
    made = {GRID: from_grid, PJM: from_pjm}
    case = made[name](*sizes) if name in made else from_history(name, *sizes)
    program, full, risk = case
    optimum = program.solve(full.values, risk=risk).require_optimal()
    rows = [reduced(case, optimum, way, count) for count in options.counts for way in METHODS]
    title = f"{name}: {full.num_contexts} sets of {full.num_scenarios}"
    table = Table("kept", "method", "distance", "error", "of cost", "optimism", "s a set", title=title)
    for row in rows:
        distance = "" if row["relative_distance"] is None else f"{row['relative_distance']:.3f}"
        table.add_row(
            str(row["count"]), row["method"], distance, f"{row['error']:.3g} +- {row['standard_error']:.2g}",
            f"{row['relative_error']:.2%}", f"{row['optimism']:.3g}", f"{row['cpu_seconds']:.3f}",
        )  # fmt: skip
    Console().print(table)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "command": " ".join(["python", "benchmarks/bench_reduction.py", *sys.argv[1:]]),
        "sets": full.num_contexts,
        "scenarios": full.num_scenarios,
        "seed": options.seed,
        "cost_full": optimum.objective.mean().item(),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], GRID, PJM, *SHIPPED], help="default: all but pjm")
    parser.add_argument("--sets", type=int, default=24, help="days of the grid, sets of a history")
    parser.add_argument("--scenarios", type=int, default=1000)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    for name in options.cases or [GRID, *SHIPPED]:
        text = json.dumps(run(name, options), indent=1) + "\n"
        (RESULTS / f"reduction_{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
