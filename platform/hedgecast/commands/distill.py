"""``hedgecast distill``: a registered model to a student of few steps, registered beside it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hedgecast.commands.models import Outcome, show_checks, try_promotion
from hedgecast.commands.steps import Steps
from hedgecast.commands.workflow import (
    BASELINE,
    Evaluation,
    Prepared,
    champion_of,
    epoch_bars,
    evaluate,
    fit_methods,
    package_of,
)
from hedgecast.core.errors import ConfigError
from hedgecast.core.process import peak_memory_mib
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.distillation import Distilled
from hedgecast.learning.distillation import distill as train_student
from hedgecast.learning.fidelity import BUDGET, REGRET, Change, changes, score_days
from hedgecast.learning.study import Study, read_study
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.descent import TEACHER_FINGERPRINT
from hedgecast.registry.registered import RegisteredModel
from hedgecast.registry.store import CANDIDATE, ModelStore, ModelVersion
from hedgecast.registry.weights import generator_of

TEACHER, STUDENT = "teacher", "student"


def distill(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    model: Annotated[
        str | None,
        typer.Option(help="The teacher: NAME@VERSION or NAME@ALIAS; default: the study's candidate."),
    ] = None,
    num_steps: Annotated[
        int | None,
        typer.Option("--steps", help="Network calls of the student, 1 to 4; default: the study's."),
    ] = None,
    changed: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Keep the bundle in this folder, too.")] = None,
    registry: Annotated[
        str | None, typer.Option(help="Directory or MLflow address; default: $HEDGECAST_HOME.")
    ] = None,
    scenarios: Annotated[int, typer.Option(help="Scenarios of each validation day.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a student of few steps from a registered model, compare both, and register it as candidate.

    The student takes the same noise to the same scenarios in fewer network calls. It learns from the teacher
    and from the contexts of training days. On validation days both are scored and decide, and the changes are
    kept in the bundle. It becomes champion if it passes the checks of every model; in place of a teacher that
    is champion it need not be cheaper, but be shown to lose less than 2 % of its regret and scores.

    Examples:

    hedgecast distill german_grid

    hedgecast distill german_grid --model german_grid@3 --steps 1

    hedgecast distill my_study.toml --set distill.epochs=100 --json
    """
    console = Console(stderr=as_json)
    steps = Steps(console)
    config = read_study(
        study, [*(changed or []), *([] if num_steps is None else [f"distill.steps={num_steps}"])]
    )
    store = ModelStore(registry)
    version = store.resolve(model or f"{config.name}@{CANDIDATE}")
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as temporary:
        folder = Path(temporary)
        teaching = store.fetch(version.reference, folder)
        teacher = _teacher(teaching, version, config)
        with steps.step("read the data"):
            prepared = Prepared.of(_as_taught(config, teaching))
        # Refuses a teacher that reads other columns, before anything is trained.
        registered = RegisteredModel(teaching, prepared.schema, TEACHER)
        try:
            with steps.step("distill"), epoch_bars(console) as progress:
                student = train_student(
                    teacher,
                    prepared.train.context,
                    prepared.validation.context,
                    config.distill,
                    config.learning,
                    progress,
                )
        except KeyboardInterrupt:
            console.print("stopped; nothing is left running")
            raise typer.Exit(130) from None
        with steps.step("validate"):
            baseline = fit_methods(prepared, (BASELINE,), Console(quiet=True))
            reigning = champion_of(store, version.name, prepared, folder, console)
            evaluation = evaluate(
                prepared,
                prepared.split.validation,
                {**baseline, TEACHER: registered, STUDENT: student, **reigning},
                count=scenarios,
                seed=config.learning.seed,
                console=console,
            )
            found = _changes(prepared, evaluation)
        with steps.step("export and register", waiting="tracing the graphs"):
            bundle = package_of(
                prepared,
                student.generator,
                evaluation,
                output or folder / "bundle",
                name=STUDENT,
                training={
                    **teaching.manifest.training,
                    **student.report(),
                    **_origin(version, teaching),
                    "distill": config.distill.to_dict(),
                },
                metrics=_metrics(found),
            )
            curves = {"distillation_loss": student.curve.scores}
            tags = _origin(version, teaching) | {"student_steps": str(config.distill.steps)}
            outcome = try_promotion(
                store, store.register(bundle, version.name, curves=curves, tags=tags).reference
            )
    _show(found, version, outcome, console)
    if as_json:
        record = _record(version, teacher, student, found, outcome, bundle, evaluation)
        print(json.dumps({**record, "counts": prepared.counts(), "seconds": steps.seconds}))


