"""``hedgecast generate``: very many scenarios of very many days, as Parquet."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hedgecast.core.errors import ConfigError
from hedgecast.data.schema import FeatureSchema
from hedgecast.learning.study import Study, read_study
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.session import Context
from hedgecast_workers.bulk_files import BulkFiles
from hedgecast_workers.bulk_plan import (
    BulkSettings,
    check_study,
    days_of_files,
    days_of_study,
    within,
)
from hedgecast_workers.cluster import cluster
from hedgecast_workers.signals import signals_as_interrupts

# Lines of progress where there is no terminal to draw on.
_LINES = 20


def generate(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    out: Annotated[str, typer.Option(help="Folder of the result: a directory, or an address such as s3://.")],
    scenarios: Annotated[int, typer.Option(min=1, help="Scenarios of each day.")],
    model: Annotated[
        str | None, typer.Option(help="NAME, NAME@ALIAS or NAME@VERSION in the registry.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle, instead of --model.")] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="Directory of the registry, or address of an MLflow server; else $HEDGECAST_HOME."),
    ] = None,
    contexts: Annotated[
        list[str] | None,
        typer.Option(help="CSV or Parquet file of raw rows, or a folder or address of such; repeatable."),
    ] = None,
    timestamp: Annotated[
        str, typer.Option(help="Time column of --contexts, where the study names none.")
    ] = "timestamp",
    days: Annotated[str | None, typer.Option(help="A..B: local dates, both included.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that draw, a CPU each; default: the CPUs there are, of a cluster all but one.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw scenarios of many days into a folder of Parquet files, one part a day.

    Days come from the study's own data (--days), or from tables of raw rows (--contexts): every day whose
    history and period lie in a table; where the last rows leave the targets empty, the day that these rows
    begin. Scenario i of a seed and a day is the one that the service draws. The same command goes on with a
    run that was stopped, and checks what is there; `_manifest.json` appears when all parts are whole.

    On a cluster: `ray job submit ... -- hedgecast generate ...` with an --out that all nodes reach.

    For example:

        hedgecast generate my.toml --model mine --days 2020-05-01..2020-05-31 --scenarios 1000 --out sets/may

        hedgecast generate my.toml --model mine@3 --contexts s3://rows/may --scenarios 1000 --out s3://sets/may
    """
    if (bundle is None) == (model is None):
        raise ConfigError("give either --model NAME@ALIAS or --bundle FOLDER")
    if not contexts and days is None:
        raise ConfigError("give --contexts FILE, or --days A..B of the study's own data")
    console = Console(stderr=True)
    config = read_study(study)
    files = BulkFiles.at(out)
    begun = time.perf_counter()
    with signals_as_interrupts(), tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        try:
            opened, name = _opened(bundle, model, registry, Path(folder))
            planned = _planned(config, opened, name, contexts or [], timestamp, days)
            settings = BulkSettings.of(opened, name, planned, scenarios=scenarios, seed=seed)
            files.begin(settings)
            files.sweep()
            summary = _run(opened, files, settings, planned, actors, console)
        except KeyboardInterrupt:
            files.sweep()
            console.print(f"stopped; the same command goes on with the run in {files.address}")
            raise typer.Exit(130) from None
    summary["seconds"] = time.perf_counter() - begun
    if as_json:
        print(json.dumps(summary))
    console.print(
        f"{summary['days']} days, {summary['made']} of them made now, {summary['rows']:,} rows, "
        f"{summary['bytes'] / 1e6:,.1f} MB in {files.address}"
    )


def _run(
    bundle: Bundle,
    files: BulkFiles,
    settings: BulkSettings,
    days: Sequence[Context],
    wanted: int | None,
    console: Console,
) -> dict[str, Any]:
    wanted = None if wanted is None else min(wanted, len(days))
    records, peaks, made, drawing = {}, {}, 0, 0.0
    # Ray prints what it has to say of workers on standard output, which may be a program's to read.
    with contextlib.redirect_stdout(sys.stderr), cluster(wanted) as there:
        from hedgecast_workers.bulk_run import parts

        num_actors = min(there, len(days))
        console.print(
            f"{len(days)} days, {settings.scenarios:,} scenarios each, {num_actors} actors: {files.address}"
        )
        with _progress(console, len(days)) as advance:
            for part in parts(bundle, files, settings, days, num_actors):
                # A task that is tried again may give its days twice.
                records[part.record["day"]] = part.record
                peaks[part.process] = part.peak_bytes
                made, drawing = made + part.made, drawing + part.seconds
                advance(len(records))
    files.sweep()
    manifest = files.finish(settings, days, [records[day] for day in sorted(records)])
    return {
        "out": files.address,
        "model": settings.model,
        "days": manifest["days"],
        "made": made,
        "rows": manifest["rows"],
        "bytes": manifest["bytes"],
        "actor_seconds": drawing,
        "actor_peak_bytes": max(peaks.values()),
    }


def _planned(
    study: Study, bundle: Bundle, model: str, contexts: Sequence[str], timestamp: str, span: str | None
) -> list[Context]:
    schema = FeatureSchema.from_dict(bundle.manifest.schema, path="schema")
    check_study(study.data, schema, model)
    if contexts:
        found = days_of_files(contexts, study.data, schema, timestamp)
    else:
        found = days_of_study(study.data, schema)
    return found if span is None else within(found, span)


def _opened(bundle: Path | None, model: str | None, registry: str | None, folder: Path) -> tuple[Bundle, str]:
    """The bundle, fetched into ``folder`` where it is registered, and NAME@VERSION."""
    if bundle is not None:
        opened = Bundle.open(bundle)
        return opened, f"{opened.manifest.name}@local"
    # MLflow takes seconds to import and is not needed for a bundle in a folder.
    from hedgecast.registry.store import ModelStore

    store = ModelStore(registry)
    version = store.resolve(str(model))
    return store.fetch(version.reference, folder), version.reference


@contextlib.contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    """A function that is told how many parts are whole: it moves a bar, or now and then writes a line."""
    if not console.is_terminal:
        said = 0

        def say(done: int) -> None:
            nonlocal said
            if done * _LINES // total > said:
                said = done * _LINES // total
                console.print(f"parts {done}/{total}")

        yield say
        return
    columns = (TextColumn("parts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("parts", total=total)
        yield lambda done: bar.update(task, completed=done)
