"""One bulk run on Ray Data: days go through a pool of actors, each with a session of its own.

What travels are contexts and records of parts, a few kilobytes a day; scenarios go from the actor to the
folder, so neither the driver nor Ray's object store grows with them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
import ray.exceptions

import hedgecast.core.errors
from hedgecast.core.errors import HedgecastError, UnavailableError
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.session import Context, ScenarioSession
from hedgecast_workers.bulk_files import BulkFiles
from hedgecast_workers.bulk_part import Part, PartWriter
from hedgecast_workers.bulk_plan import BulkSettings, of_table, to_table

_RESULT = "result"
# A task costs Ray some 10 ms: days with few scenarios share one of about a second (a million values).
_VALUES_OF_TASK = 1_000_000
_TASKS_OF_ACTOR = 8


def parts(
    bundle: Bundle, files: BulkFiles, settings: BulkSettings, days: Sequence[Context], num_actors: int
) -> Iterator[Part]:
    """Parts as they come to be whole, in any order.

    Ray must be connected. An actor that is lost is started again and its days are tried again.

    Raises
    ------
    HedgecastError
        What an actor came upon.
    UnavailableError
        Ray gave up, or the folder cannot be written.
    """
    _quieten()
    values = settings.scenarios * len(settings.names) * max(len(day.step_times) for day in days)
    size = days_of_task(len(days), values, num_actors)
    tables = [to_table(days[begin : begin + size]) for begin in range(0, len(days), size)]
    results = ray.data.from_arrow(tables).map_batches(
        Maker,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        fn_constructor_kwargs={"model": _contents(bundle), "files": files, "settings": settings},
    )
    try:
        # Without prefetching: it would hold back what is done until the next is.
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in batch[_RESULT].to_pylist():
                yield part_of(json.loads(text))
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as error:
        raise UnavailableError(
            f"the run stopped: {str(error).strip().splitlines()[-1]}; the same command goes on with it"
        ) from error


def days_of_task(num_days: int, values: int, num_actors: int) -> int:
    """Days that one task makes.

    Parameters
    ----------
    num_days : int
    values : int
        Numbers in one day's part.
    num_actors : int
        Each gets some tasks, so that none is without work long before the others.
    """
    full = math.ceil(_VALUES_OF_TASK / values)
    return max(1, min(full, num_days // (num_actors * _TASKS_OF_ACTOR)))


class Maker:
    """The actor: a session, and parts made with it.

    Parameters
    ----------
    model : mapping
        Files of the bundle by name: nodes need not share a disk with the registry.
    files : BulkFiles
        Where parts go.
    settings : BulkSettings
        What they share.
    """

    def __init__(self, model: Mapping[str, bytes], files: BulkFiles, settings: BulkSettings) -> None:
        with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
            for name, content in model.items():
                (Path(folder) / name).write_bytes(content)
            self._writer = PartWriter(ScenarioSession.open(Path(folder)), files, settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Results of a batch of days; an error is one too: raised, it would be tried again, or wrapped."""
        results: list[dict[str, Any]] = []
        try:
            results += (dataclasses.asdict(self._writer.make(day)) for day in of_table(batch))
        except HedgecastError as error:
            results.append({"error": type(error).__name__, "message": str(error)})
        except OSError as error:
            message = f"the folder of the run cannot be written: {error}; the same command goes on with it"
            results.append({"error": UnavailableError.__name__, "message": message})
        return pa.table({_RESULT: [json.dumps(result) for result in results]})


def part_of(result: Mapping[str, Any]) -> Part:
    """The part of an actor's result; an error that it holds is raised."""
    if "error" in result:
        kind: type[HedgecastError] = getattr(hedgecast.core.errors, result["error"])
        raise kind(result["message"])
    return Part(**result)


def _contents(bundle: Bundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.folder.iterdir() if file.is_file()}


def _quieten() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
