"""``hedgecast backtest``: every method and seed on the test days, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hedgecast.commands import trials
from hedgecast.commands.comparison import results_of
from hedgecast.commands.steps import Steps
from hedgecast.commands.tables import results_tables
from hedgecast.commands.workflow import BASELINE, Prepared
from hedgecast.core.errors import ConfigError, SolveError
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.methods import METHODS, check_method
from hedgecast.learning.study import Study, read_study
from hedgecast.report.comparison import Results, write_results

JOINT = "diffusion-dfl"
"""The method that has a choice of estimators."""


def backtest(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    methods: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(METHODS),
    seeds: Annotated[int, typer.Option(help="Seeds of each method: 0 to N - 1, each trained afresh.")] = 1,
    scenarios: Annotated[
        str, typer.Option(help="Scenarios of each day, for all methods; several separated by commas.")
    ] = "200",
    drawn: Annotated[
        int | None,
        typer.Option(help="Draw so many for each day and decide on few that stand for them."),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help=f"Of the task gradient of {JOINT}; several separated by commas."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Method that all are compared with.")] = BASELINE,
    output: Annotated[
        Path | None, typer.Option(help="Folder of results and trials; default: runs/backtest/NAME.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Trials at a time; they share the cores.")] = 1,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare methods by the realized cost of their decisions on the test days.

    All methods get the same days, scenario counts and training budget. Intervals are 95 %, paired by day
    against the baseline, over blocks of a week; the spread of seeds stands apart. With `--drawn` decisions
    are on equally likely scenarios in which every series and step keeps the law of those drawn. The folder
    gets results.json, results.md and results.png. Finished trials stay there: after Ctrl-C the same command
    goes on where it was.

    Examples:

    hedgecast backtest german_grid --methods ridge-residual,diffusion,diffusion-dfl --seeds 5

    hedgecast backtest my_study.toml --scenarios 25,200,1000 --workers 2 --output runs/mine

    hedgecast backtest my_study.toml --scenarios 25,50 --drawn 1000

    hedgecast backtest my_study.toml --methods diffusion-dfl --estimator pathwise,score-function --json
    """
    console = Console(stderr=as_json)
    steps = Steps(console)
    config = read_study(study, changes or [])
    jobs = jobs_of(
        config,
        methods,
        seeds=seeds,
        scenarios=scenarios,
        drawn=drawn,
        estimator=estimator,
        baseline=baseline,
    )
    folder = output or Path("runs/backtest") / config.name
    with steps.step("read the data"):
        # Once here, before many read them: what is fetched is then cached, and a defect shows at once.
        facts = {"study": config.to_dict(), "counts": Prepared.of(config).counts()}
    try:
        with steps.step(f"run {len(jobs)} trials"), trial_bars(console, len(jobs)) as progress:
            done, failures = trials.run_trials(jobs, folder, workers=workers, progress=progress)
    except KeyboardInterrupt:
        console.print(f"stopped; finished trials are kept in {folder}: the same command goes on from there")
        raise typer.Exit(130) from None
    results = results_of(
        jobs, done, failures, title=config.name, baseline=baseline, facts={**facts, "seconds": steps.seconds}
    )
    _show(results, write_results(folder, results), console, as_json)
    if failures:
        raise SolveError(
            "; ".join(f"{f.label}, seed {f.seed}: {f.message} (log: {f.log})" for f in failures)
            + "; all other results are written, and the same command tries these again"
        )


def jobs_of(
    study: Study,
    methods: str,
    *,
    seeds: int,
    scenarios: str,
    estimator: str | None,
    baseline: str,
    drawn: int | None = None,
) -> list[trials.Job]:
    """The trials that a command line asks for, methods in its order, the baseline first if it is not named.

    Raises
    ------
    ConfigError
        An unknown method or estimator, an estimator without a method that has one, or no number.
    """
    names, counts = _names(methods, baseline), _counts(scenarios)
    estimators = _estimators(estimator, names)
    if drawn is not None and drawn < max(counts):
        raise ConfigError(
            f"--drawn {drawn}: must be at least {max(counts)}, as --scenarios says", key="drawn"
        )
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: must be at least 1", key="seeds")
    # What each trial sets itself must not make a difference to its name.
    defaults = LearningConfig()
    learning = dataclasses.replace(study.learning, method=defaults.method, seed=defaults.seed)
    source = {"study": dataclasses.replace(study, learning=learning).to_dict()}
    found = []
    for name in names:
        chosen: Sequence[str | None] = (None,)
        if name == JOINT:
            chosen = estimators or (study.learning.estimator,)
        for choice in chosen:
            label = f"{name} ({choice})" if len(chosen) > 1 else name
            found += [
                trials.Job(
                    label=label,
                    method=name,
                    estimator=choice,
                    seed=seed,
                    counts=counts,
                    source=source,
                    drawn=drawn,
                )
                for seed in range(seeds)
            ]
    return found


@contextlib.contextmanager
def trial_bars(console: Console, count: int) -> Iterator[trials.Progress]:
    """A callback that draws one bar for all trials and one for each that runs."""
    bars = Progress(
        TextColumn("  {task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
    )
    lock = threading.Lock()
    with bars:
        running: dict[str, TaskID] = {}
        whole = bars.add_task("all trials", total=count, text="")

        def update(trial: str, phase: str, done: int, total: int, text: str) -> None:
            with lock:
                if phase == trials.ENDED:
                    bars.advance(whole)
                    if trial in running:
                        bars.remove_task(running.pop(trial))
                    bars.print(f"  {trial}: {text}", markup=False)
                    return
                if trial not in running:
                    running[trial] = bars.add_task(trial, total=total, text="")
                bars.update(running[trial], completed=done, total=total, text=f"{phase} {text}")

        yield update


def _show(results: Results, files: Sequence[Path], console: Console, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results.to_dict(), allow_nan=False))
        return
    for count in results.scenario_counts:
        for table in results_tables(results, count):
            console.print(table)
    console.print("written: " + ", ".join(map(str, files)))


def _names(text: str, baseline: str) -> tuple[str, ...]:
    names = _listed(text)
    if not names:
        raise ConfigError(f"--methods {text!r} names none: choose from {', '.join(METHODS)}", key="methods")
    for name in (*names, baseline):
        check_method(name)
    # The baseline is always there: differences are taken against it.
    return names if baseline in names else (baseline, *names)


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in _listed(text))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 2:
        raise ConfigError(
            f"--scenarios {text!r}: give numbers of at least 2, separated by commas", key="scenarios"
        )
    return counts


def _estimators(text: str | None, names: Sequence[str]) -> tuple[str, ...]:
    if text is None:
        return ()
    known: tuple[Any, ...] = typing.get_args(typing.get_type_hints(LearningConfig)["estimator"])
    found = _listed(text)
    for name in found:
        if name not in known:
            raise ConfigError(f"no estimator {name!r}: choose from {', '.join(known)}", key="estimator")
    if not found or JOINT not in names:
        raise ConfigError(
            f"--estimator {text!r} is a choice of {JOINT} alone, and --methods has {', '.join(names)}: "
            "add it or leave the estimator out",
            key="estimator",
        )
    return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
