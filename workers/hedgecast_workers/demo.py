"""``hedgecast demo``: the main job on real data, end to end, and a page that shows it."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import typer
from rich.console import Console

from hedgecast.client import Client, DecisionAnswer
from hedgecast.commands.decide import answer_record, show
from hedgecast.commands.models import show_checks, try_promotion
from hedgecast.commands.steps import Steps
from hedgecast.commands.tables import table_of
from hedgecast.commands.workflow import (
    BASELINE,
    Evaluation,
    Prepared,
    bundle_of,
    evaluate,
    fit_methods,
)
from hedgecast.core.process import peak_memory_mib
from hedgecast.data.clock import local_times
from hedgecast.learning.methods.diffusion import Diffusion
from hedgecast.learning.study import Study, read_study
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.store import CANDIDATE, CHAMPION, ModelStore, ModelVersion
from hedgecast.report.page import DayPicture, MethodRow, Page, write_report
from hedgecast.service.models import BundleReference
from hedgecast_workers.cluster import require_ray
from hedgecast_workers.local_service import local_service
from hedgecast_workers.signals import signals_as_interrupts

# An ordinary winter Wednesday, chosen before any result was seen.
SHOWN_DAY = "2020-01-15"
_LABELS = {
    "point": "(a) point forecast",
    "ridge-residual": "(b) ridge, residual scenarios",
    "diffusion": "(c) diffusion, two-stage",
    "diffusion-dfl": "(d) diffusion, joint",
}


def demo(
    study: Annotated[str, typer.Option(help="A study file, or the name of a shipped study.")] = "german_grid",
    output: Annotated[Path, typer.Option(help="Folder of the page, the pictures and the figures.")] = Path(
        "runs/demo"
    ),
    day: Annotated[str, typer.Option(help="Test day that is asked for and shown.")] = SHOWN_DAY,
    scenarios: Annotated[int, typer.Option(help="Scenarios of each method and day.")] = 200,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key of the study; repeatable.")
    ] = None,
) -> None:
    """Run the main job end to end: data, training, export, service, a decision, the test year, a page.

    For example:

        hedgecast demo

        hedgecast demo --day 2020-10-25 --output runs/clocks
    """
    # Not after minutes of training.
    require_ray()
    console = Console()
    with signals_as_interrupts():
        try:
            page = run_demo(
                read_study(study, changes or []), output, day=day, scenarios=scenarios, console=console
            )
        except KeyboardInterrupt:
            console.print("stopped; nothing is left running")
            raise typer.Exit(130) from None
    console.print(f"\nopen {page}")


def run_demo(study: Study, output: Path, *, day: str, scenarios: int, console: Console) -> Path:
    """Path of the page, once everything has run and stopped."""
    steps = Steps(console)
    seed = study.learning.seed
    output.mkdir(parents=True, exist_ok=True)
    with steps.step("read the data"):
        prepared = Prepared.of(study)
        row = prepared.split.test.index(day)
        counts = prepared.counts()
        console.print(
            f"  {counts['rows']} rows; {counts['training_days']} days to train, "
            f"{counts['validation_days']} to validate, {counts['test_days']} to test, "
            f"{counts['purged_days']} purged between them; "
            f"{len(counts['days_of_other_length'])} days of another length"
        )
    with steps.step("train"):
        methods = fit_methods(prepared, tuple(_LABELS), console)
    with steps.step("validate"):
        validation = evaluate(
            prepared, prepared.split.validation, methods, count=scenarios, seed=seed, console=console
        )
    with steps.step("export and register", waiting="tracing and checking the graphs"):
        model = methods["diffusion-dfl"]
        assert isinstance(model, Diffusion)
        bundle = bundle_of(prepared, model, validation, output / "bundle")
        version, refusal = _promote(bundle, output / "registry", console)
    with steps.step("serve and ask", waiting="starting Ray, warming up the model"):
        answer, service_mib = _ask(prepared, bundle, version, row, output, scenarios, seed)
        show(answer, console)
    with steps.step("decide every test day"):
        evaluation = evaluate(
            prepared, prepared.split.test, methods, count=scenarios, seed=seed, console=console
        )
        console.print(table_of(evaluation))
    with steps.step("write the page"):
        page = write_report(output, _page(prepared, evaluation, answer, row, counts, bundle, scenarios))
    summary = {
        "study": study.to_dict(),
        "counts": counts,
        "data_report": prepared.table.report,
        "scenarios": scenarios,
        "baseline": BASELINE,
        "test": evaluation.records(),
        "validation": validation.records(),
        "training": bundle.manifest.training,
        "metrics": bundle.manifest.metrics,
        "model": {"name": version.reference, "aliases": version.aliases, "refusal": refusal},
        "answer": answer_record(answer),
        "versions": bundle.manifest.versions,
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpus": psutil.cpu_count(),
        },
        "seconds": {**steps.seconds, "total": sum(steps.seconds.values())},
        "peak_memory_mib": {"this process": peak_memory_mib(), "service": service_mib},
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    total = sum(steps.seconds.values())
    console.print(
        f"{total:.0f} s in all, {peak_memory_mib():.0f} MiB at most; figures in {output / 'summary.json'}"
    )
    return page


def _promote(bundle: Bundle, registry: Path, console: Console) -> tuple[ModelVersion, str | None]:
    """The registered version, and why it is not champion; None: it is."""
    # A registry of its own for every run: the model of an earlier one is the same model, not better than it.
    shutil.rmtree(registry, ignore_errors=True)
    store = ModelStore(registry)
    version = store.register(bundle)
    outcome = try_promotion(store, version.reference)
    show_checks(outcome.checks, console)
    if outcome.refusal is not None:
        console.print(f"  {outcome.refusal}; it is served as candidate")
    return outcome.version, outcome.refusal


def _ask(
    prepared: Prepared,
    bundle: Bundle,
    version: ModelVersion,
    row: int,
    output: Path,
    count: int,
    seed: int,
) -> tuple[DecisionAnswer, float]:
    """The served answer for one test day, and the memory that the service's processes held then, MiB."""
    history, known = _rows_of(prepared, row)
    _write_csv(output / "history.csv", history)
    _write_csv(output / "known.csv", known)
    reference = BundleReference(
        folder=bundle.folder.resolve(),
        name=version.name,
        version=str(version.version),
        aliases=version.aliases,
    )
    alias = CHAMPION if CHAMPION in version.aliases else CANDIDATE
    with local_service(reference) as address, Client(address) as client:
        past, ahead = dict(history), dict(known)
        answer = client.decide(
            f"{version.name}@{alias}",
            history_times=past.pop("timestamp"),
            history=past,
            known_times=ahead.pop("timestamp"),
            known=ahead,
            scenario_count=count,
            seed=seed,
            return_scenarios=True,
        )
        held = 0.0
        for process in psutil.Process().children(recursive=True):
            try:
                held += process.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                continue
    assert answer.scenarios is not None
    np.save(output / "scenarios.npy", answer.scenarios.paths)
    return answer, held


