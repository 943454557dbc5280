"""From a study to trained methods, a registered model and a table: what train, backtest and demo share."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hedgecast.data.datasets import load_table
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import Split, split_windows
from hedgecast.data.tables import SeriesTable
from hedgecast.data.windows import Windows, build_windows
from hedgecast.learning import methods as learned
from hedgecast.learning.fit import Trainer, train_here
from hedgecast.learning.methods.diffusion import Diffusion, training_report
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.part import Part
from hedgecast.learning.study import Study
from hedgecast.learning.task import Task
from hedgecast.programs.catalog import load_program
from hedgecast.programs.program import TwoStageProgram
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.checks import COST_DIFFERENCE_LOW, COVERAGE, CRPS_RATIO, UNSOLVED_SHARE
from hedgecast.registry.package import package
from hedgecast.regret.backtest import Backtest, Row, backtest
from hedgecast.scenarios.realism import covered, crps
from hedgecast.scenarios.scenario_set import ScenarioSet

BASELINE = "ridge-residual"
# Contexts on which the exported graphs are compared with torch, 1,000 scenarios in all.
_PARITY_DAYS = 10


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A study's data, cut and split."""

    study: Study
    table: SeriesTable
    schema: FeatureSchema
    windows: Windows
    split: Split
    train: Part
    validation: Part

    @classmethod
    def of(cls, study: Study) -> Prepared:
        """The data of ``study``; fetched first where they are not cached."""
        table = load_table(study.data)
        schema = FeatureSchema.from_table(study.data, table)
        windows = build_windows(table, schema)
        split = split_windows(windows, study.split)
        return cls(
            study=study,
            table=table,
            schema=schema,
            windows=windows,
            split=split,
            train=Part.of(split.train),
            validation=Part.of(split.validation),
        )

    def program(self, num_steps: int) -> TwoStageProgram:
        """The study's program over ``num_steps`` steps."""
        return load_program(self.study.program, num_steps)

    def task(self) -> Task:
        """The same as a task; methods that read recent errors may read every day that was over."""
        return Task(
            train=self.train,
            validation=self.validation,
            test=Part.of(self.split.test, Part.of(self.windows)),
            test_days=self.split.test,
            program_for=self.program,
            config=self.study.learning,
        )

    def counts(self) -> dict[str, Any]:
        """Rows and days, and what was left out, for reports."""
        cut, parts = self.windows.report, self.split.report
        return {
            "rows": len(self.table),
            "decision_days": cut.days,
            "training_days": parts.train,
            "validation_days": parts.validation,
            "test_days": parts.test,
            "purged_days": len(parts.purged_train) + len(parts.purged_validation),
            "days_of_other_length": list(cut.irregular_days),
            "days_without_history": cut.days_without_history,
            "days_incomplete": cut.days_incomplete,
            "slots_interpolated_in_context": cut.slots_interpolated,
            "slots_averaged_in_context": cut.slots_averaged,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Realism:
    """How well one method's scenarios describe the days, over all real steps."""

    crps: float
    """Mean, in the unit of the data."""
    coverage: float
    """Share of steps inside the central 90 %; NaN for a single scenario."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Methods on the same days at the same scenario count."""

    backtest: Backtest
    rows: tuple[Row, ...]
    realism: Mapping[str, Realism]
    sets: Mapping[str, ScenarioSet]

    def records(self) -> list[dict[str, Any]]:
        """One plain record a method, for JSON."""
        return [{**row.to_dict(), **dataclasses.asdict(self.realism[row.label])} for row in self.rows]


def fit_methods(
    prepared: Prepared, names: tuple[str, ...], console: Console, trainer: Trainer = train_here
) -> dict[str, ScenarioMethod]:
    """The trained methods ``names``, in that order; ``trainer`` trains the diffusion models."""
    program = prepared.program(prepared.schema.horizon)
    with epoch_bars(console) as progress:
        return learned.fit_methods(
            names,
            prepared.train,
            prepared.validation,
            prepared.study.learning,
            program,
            progress,
            trainer,
        )


def evaluate(
    prepared: Prepared,
    windows: Windows,
    methods: Mapping[str, ScenarioMethod],
    *,
    count: int,
    seed: int,
    console: Console,
) -> Evaluation:
    """Costs, regret and realism of every method on the days of ``windows``."""
    part = Part.of(windows)
    sets = {name: method.scenarios(part, count, seed) for name, method in methods.items()}
    with day_bars(console) as progress:
        found = backtest(windows, sets, prepared.program, baseline=BASELINE, progress=progress)
    realism = {name: _realism(windows, scenarios) for name, scenarios in sets.items()}
    return Evaluation(backtest=found, rows=found.table(seed), realism=realism, sets=sets)


def validation_metrics(evaluation: Evaluation, name: str) -> dict[str, float]:
    """What the gate reads, of method ``name`` on the validation days."""
    row = next(row for row in evaluation.rows if row.label == name)
    baseline = next(row for row in evaluation.rows if row.is_baseline)
    realism = evaluation.realism
    return {
        "cost": row.cost,
        "cost_baseline": baseline.cost,
        "regret": row.regret,
        "cost_difference": row.difference.mean,
        COST_DIFFERENCE_LOW: row.difference.low,
        "cost_difference_high": row.difference.high,
        "crps": realism[name].crps,
        CRPS_RATIO: realism[name].crps / realism[baseline.label].crps,
        COVERAGE: realism[name].coverage,
        # The backtest raises at a day without an optimal decision.
        UNSOLVED_SHARE: 0.0,
    }


def bundle_of(prepared: Prepared, method: Diffusion, evaluation: Evaluation, folder: Path) -> Bundle:
    """The exported bundle of a trained method, with its validation figures."""
    return package(
        folder,
        study=prepared.study,
        schema=prepared.schema,
        generator=method.generator,
        context=prepared.validation.context[:_PARITY_DAYS],
        training=training_report(method, prepared.train, prepared.validation),
        metrics=validation_metrics(evaluation, method.name),
    )


@contextlib.contextmanager
def epoch_bars(console: Console) -> Iterator[Any]:
    """A callback (phase, done, total, text) that draws one bar a phase."""
    with _bars(console) as bars:
        tasks: dict[str, Any] = {}

        def update(phase: str, done: int, total: int, text: str) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total, text="")
            bars.update(tasks[phase], completed=done, text=text)

        yield update


@contextlib.contextmanager
def day_bars(console: Console) -> Iterator[Any]:
    """A callback (method, days done, days in all) that draws one bar a method."""
    with epoch_bars(console) as update:
        yield lambda method, done, total: update(method, done, total, "days")


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description:<18}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
    )


def _realism(windows: Windows, scenarios: ScenarioSet) -> Realism:
    paths = scenarios.paths.numpy()
    scores, inside = [], []
    for row in range(len(windows)):
        members = windows.to_steps(paths[row], row).reshape(len(paths[row]), -1)
        realized = windows.realized(row).reshape(-1)
        scores.append(crps(members, realized))
        inside.append(covered(members, realized))
    single = scenarios.num_scenarios == 1
    return Realism(
        crps=float(np.concatenate(scores).mean()),
        coverage=math.nan if single else float(np.concatenate(inside).mean()),
    )
