"""From trials to what a comparison reports."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import torch

from hedgecast.commands.trials import Failure, Job
from hedgecast.core.errors import SolveError
from hedgecast.learning.trial import Trial
from hedgecast.regret.comparison import Comparison, Standing
from hedgecast.report.comparison import Entry, Pair, Results
from hedgecast.version import __version__

LEVEL = 0.95
BLOCK_DAYS = 7
"""A week: weekday effects stay together."""


def results_of(
    jobs: Sequence[Job],
    trials: Mapping[str, Trial],
    failures: Sequence[Failure],
    *,
    title: str,
    baseline: str,
    facts: Mapping[str, Any],
    block_days: int = BLOCK_DAYS,
) -> Results:
    """The comparison of all methods that finished with every seed.

    Parameters
    ----------
    jobs : sequence of Job
        In the order of the tables.
    trials : mapping
        By the jobs' keys.
    failures : sequence of Failure
        Their methods are left out: a mean over other seeds would not compare.
    title, baseline : str
    facts : mapping
        What else the file shall say.
    block_days : int
        Consecutive test days that the bootstrap draws together.

    Raises
    ------
    SolveError
        The baseline itself failed: there is nothing to compare with.
    """
    failed = {failure.label for failure in failures}
    by_label: dict[str, list[Trial]] = {}
    for job in jobs:
        if job.label not in failed:
            by_label.setdefault(job.label, []).append(trials[job.key])
    if baseline not in by_label:
        first = next(failure for failure in failures if failure.label == baseline)
        raise SolveError(
            f"the baseline {baseline!r} failed with seed {first.seed}: {first.message} (log: {first.log})",
            method=baseline,
        )
    counts = sorted({count for job in jobs for count in job.counts})
    entries: list[Entry] = []
    pairs: list[Pair] = []
    for count in counts:
        found, between = _at(by_label, count, baseline, block_days)
        entries += found
        pairs += between
    days = by_label[baseline][0].days
    return Results(
        title=title,
        baseline=baseline,
        level=LEVEL,
        block_days=block_days,
        seeds=tuple(dict.fromkeys(job.seed for job in jobs)),
        days=(str(days[0]), str(days[-1])),
        entries=entries,
        pairs=pairs,
        failures=[
            {"label": f.label, "seed": f.seed, "message": f.message, "log": str(f.log)} for f in failures
        ],
        facts={**facts, **_machine()},
    )


def _at(
    by_label: Mapping[str, Sequence[Trial]], count: int, baseline: str, block_days: int
) -> tuple[list[Entry], list[Pair]]:
    comparison = Comparison(
        by_label[baseline][0].best,
        {
            label: np.stack([trial.tested[count].costs for trial in trials])
            for label, trials in by_label.items()
        },
        baseline=baseline,
        level=LEVEL,
        block_days=block_days,
    )
    entries = [_entry(standing, by_label[standing.label], count) for standing in comparison.standings()]
    pairs = [
        Pair(
            label=first,
            other=second,
            num_scenarios=count,
            difference=interval.mean,
            interval=(interval.low, interval.high),
        )
        for first, second, interval in comparison.pairs()
    ]
    return entries, pairs


def _entry(standing: Standing, trials: Sequence[Trial], count: int) -> Entry:
    tested = [trial.tested[count] for trial in trials]
    names = dict.fromkeys(name for found in tested for name in found.realism)
    return Entry(
        label=standing.label,
        num_scenarios=count,
        drawn=tested[0].num_scenarios,
        num_days=standing.num_days,
        num_seeds=standing.num_seeds,
        cost=standing.cost.mean,
        cost_interval=(standing.cost.low, standing.cost.high),
        regret=standing.regret,
        relative_regret=standing.relative_regret,
        cost_cvar=standing.cost_cvar,
        expected_cost=float(np.mean([found.expected.mean() for found in tested])),
        difference=standing.difference.mean,
        difference_interval=(standing.difference.low, standing.difference.high),
        is_baseline=standing.is_baseline,
        seed_costs=standing.seed_costs,
        seed_deviation=standing.seed_deviation,
        realism={
            name: float(np.mean([found.realism.get(name, np.nan) for found in tested])) for name in names
        },
        train_seconds=float(np.mean([trial.train_seconds for trial in trials])),
        decide_seconds=float(np.mean([found.draw_seconds + found.solve_seconds for found in tested])),
        peak_memory_mib=max(trial.memory_mib["peak"] for trial in trials),
    )


def _machine() -> dict[str, Any]:
    return {
        "created_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "hedgecast": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "numba": importlib.metadata.version("numba"),
            "cvxpy": importlib.metadata.version("cvxpy"),
            "python": platform.python_version(),
        },
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": psutil.cpu_count(),
            "memory_gib": psutil.virtual_memory().total / 2**30,
        },
    }
