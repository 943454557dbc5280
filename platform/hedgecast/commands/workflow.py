"""From a study to trained methods, a registered model and a table: what train, backtest and demo share."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hedgecast.core.errors import BundleError
from hedgecast.data.datasets import load_table
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import Split, split_windows
from hedgecast.data.tables import SeriesTable
from hedgecast.data.windows import Windows, build_windows
from hedgecast.diffusion.generator import Generator
from hedgecast.learning import methods as learned
from hedgecast.learning.fidelity import scores_by_day
from hedgecast.learning.fit import Trainer, train_here
from hedgecast.learning.methods.diffusion import Diffusion, training_report
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.part import Part
from hedgecast.learning.study import Study
from hedgecast.learning.task import Task
from hedgecast.programs.catalog import load_program
from hedgecast.programs.program import TwoStageProgram
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.checks import BASELINE_PREFIX, TRANSFER_REGRET, UNSOLVED_SHARE
from hedgecast.registry.evidence import ValidationDays, data_digest, program_digest
from hedgecast.registry.package import package
from hedgecast.registry.registered import RegisteredModel
from hedgecast.registry.store import CHAMPION, ModelStore
from hedgecast.regret.backtest import Backtest, Row, backtest
from hedgecast.regret.transfer import second_program
from hedgecast.scenarios.realism import Realism, realism_report
from hedgecast.scenarios.scenario_set import ScenarioSet

BASELINE = "ridge-residual"
# Contexts on which the exported graphs are compared with torch, 1,000 scenarios in all.
PARITY_DAYS = 10


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

    def second_program(self) -> Callable[[int], TwoStageProgram] | None:
        """Number of steps to the second decision's program; None where the study has none."""
        config = second_program(self.study.program, self.study.transfer)
        return None if config is None else lambda num_steps: load_program(config, num_steps)

    def task(self) -> Task:
        """The same as a task; methods that read recent errors may read every day that was over."""
        return Task(
            train=self.train,
            validation=self.validation,
            test=Part.of(self.split.test, Part.of(self.windows)),
            test_days=self.split.test,
            program_for=self.program,
            config=self.study.learning,
            second_program_for=self.second_program(),
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
class Evaluation:
    """Methods on the same days at the same scenario count."""

    backtest: Backtest
    rows: tuple[Row, ...]
    realism: Mapping[str, Realism]
    sets: Mapping[str, ScenarioSet]
    transfer: Mapping[str, Row]
    """The second decision by method; empty where the study has none."""

    def records(self) -> list[dict[str, Any]]:
        """One plain record a method, for JSON."""
        return [
            {
                **self.realism[row.label].to_dict(),
                **row.to_dict(),
                "transfer": self.transfer[row.label].to_dict() if row.label in self.transfer else None,
            }
            for row in self.rows
        ]


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
    """Costs, regret, realism and transfer of every method on the days of ``windows``."""
    part = Part.of(windows)
    sets = {name: method.scenarios(part, count, seed) for name, method in methods.items()}
    with day_bars(console) as progress:
        found = backtest(windows, sets, prepared.program, baseline=BASELINE, progress=progress)
    realism = {name: realism_report(scenarios, windows.slots, seed=seed) for name, scenarios in sets.items()}
    return Evaluation(
        backtest=found,
        rows=found.table(seed),
        realism=realism,
        sets=sets,
        transfer=_transfer(prepared, windows, sets, seed),
    )


def _transfer(
    prepared: Prepared, windows: Windows, sets: Mapping[str, ScenarioSet], seed: int
) -> dict[str, Row]:
    program_for = prepared.second_program()
    if program_for is None:
        return {}
    found = backtest(windows, sets, program_for, baseline=BASELINE)
    return {row.label: row for row in found.table(seed)}


def validation_metrics(evaluation: Evaluation, name: str) -> dict[str, float]:
    """What the gate reads, of method ``name`` and of the baseline, on the validation days."""
    row = next(row for row in evaluation.rows if row.label == name)
    metrics = {
        **_figures(evaluation, name),
        "cost_difference": row.difference.mean,
        "cost_difference_low": row.difference.low,
        "cost_difference_high": row.difference.high,
        # The backtest raises at a day without an optimal decision.
        UNSOLVED_SHARE: 0.0,
    }
    baseline = _figures(evaluation, BASELINE)
    return metrics | {BASELINE_PREFIX + key: value for key, value in baseline.items()}


def _figures(evaluation: Evaluation, name: str) -> dict[str, float]:
    row = next(row for row in evaluation.rows if row.label == name)
    report = evaluation.realism[name].to_dict()
    figures = {key: value for key, value in report.items() if isinstance(value, float)}
    figures |= {"cost": row.cost, "regret": row.regret}
    if name in evaluation.transfer:
        figures[TRANSFER_REGRET] = evaluation.transfer[name].regret
    return figures


def validation_days(prepared: Prepared, evaluation: Evaluation, name: str) -> ValidationDays:
    """The validation days of method ``name``, as a promotion compares them.

    Where a `RegisteredModel` stands among the methods as ``champion``, its costs are kept beside them.
    """
    windows, found = prepared.split.validation, evaluation.backtest
    reigning = evaluation.sets.get(CHAMPION)
    program = prepared.study.program
    source = b"" if program.path is None else Path(program.path).read_bytes()
    return ValidationDays(
        days=found.days,
        cost=found.method(name).costs,
        best=found.best,
        baseline_cost=found.method(BASELINE).costs,
        baseline=BASELINE,
        num_scenarios=found.method(name).num_scenarios,
        data=data_digest(found.days, [windows.realized(row) for row in range(len(windows))]),
        program=program_digest(program.to_dict(), source),
        champion="" if reigning is None else reigning.source,
        champion_cost=None if reigning is None else found.method(CHAMPION).costs,
        scores=scores_by_day(evaluation.sets[name], windows.slots),
        champion_scores={} if reigning is None else scores_by_day(reigning, windows.slots),
    )


def bundle_of(prepared: Prepared, method: Diffusion, evaluation: Evaluation, folder: Path) -> Bundle:
    """The exported bundle of a trained method, with its validation figures."""
    report = training_report(method, prepared.train, prepared.validation)
    return package_of(prepared, method.generator, evaluation, folder, name=method.name, training=report)


def package_of(
    prepared: Prepared,
    generator: Generator,
    evaluation: Evaluation,
    folder: Path,
    *,
    name: str,
    training: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> Bundle:
    """The bundle of ``generator``, which stands as method ``name`` in ``evaluation``.

    Parameters
    ----------
    training : mapping
        What its training run reports.
    metrics : mapping, optional
        Figures beside those that the gate reads.
    """
    return package(
        folder,
        study=prepared.study,
        schema=prepared.schema,
        generator=generator,
        context=prepared.validation.context[:PARITY_DAYS],
        train=prepared.split.train,
        training=training,
        metrics={**validation_metrics(evaluation, name), **(metrics or {})},
        days=validation_days(prepared, evaluation, name),
    )


def champion_of(
    store: ModelStore, name: str, prepared: Prepared, folder: Path, console: Console
) -> dict[str, ScenarioMethod]:
    """The champion of model ``name`` as a method, so that both decide the same days; none: an empty table."""
    bundle = store.champion(name, folder)
    if bundle is None:
        return {}
    try:
        return {CHAMPION: RegisteredModel(bundle, prepared.schema, CHAMPION)}
    except BundleError as error:
        console.print(f"  the champion is not compared: {error}")
        return {}


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