def _teacher(bundle: Bundle, version: ModelVersion, config: Study) -> Generator:
    """The torch generator of the teacher, if a student of the study's steps would be any faster."""
    teacher = generator_of(bundle)
    if config.distill.steps >= teacher.config.evaluations:
        raise ConfigError(
            f"{version.reference} needs {teacher.config.evaluations} network calls already: a student of "
            f"{config.distill.steps} would be no faster; give fewer --steps or another teacher",
            key="distill.steps",
        )
    return teacher


def _as_taught(config: Study, bundle: Bundle) -> Study:
    """The study with the teacher's method and seed, which its bundle records."""
    manifest = bundle.manifest
    learning = dataclasses.replace(config.learning, method=manifest.method, seed=manifest.seed)
    return dataclasses.replace(config, learning=learning)


def _origin(version: ModelVersion, bundle: Bundle) -> dict[str, str]:
    return {TEACHER: version.reference, TEACHER_FINGERPRINT: bundle.manifest.fingerprint}


def _changes(prepared: Prepared, evaluation: Evaluation) -> tuple[Change, ...]:
    """The student against its teacher on the validation days."""

    def figures(name: str) -> dict[str, Any]:
        scores = score_days(evaluation.sets[name], prepared.split.validation.slots)
        # Not the cost, which may be a profit: a share needs a positive mean. Both change by the same amount.
        return {**scores, REGRET: evaluation.backtest.method(name).costs - evaluation.backtest.best}

    return changes(figures(TEACHER), figures(STUDENT))


def _metrics(found: Sequence[Change]) -> dict[str, float]:
    """The changes as metrics of the bundle."""
    return {
        f"{change.figure}_change{suffix}": value
        for change in found
        for suffix, value in (
            ("", change.relative.mean),
            ("_low", change.relative.low),
            ("_high", change.relative.high),
        )
    }


def _show(found: Sequence[Change], version: ModelVersion, outcome: Outcome, console: Console) -> None:
    table = Table(title=f"Student against {version.reference} on validation days", title_justify="left")
    for heading in ("figure", TEACHER, STUDENT, "change", "95 % interval", f"within {BUDGET:.0%}"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for change in found:
        relative = change.relative
        table.add_row(
            change.figure.replace("_", " "),
            f"{change.before:.4g}",
            f"{change.after:.4g}",
            f"{relative.mean:+.2%}",
            f"[{relative.low:+.2%}, {relative.high:+.2%}]",
            "[green]yes[/]" if change.within else "[red]no[/]",
        )
    show_checks(outcome.checks, console)
    console.print(table)
    console.print(str(outcome))


def _record(
    version: ModelVersion,
    teacher: Generator,
    student: Distilled,
    found: Sequence[Change],
    outcome: Outcome,
    bundle: Bundle,
    evaluation: Evaluation,
) -> dict[str, Any]:
    return {
        "model": dataclasses.asdict(outcome.version),
        "teacher": version.reference,
        "evaluations": {
            TEACHER: teacher.config.evaluations,
            STUDENT: student.generator.config.evaluations,
        },
        "changes": [change.to_dict() for change in found],
        "champion": outcome.refusal is None,
        "rule": outcome.rule,
        "refusal": outcome.refusal,
        "checks": [check.to_dict() for check in outcome.checks],
        "training": bundle.manifest.training,
        "metrics": bundle.manifest.metrics,
        "validation": evaluation.records(),
        "peak_memory_mib": peak_memory_mib(),
    }
