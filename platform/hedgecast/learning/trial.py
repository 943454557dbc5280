"""A trial: one method with one seed, trained afresh and tested at some numbers of scenarios.

A trial knows nothing of others. It is meant to have a process of its own, so that its seconds and its memory
are its own; what it found lies in a folder of two files, from which comparisons are made.
"""

from __future__ import annotations

import dataclasses
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import DataError
from hedgecast.core.process import peak_memory_mib
from hedgecast.learning.methods import fit_methods
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.task import Task
from hedgecast.regret.backtest import MethodResult, backtest
from hedgecast.regret.metrics import regret
from hedgecast.scenarios.realism import realism_report
from hedgecast.scenarios.reduction import reduce_set
from hedgecast.scenarios.scenario_set import ScenarioSet

Progress = Callable[[str, int, int, str], None]
"""Phase, done, in all, and a remark."""
TRANSFER = "transfer_regret"
"""Mean regret of the second decision, among the realism figures."""
_RECORD, _DAYS = "trial.json", "days.npz"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """A trial's test at one number of scenarios."""

    num_scenarios: int
    """Drawn for each day; 1 where the method has one only."""
    costs: NDArray[np.float64]
    """(D,) realized cost of each day's decision."""
    expected: NDArray[np.float64]
    """(D,) cost that the scenarios expected of it."""
    realism: Mapping[str, float]
    """Figures of the scenarios against what came true; NaN where one scenario has none."""
    draw_seconds: float
    solve_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What one method with one seed cost, in every sense."""

    method: str
    estimator: str | None
    """Of the task gradient; None for methods without a choice of it."""
    seed: int
    days: NDArray[np.datetime64]
    """(D,) test days."""
    best: NDArray[np.float64]
    """(D,) cost had the day been known."""
    tested: Mapping[int, Tested]
    """By the number of scenarios asked for."""
    train_seconds: float
    memory_mib: Mapping[str, float]
    """`before`: with the data read; `peak`: after training and all decisions."""

    def save(self, folder: Path) -> None:
        """Write both files into ``folder``."""
        arrays: dict[str, Any] = {
            "days": self.days.astype("datetime64[D]").astype(np.int64),
            "best": self.best,
        }
        tested = {}
        for count, found in self.tested.items():
            arrays |= {f"costs_{count}": found.costs, f"expected_{count}": found.expected}
            tested[str(count)] = {
                "num_scenarios": found.num_scenarios,
                "realism": {name: _or_none(value) for name, value in found.realism.items()},
                "draw_seconds": found.draw_seconds,
                "solve_seconds": found.solve_seconds,
            }
        record = {
            "method": self.method,
            "estimator": self.estimator,
            "seed": self.seed,
            "train_seconds": self.train_seconds,
            "memory_mib": dict(self.memory_mib),
            "tested": tested,
        }
        # No allow_pickle: numpy 2.0 takes it for one more array.
        np.savez(folder / _DAYS, **arrays)
        (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises
        ------
        DataError
            A file is missing or damaged.
        """
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            with np.load(folder / _DAYS, allow_pickle=False) as arrays:
                tested = {
                    int(count): _tested(found, arrays, count) for count, found in record["tested"].items()
                }
                days, best = arrays["days"].astype("datetime64[D]"), arrays["best"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{folder} holds no readable trial ({error}): delete it and run again", file=str(folder)
            ) from error
        return cls(
            method=record["method"],
            estimator=record["estimator"],
            seed=record["seed"],
            days=days,
            best=best,
            tested=tested,
            train_seconds=record["train_seconds"],
            memory_mib=record["memory_mib"],
        )


