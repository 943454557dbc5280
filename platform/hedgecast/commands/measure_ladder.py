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
from hedgecast.registry.ladder import FORMAT, MeasuredLadder, MeasuredStep, Rung
from hedgecast.registry.registered import RegisteredModel
from hedgecast.registry.store import ModelStore
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
    the same days; the interval of the difference is over blocks of days.

    Examples:

    hedgecast measure-ladder german_grid@champion

    hedgecast measure-ladder german_grid@3 --rungs fewer_scenarios --fewer 20 --json
    """
    steps = ladder_of(rungs, fewer, scenarios)
    console = Console(stderr=as_json)
    progress = Steps(console)
    store = ModelStore(registry)
    version = store.resolve(reference)
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        bundle = store.fetch(version.reference, Path(folder))
        with progress.step("read the data"):
            prepared = Prepared.of(read_study(study or version.name, []))
            check_days(prepared, bundle)
        with progress.step("decide the validation days"), day_bars(console) as bars:
            found = _days(prepared, bundle, steps, (fewer, scenarios), seed, bars)
        measured = ladder_record(bundle, found, steps, seed)
        if output is None:
            attach(store, version.reference, measured.write(bundle.folder))
        else:
            if Bundle.open(output).manifest.fingerprint != measured.fingerprint:
                raise BundleError(f"{output} holds another bundle than {version.reference}")
            measured.write(output)
    if as_json:
        print(json.dumps({"model": version.reference, **measured.to_dict()}))
    else:
        console.print(_table(measured))


def ladder_of(rungs: str, fewer: int, scenarios: int) -> tuple[frozenset[Rung], ...]:
    """Each step's rungs, its own and those before it.

    Raises
    ------
    ConfigError
        An unknown rung, none, one twice, or fewer scenarios that are not fewer.
    """
    names = [name.strip() for name in rungs.split(",") if name.strip()]
    known = [rung.value for rung in Rung]
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ConfigError(f"rungs {rungs!r}: name one or more of {', '.join(known)}, each once", key="rungs")
    if Rung.FEWER_SCENARIOS.value in names and fewer >= scenarios:
        raise ConfigError(f"fewer = {fewer} is not less than scenarios = {scenarios}", key="fewer")
    return tuple(frozenset(map(Rung, names[: number + 1])) for number in range(len(names)))


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
    bundle: Bundle, found: Backtest, steps: Sequence[frozenset[Rung]], seed: int
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
    )


def named(step: frozenset[Rung]) -> str:
    """A step's name."""
    return "+".join(sorted(rung.value for rung in step))


def _days(
    prepared: Prepared,
    bundle: Bundle,
    steps: Sequence[frozenset[Rung]],
    counts: tuple[int, int],
    seed: int,
    progress: Progress,
) -> Backtest:
    fewer, scenarios = counts
    windows = prepared.split.validation
    part = Part.of(windows)
    model = RegisteredModel(bundle, prepared.schema, FULL)
    solved: dict[str, ScenarioSet] = {FULL: model.scenarios(part, scenarios, seed)}
    mapped: dict[str, ScenarioSet] = {}
    for step in steps:
        count = fewer if Rung.FEWER_SCENARIOS in step else scenarios
        drawn = model.scenarios(part, count, seed, baseline=Rung.BASELINE_SCENARIOS in step)
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
