"""``hedgecast measure-ladder``: what cheaper answers cost a registered model, on its validation days."""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hedgecast.commands.steps import Steps
from hedgecast.commands.workflow import Prepared, day_bars
from hedgecast.core.errors import BundleError, ConfigError
from hedgecast.learning.part import Part
from hedgecast.learning.study import read_study
from hedgecast.registry.attachments import attach
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.evidence import ValidationDays, data_digest
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import FORMAT, MeasuredLadder, MeasuredStep, Rung, Student, climbed
from hedgecast.registry.registered import RegisteredModel
from hedgecast.registry.store import ModelStore, ModelVersion
from hedgecast.registry.student import newest_student, student_of, write_graph
from hedgecast.regret.backtest import Backtest, Progress, backtest
from hedgecast.scenarios.scenario_set import ScenarioSet

FULL = "full answer"
SURROGATE = "surrogate"
_CONFIDENCE = 0.95


def measure_ladder(
    reference: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME@VERSION.")],
    study: Annotated[
        str | None,
        typer.Option(help="Study whose data are read; default: the shipped one of the model's name."),
    ] = None,
    rungs: Annotated[
        str, typer.Option(help="Rungs in the order of the ladder, separated by commas.")
    ] = "fewer_scenarios,baseline_scenarios",
    fewer: Annotated[int, typer.Option(min=1, help="Scenarios of `fewer_scenarios`.")] = 50,
    student: Annotated[
        str | None,
        typer.Option(help="Who draws in `student_sampler`: NAME@VERSION; default: the newest student."),
    ] = None,
    scenarios: Annotated[int, typer.Option(min=1, help="Scenarios of a full answer.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the draws and of the interval's resampling.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Bundle's folder that gets the record, instead of the registry.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Directory or MLflow address; default: $HEDGECAST_HOME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what each step of the ladder costs, and keep it beside the bundle.

    A service may answer cheaper under load only in ways that were measured (`HEDGECAST_LADDER`). Each step
    takes its rung and all before it. Its decisions meet the model's validation days, against full answers on
    the same days; the interval of the difference is over blocks of days. The graph of a student
    (`hedgecast distill`) is kept with the record: the version that is served draws by it.

    Examples:

    hedgecast measure-ladder german_grid@champion

    hedgecast measure-ladder german_grid@3 --rungs fewer_scenarios --fewer 20 --json

    hedgecast measure-ladder german_grid@champion --rungs fewer_scenarios,student_sampler,baseline_scenarios
    """
    steps = ladder_of(rungs, fewer, scenarios)
    with_student = any(Rung.STUDENT_SAMPLER in step for step in steps)
    if student is not None and not with_student:
        raise ConfigError("--student is given and --rungs has no student_sampler", key="student")
    console = Console(stderr=as_json)
    progress = Steps(console)
    store = ModelStore(registry)
    version = store.resolve(reference)
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        bundle = store.fetch(version.reference, Path(folder))
        taught = _taught(store, version, bundle, student, Path(folder)) if with_student else None
        with progress.step("read the data"):
            prepared = Prepared.of(read_study(study or version.name, []))
            check_days(prepared, bundle)
        with progress.step("decide the validation days"), day_bars(console) as bars:
            found = _days(prepared, bundle, taught, steps, (fewer, scenarios), seed, bars)
        measured = ladder_record(bundle, found, steps, seed, taught.student if taught else None)
        if output is None:
            attach(store, version.reference, *_written(measured, taught, bundle.folder))
        else:
            if Bundle.open(output).manifest.fingerprint != measured.fingerprint:
                raise BundleError(f"{output} holds another bundle than {version.reference}")
            _written(measured, taught, output)
    if as_json:
        print(json.dumps({"model": version.reference, **measured.to_dict()}))
    else:
        console.print(_table(measured))


def ladder_of(rungs: str, fewer: int, scenarios: int) -> tuple[frozenset[Rung], ...]:
    """Each step's rungs; see `climbed`.

    Raises
    ------
    ConfigError
        An unknown rung, none, one twice, one that changes nothing, or fewer scenarios that are not fewer.
    """
    names = [name.strip() for name in rungs.split(",") if name.strip()]
    known = [rung.value for rung in Rung]
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ConfigError(f"rungs {rungs!r}: name one or more of {', '.join(known)}, each once", key="rungs")
    if Rung.FEWER_SCENARIOS.value in names and fewer >= scenarios:
        raise ConfigError(f"fewer = {fewer} is not less than scenarios = {scenarios}", key="fewer")
    return climbed([Rung(name) for name in names])


def check_days(prepared: Prepared, bundle: Bundle) -> None:
    """Check that the study's validation days are those that the bundle was validated on.

    Raises
    ------
    BundleError
        They are not.
    """
    windows, kept = prepared.split.validation, ValidationDays.of(bundle)
    digest = data_digest(windows.days, [windows.realized(row) for row in range(len(windows))])
    if digest != kept.data:
        raise BundleError(
            f"the study's {len(windows)} validation days are not the {len(kept.days)} of the model, or other "
            "values came true on them: name the study it was trained with (--study)",
            model=bundle.manifest.name,
        )


def ladder_record(
    bundle: Bundle,
    found: Backtest,
    steps: Sequence[frozenset[Rung]],
    seed: int,
    student: Student | None = None,
) -> MeasuredLadder:
    """What a backtest of full answers and of each step says.

    Parameters
    ----------
    bundle : Bundle
    found : Backtest
        With a method `FULL` and one named as each step.
    steps : sequence
        Each step's rungs.
    seed : int
        Of the resampling.
    student : Student, optional
        Who drew in the steps that have it.
    """
    rows = {row.label: row for row in found.table(seed, level=_CONFIDENCE)}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return MeasuredLadder(
        format=FORMAT,
        fingerprint=bundle.manifest.fingerprint,
        steps=tuple(
            MeasuredStep(
                rungs=tuple(sorted(rung.value for rung in step)),
                regret_increase=rows[named(step)].difference.mean,
                lower_bound=rows[named(step)].difference.low,
                upper_bound=rows[named(step)].difference.high,
                confidence=_CONFIDENCE,
                reference_regret=rows[FULL].regret,
                num_days=len(found.days),
                first_day=str(found.days[0].astype("datetime64[D]")),
                last_day=str(found.days[-1].astype("datetime64[D]")),
                num_scenarios=rows[named(step)].num_scenarios,
                reference_scenarios=rows[FULL].num_scenarios,
                measured_time=now,
            )
            for step in steps
        ),
        student=student,
    )


def named(step: frozenset[Rung]) -> str:
    """A step's name."""
    return "+".join(sorted(rung.value for rung in step))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Taught:
    """A student and its bundle."""

    student: Student
    bundle: Bundle


def _taught(
    store: ModelStore, version: ModelVersion, teacher: Bundle, reference: str | None, folder: Path
) -> _Taught:
    found = newest_student(store, version.name, teacher) if reference is None else store.resolve(reference)
    bundle = store.fetch(found.reference, folder)
    return _Taught(student=student_of(bundle, found, teacher), bundle=bundle)


def _written(measured: MeasuredLadder, taught: _Taught | None, folder: Path) -> list[Path]:
    """The files of the record, written to ``folder``; the graph that it speaks of comes first."""
    graphs = [] if taught is None else [write_graph(taught.student, taught.bundle, folder)]
    return [*graphs, measured.write(folder)]


def _days(
    prepared: Prepared,
    bundle: Bundle,
    taught: _Taught | None,
    steps: Sequence[frozenset[Rung]],
    counts: tuple[int, int],
    seed: int,
    progress: Progress,
) -> Backtest:
    fewer, scenarios = counts
    windows = prepared.split.validation
    part = Part.of(windows)
    model = RegisteredModel(bundle, prepared.schema, FULL)
    student = None if taught is None else RegisteredModel(taught.bundle, prepared.schema, "student")
    solved: dict[str, ScenarioSet] = {FULL: model.scenarios(part, scenarios, seed)}
    mapped: dict[str, ScenarioSet] = {}
    for step in steps:
        count = fewer if Rung.FEWER_SCENARIOS in step else scenarios
        drawing = student if student is not None and Rung.STUDENT_SAMPLER in step else model
        graph = BASELINE_GRAPH if Rung.BASELINE_SCENARIOS in step else SCENARIOS_GRAPH
        drawn = drawing.scenarios(part, count, seed, graph=graph)
        (mapped if Rung.SURROGATE_SOLVER in step else solved)[named(step)] = drawn
    found = backtest(windows, solved, prepared.program, baseline=FULL, progress=progress)
    if not mapped:
        return found
    by_map = backtest(
        windows, mapped, prepared.program, baseline=next(iter(mapped)), backend=SURROGATE, progress=progress
    )
    return dataclasses.replace(found, methods=(*found.methods, *by_map.methods))


def _table(measured: MeasuredLadder) -> Table:
    table = Table("step", "scenarios", "increase of regret", "95 % interval", "of")
    for step in measured.steps:
        table.add_row(
            "+".join(step.rungs),
            str(step.num_scenarios),
            f"{step.regret_increase:.4g}",
            f"{step.lower_bound:.4g} to {step.upper_bound:.4g}",
            f"{step.reference_regret:.4g} on {step.num_days} days",
        )
    return table
