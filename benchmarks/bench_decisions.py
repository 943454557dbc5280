"""Diffusion-DFL against its alternatives on the benchmark tasks, and what training costs.

Each method and seed trains in a process of its own and is kept in runs/decisions/TASK: the same command goes
on where it was stopped. What is finished is written to results/decisions_TASK.json with machine, versions,
date and command, and docs/decisions.md is made from those files. A task whose table is not on this machine
is skipped, and the last line says so.

    python benchmarks/bench_decisions.py                        all of it; takes hours
    python benchmarks/bench_decisions.py --task pjm-chosen --methods ridge-residual,diffusion-dfl --seeds 5
    python benchmarks/bench_decisions.py --tables               the page alone, from the results there are
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
TASKS = HERE / "decisions"
RUNS = HERE.parent / "runs" / "decisions"
# Task files import each other by name, here and in the processes of trials.
sys.path.insert(0, str(TASKS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TASKS), os.environ.get("PYTHONPATH")]))

import page  # noqa: E402
from entries import ENTRIES, Entry  # noqa: E402
from rich.console import Console  # noqa: E402
from tables import MissingTableError, table  # noqa: E402

from hedgecast.commands.backtest import jobs_of, trial_bars  # noqa: E402
from hedgecast.commands.comparison import results_of  # noqa: E402
from hedgecast.commands.trials import Job, load_task, run_trials  # noqa: E402
from hedgecast.core.errors import ConfigError  # noqa: E402
from hedgecast.learning.methods import check_method  # noqa: E402
from hedgecast.learning.study import read_study  # noqa: E402
from hedgecast.version import __version__  # noqa: E402

CONSOLE = Console()


def main() -> int:
    options = _options()
    if options.data is not None:
        os.environ["HEDGECAST_DATA"] = str(options.data.resolve())
    skipped = {}
    if not options.tables:
        for name in options.task or ENTRIES:
            try:
                _run(name, options)
            except MissingTableError as error:
                skipped[name] = str(error)
    page.write(HERE.parent / "docs" / "decisions.md", HERE / "results")
    for name, reason in skipped.items():
        CONSOLE.print(f"[bold red]SKIPPED {name}[/]: {reason}")
    return 1 if skipped and options.task else 0


def _run(name: str, options: argparse.Namespace) -> None:
    entry = ENTRIES[name]
    for needed in entry.tables:
        table(needed)
    CONSOLE.rule(f"{name}: {entry.title}")
    if entry.script is not None:
        found = {**_script(entry.script)(options.seeds or entry.seeds), **machine()}
    else:
        found = _compare(name, entry, options)
    found = {"task": name, "command": " ".join(["python", *map(_relative, sys.argv)]), **found}
    path = HERE / "results" / f"decisions_{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    CONSOLE.print(f"written: {path.relative_to(HERE.parent)}")


def _portable(value: Any) -> Any:
    """The same record with paths that mean something on other machines: see `_relative`."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    return _relative(value) if isinstance(value, str) else value


def _relative(text: str) -> str:
    """Paths in the checkout from its root, of tables and other files the name alone; other text as it is."""
    if not os.path.isabs(text):
        return text
    path = pathlib.Path(text)
    root = HERE.parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def machine() -> dict[str, Any]:
    """Date, processor and versions, for scripts with results of their own form."""
    names = ("torch", "numpy", "numba", "cvxpy", "cvxpylayers", "skfolio")
    installed = {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name)}
    return {
        "created_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"hedgecast": __version__, "python": platform.python_version(), **installed},
    }


def _script(where: str) -> Callable[..., dict[str, Any]]:
    module, function = where.split(":")
    found: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
    return found


def _compare(name: str, entry: Entry, options: argparse.Namespace) -> dict[str, Any]:
    methods = tuple(options.methods.split(",")) if options.methods else entry.methods
    counts = tuple(map(int, options.scenarios.split(","))) if options.scenarios else entry.counts
    seeds = options.seeds or entry.seeds
    jobs = _jobs(entry, methods, counts, seeds) + _besides(entry, counts, seeds)
    with trial_bars(CONSOLE, len(jobs)) as progress:
        trials, failures = run_trials(jobs, RUNS / name, workers=options.workers, progress=progress)
    facts = {"days": _days(entry), "settings": _portable(jobs[0].source)}
    if entry.oracle is not None:
        facts["oracle"] = _script(entry.oracle)(**entry.arguments)
    results = results_of(
        jobs,
        trials,
        failures,
        title=entry.title,
        baseline=entry.baseline,
        facts=facts,
        block_days=entry.block_days,
    )
    return results.to_dict()


def _jobs(entry: Entry, methods: tuple[str, ...], counts: tuple[int, ...], seeds: int) -> list[Job]:
    if entry.baseline not in methods:
        methods = (entry.baseline, *methods)
    if entry.study is not None:
        return jobs_of(
            read_study(entry.study, [f"data.path={table(name)}" for name in entry.tables]),
            ",".join(methods),
            seeds=seeds,
            scenarios=",".join(map(str, counts)),
            drawn=entry.drawn,
            estimator=None,
            baseline=entry.baseline,
        )
    # A trial is kept while its files stay as they are.
    source = {
        "file": str(TASKS / entry.file),
        "function": "task",
        "arguments": entry.arguments,
        "reads": [str(TASKS / "small.py"), *(str(table(name)) for name in entry.tables)],
    }
    for method in methods:
        check_method(method)
    return [
        Job(
            label=method,
            method=method,
            estimator=None,
            seed=seed,
            counts=counts,
            source=source,
            drawn=entry.drawn,
        )
        for seed in range(seeds)
        for method in methods
    ]


def _besides(entry: Entry, counts: tuple[int, ...], seeds: int) -> list[Job]:
    """Methods of other tasks: trials of these where they have been run."""
    return [
        dataclasses.replace(job, label=f"{method}@{task}")
        for task, method in entry.besides.items()
        for job in _jobs(ENTRIES[task], (method,), counts, seeds)
        if job.method == method
    ]


def _days(entry: Entry) -> dict[str, Any] | None:
    if entry.study is not None:
        return None
    task = load_task({"file": str(TASKS / entry.file), "function": "task", "arguments": entry.arguments})
    parts = {"train": task.train, "validation": task.validation, "test": task.test}
    return {name: [len(part), str(part.days[0]), str(part.days[-1])] for name, part in parts.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", action="append", choices=list(ENTRIES), help="one of the tasks; repeatable")
    parser.add_argument("--methods", help="names, separated by commas; default: the task's own")
    parser.add_argument("--seeds", type=int, help="seeds 0 to N - 1, each trained afresh")
    parser.add_argument("--scenarios", help="scenarios of each day; several separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="trials at a time")
    parser.add_argument("--data", type=pathlib.Path, help="folder of the benchmark tables")
    parser.add_argument("--tables", action="store_true", help="run nothing, write the page")
    options = parser.parse_args()
    if options.seeds is not None and options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: must be at least 1", key="seeds")
    return options


if __name__ == "__main__":
    sys.exit(main())