def _rows_of(prepared: Prepared, row: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Raw rows as a planner has them: those before the day, and what is known of it."""
    table, schema = prepared.table, prepared.schema
    times, _ = prepared.split.test.steps_of(row)
    start = int(np.searchsorted(table.times, times[0]))
    # A day more than the history: a change of clocks in it takes an hour more.
    past = slice(max(start - schema.history - schema.slots_per_day, 0), start)
    ahead = slice(start, start + len(times))
    history = {"timestamp": table.times[past], **{name: table.columns[name][past] for name in schema.columns}}
    known = {"timestamp": table.times[ahead], **{name: table.columns[name][ahead] for name in schema.known}}
    return history, known


def _write_csv(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    arrays = {name: pa.array(values) for name, values in columns.items()}
    arrays["timestamp"] = arrays["timestamp"].cast(pa.timestamp("s"))
    pa.csv.write_csv(pa.table(arrays), path)


def _page(
    prepared: Prepared,
    evaluation: Evaluation,
    answer: DecisionAnswer,
    row: int,
    counts: Mapping[str, Any],
    bundle: Bundle,
    scenarios: int,
) -> Page:
    test = prepared.split.test
    rows = tuple(
        MethodRow(
            label=_LABELS[found.label],
            cost=found.cost,
            regret=found.regret,
            difference=found.difference.mean,
            interval=(found.difference.low, found.difference.high),
            crps=evaluation.realism[found.label].crps,
            coverage=evaluation.realism[found.label].coverage,
            baseline=found.is_baseline,
        )
        for found in evaluation.rows
    )
    return Page(
        title=f"{prepared.study.name}: what was decided, and what it cost",
        lead=(
            f"Trained on {counts['training_days']} days, validated on {counts['validation_days']}, tested on "
            f"{counts['test_days']} days from {test.days[0]} to {test.days[-1]} that training never saw. "
            f"The plan below was asked for over gRPC for {test.days[row]} with {scenarios} scenarios of "
            f"{answer.model}."
        ),
        day=_day_picture(prepared, answer, row),
        rows=rows,
        num_days=counts["test_days"],
        num_scenarios=scenarios,
        facts={
            "The answer": {
                "expected cost": answer.expected_cost,
                "expected regret": answer.expected_regret,
                "its Monte Carlo standard error": answer.expected_regret_standard_error,
                f"regret beyond {answer.tail_level:.0%}": answer.regret_cvar,
                "value of perfect information": answer.expected_value_of_perfect_information,
                "value of the stochastic solution": answer.value_of_stochastic_solution,
                "verdict": answer.verdict.state.lower(),
                "milliseconds on the server": 1e3 * answer.durations["total"],
            },
            "Data": counts,
            "Training": {
                name: value for name, value in bundle.manifest.training.items() if not isinstance(value, dict)
            },
            "Versions": bundle.manifest.versions,
        },
        notes=(
            "Cost is that of the decision on the real day; regret is cost less that had the day been known.",
            "Intervals: 95 %, paired by day against (b), blocks of 7 days. Below zero is better than (b).",
            "The point forecast is one scenario by nature; all others have the same number.",
            "Ranks, ramps, autocorrelation: distance from what came true, 0 is right. AUC: of a classifier "
            "of real days against scenarios, 0.5 when it cannot tell. Diversity: 1 is right. Transfer: "
            "regret on a second decision at other costs.",
        ),
        realism={_LABELS[label]: report for label, report in evaluation.realism.items()},
        transfer={_LABELS[label]: second.regret for label, second in evaluation.transfer.items()},
    )


def _day_picture(prepared: Prepared, answer: DecisionAnswer, row: int) -> DayPicture:
    schema, test = prepared.schema, prepared.split.test
    assert answer.scenarios is not None
    paths = answer.scenarios.paths[:, :, 0]
    times, _ = test.steps_of(row)
    realized = test.realized(row)[:, 0]
    name, decision = next(iter(answer.decision.items()))
    program = prepared.program(len(times))
    regret = program.regret(decision[None], paths[None])[0].numpy()
    real = program.regret(decision[None], realized[None, None])
    return DayPicture(
        times=local_times(times, schema.zone),
        scenarios=paths,
        decision=decision,
        realized=realized,
        regret=regret,
        realized_regret=float(real[0, 0]),
        quantity=_in_words(schema.targets[0], schema.target_units[0]),
        decision_name=name,
        unit=schema.target_units[0],
    )


def _in_words(column: str, unit: str) -> str:
    """A column's name without its unit."""
    return column.removesuffix(f"_{unit.lower()}").replace("_", " ")
