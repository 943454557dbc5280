"""Two servers of the same paths, each a process: GenerateScenarios, and Arrow Flight.

    python stream_servers.py grpc|flight COUNT STEPS BATCH_ROWS

prints one line of JSON with the address, then one with its memory for each line that comes, and ends with its
input. Drawing is left out: batches are cut from one block of paths that both servers make alike, so that the
transport alone is timed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.flight
from scenarios_bench.measure import high_water, resident

from hedgecast.scenarios.arrow import Description, record_batch
from hedgecast.service.answers import ScenariosAnswer, ScenarioSource
from hedgecast.service.models import ColumnSpec, ModelDescription, ProgramDescription
from hedgecast.service.queries import Query, ScenariosQuery
from hedgecast.service.server import DecisionServer
from hedgecast.service.settings import load_settings

A = TypeVar("A")
NAMES, UNITS = ("load",), ("GW",)


def block(rows: int, steps: int) -> np.ndarray:
    """Paths (rows, steps, 1) that every batch is cut from."""
    return np.random.default_rng(0).standard_normal((rows, steps, 1)).astype(np.float32)


class Ready:
    """A backend whose scenarios are drawn already: any batch is the first rows of one block."""

    def __init__(self, rows: int, steps: int) -> None:
        self._paths = block(rows, steps)
        program = ProgramDescription(name="", version="", fingerprint="", decision=(), uncertain=(), given=())
        self._model = ModelDescription(
            name="ready",
            version="1",
            fingerprint="f",
            aliases=(),
            program=program,
            history_columns=(ColumnSpec(name="load"),),
            known_columns=(),
            history_steps=1,
            horizon_steps=steps,
            step_seconds=3600.0,
            time_zone="UTC",
            series=(ColumnSpec(name="load", unit="GW"),),
        )

    async def models(self) -> tuple[ModelDescription, ...]:
        """The one model."""
        return (self._model,)

    async def answer(self, query: Query[Any]) -> Any:
        """As many rows as are asked for."""
        assert isinstance(query, ScenariosQuery)
        return ScenariosAnswer(
            model=self._model,
            names=NAMES,
            units=UNITS,
            times=None,
            paths=self._paths[: query.scenario_count],
            made_by="ready",
            source=ScenarioSource.MODEL,
            warnings=(),
        )


class Flight(pa.flight.FlightServerBase):  # type: ignore[misc]
    """The same batches by DoGet."""

    def __init__(self, count: int, steps: int, rows: int) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._count, self._rows = count, rows
        self._paths = block(rows, steps)
        self._schema = Description(names=NAMES, units=UNITS, num_steps=steps, source="ready").schema()

    def do_get(self, _context: Any, _ticket: Any) -> pa.flight.RecordBatchStream:
        """All batches, made as they are taken."""

        def batches() -> Iterator[pa.RecordBatch]:
            for start in range(0, self._count, self._rows):
                yield record_batch(self._schema, self._paths[: min(self._rows, self._count - start)])

        return pa.flight.GeneratorStream(self._schema, batches())


async def _grpc(rows: int, steps: int) -> None:
    # As shipped: every limit and recorder of the real server.
    server = DecisionServer(Ready(rows, steps), load_settings(port=0, log_format="text"))
    _say({"address": await server.start()})
    await server.set_ready()
    await asyncio.to_thread(_until_end)
    await server.stop()


def _flight(count: int, rows: int, steps: int) -> None:
    with Flight(count, steps, rows) as server:
        _say({"address": f"127.0.0.1:{server.port}"})
        _until_end()


def _until_end() -> None:
    """Memory on every line that comes, until the input ends."""
    for _ in sys.stdin:
        _say({"resident": resident(), "high_water": high_water()})


def _say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def main() -> None:
    kind, count, steps, rows = sys.argv[1], *map(int, sys.argv[2:5])
    if kind == "grpc":
        asyncio.run(_grpc(rows, steps))
    else:
        _flight(count, rows, steps)


if __name__ == "__main__":
    main()