def run_trial(
    task: Task,
    method: str,
    *,
    seed: int,
    counts: Sequence[int],
    drawn: int | None = None,
    estimator: str | None = None,
    progress: Progress | None = None,
) -> Trial:
    """Train ``method`` with ``seed`` and test it with each number of scenarios.

    Parameters
    ----------
    task : Task
    method : str
        From `hedgecast.learning.methods.METHODS`.
    seed : int
        Of weights, noise, order of days and test scenarios.
    counts : sequence of int
        Numbers of scenarios that each test day is decided on.
    drawn : int, optional
        Drawn for each test day, if more: decisions are then on equally likely scenarios that stand for them
        (`hedgecast.scenarios.quantile_set`), and realism is that of those drawn.
    estimator : str, optional
        Of the task gradient; the configuration's if left out.
    progress : callable, optional
        Called after each epoch and each batch of test days.
    """
    before = peak_memory_mib()
    changes: dict[str, Any] = {"seed": seed} if estimator is None else {"seed": seed, "estimator": estimator}
    config = dataclasses.replace(task.config, method=method, **changes)
    started = time.perf_counter()
    fitted = fit_methods((method,), task.train, task.validation, config, task.program(), progress)[method]
    train_seconds = time.perf_counter() - started
    decided: dict[int, tuple[MethodResult, float]] = {}
    had: dict[int, int] = {}
    best = np.empty(0)
    for count in counts:
        started = time.perf_counter()
        full = fitted.scenarios(task.test, max(count, drawn or 0), seed)
        scenarios = full if full.num_scenarios <= count else reduce_set(full, count, method="quantiles")[0]
        draw_seconds = time.perf_counter() - started
        had[count] = full.num_scenarios
        found = backtest(
            task.test_days,
            {method: scenarios},
            task.program_for,
            baseline=method,
            risk=task.risk,
            progress=_days_of(progress, count),
        )
        decided[count], best = (found.methods[0], draw_seconds), found.best
    # Before realism: its classifier's memory is not the method's. The scenarios are drawn again, the same.
    memory = {"before": before, "peak": peak_memory_mib()}
    realism = _realism(task, fitted, tuple(dict.fromkeys(had.values())), seed, progress)
    tested = {
        count: Tested(
            num_scenarios=had[count],
            costs=result.costs,
            expected=result.expected,
            realism=realism[had[count]],
            draw_seconds=draw_seconds,
            solve_seconds=result.solve_seconds,
        )
        for count, (result, draw_seconds) in decided.items()
    }
    return Trial(
        method=method,
        estimator=estimator,
        seed=seed,
        days=task.test_days.days,
        best=best,
        tested=tested,
        train_seconds=train_seconds,
        memory_mib=memory,
    )


def _realism(
    task: Task, fitted: ScenarioMethod, sizes: Sequence[int], seed: int, progress: Progress | None
) -> dict[int, dict[str, float]]:
    """`realism_figures` by the number of scenarios drawn."""
    found = {}
    for place, size in enumerate(sizes):
        if progress is not None:
            progress("realism", place, len(sizes), f"{size} scenarios")
        found[size] = realism_figures(task, fitted.scenarios(task.test, size, seed))
    return found


def realism_figures(task: Task, scenarios: ScenarioSet) -> dict[str, float]:
    """The figures of `realism_report` that are one number each, and regret on the second decision."""
    # The same classifier and ties for every method and seed: differences are the scenarios'.
    report = realism_report(scenarios, task.test.targets.numpy(), seed=0).to_dict()
    left_out = ("num_days", "num_days_left_out", "num_scenarios")
    figures = {
        name: value for name, value in report.items() if isinstance(value, float) and name not in left_out
    }
    if task.second_program_for is not None:
        label = scenarios.source
        found = backtest(task.test_days, {label: scenarios}, task.second_program_for, baseline=label)
        figures[TRANSFER] = float(regret(found.methods[0].costs, found.best).mean())
    return figures


def _days_of(progress: Progress | None, count: int) -> Callable[[str, int, int], None] | None:
    if progress is None:
        return None
    return lambda _, done, total: progress(f"decide, {count} scenarios", done, total, "days")


def _tested(record: Mapping[str, Any], arrays: Mapping[str, Any], count: str) -> Tested:
    return Tested(
        num_scenarios=record["num_scenarios"],
        costs=arrays[f"costs_{count}"],
        expected=arrays[f"expected_{count}"],
        realism={name: float("nan") if value is None else value for name, value in record["realism"].items()},
        draw_seconds=record["draw_seconds"],
        solve_seconds=record["solve_seconds"],
    )


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
