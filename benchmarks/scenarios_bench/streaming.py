"""A million scenarios over GenerateScenarios against the same batches over Arrow Flight, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.flight
from scenarios_bench.measure import Call, in_turn, ratio, resident

from hedgecast.client import Client

COUNT, STEPS = 1_000_000, 24
BATCH_ROWS = 2**20 // (4 * STEPS)
"""Of a batch: what the service sends where nothing is asked for."""
AIM = 0.7
_SERVERS = pathlib.Path(__file__).resolve().parent / "stream_servers.py"


class Server:
    """A server's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address: str = self._line()["address"]

    def memory(self) -> dict[str, int]:
        """Bytes held now and at most."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


@contextlib.contextmanager
def serving(kind: str, count: int, rows: int) -> Iterator[Server]:
    """A server of that kind while the block runs."""
    paths = [str(_SERVERS.parent.parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, str(_SERVERS), kind, str(count), str(STEPS), str(rows)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def through_grpc(client: Client, count: int, rows: int, held: list[int] | None = None) -> int:
    """Values that came; ``held`` gets the memory held at every tenth batch."""
    got = 0
    batches = client.scenario_batches(
        "ready",
        history={"load": np.zeros(1)},
        history_times=np.array(["2026-01-01T00:00"], "datetime64[ns]"),
        scenario_count=count,
        batch_scenario_count=rows,
        deadline_seconds=300.0,
    )
    for number, batch in enumerate(batches):
        got += _values(batch)
        if held is not None and number % 10 == 0:
            held.append(resident())
    return got


def through_flight(client: pyarrow.flight.FlightClient) -> int:
    """The same over Flight."""
    got = 0
    for chunk in client.do_get(pyarrow.flight.Ticket(b"")):
        got += _values(chunk.data)
    return got


def measure(count: int = COUNT, rounds: int = 15, rows: int = BATCH_ROWS) -> dict[str, Any]:
    """Bytes per second of both in turn, and what memory does while ours alone streams."""
    with (
        serving("grpc", count, rows) as ours,
        serving("flight", count, rows) as theirs,
        Client(ours.address) as client,
    ):
        alone = memory_alone(client, ours, count, rows)
        flight = pyarrow.flight.connect(f"grpc://{theirs.address}")
        ways: dict[str, Call] = {
            "grpc": lambda: _checked("grpc", through_grpc(client, count, rows), count),
            "flight": lambda: _checked("flight", through_flight(flight), count),
        }
        # A first round of each lets both grow their windows and buffers.
        in_turn(ways, 1)
        seconds = in_turn(ways, rounds)
        flight.close()
    return summary(seconds, alone, count=count, rows=rows)


def memory_alone(client: Client, server: Server, count: int, rows: int, streams: int = 8) -> dict[str, int]:
    """Growth of both processes over some streams, after two that fill buffers; no Flight has run yet."""
    for _ in range(2):
        through_grpc(client, count, rows)
    held: list[int] = []
    before, own = server.memory()["resident"], resident()
    for _ in range(streams):
        through_grpc(client, count, rows, held)
    return {
        "streams": streams,
        "server_growth": server.memory()["resident"] - before,
        "server_peak": server.memory()["high_water"],
        "client_growth": resident() - own,
        "client_range": max(held) - min(held),
    }


def summary(
    seconds: dict[str, list[float]], alone: dict[str, int], *, count: int, rows: int
) -> dict[str, Any]:
    """What the page says."""
    size = 4 * STEPS * count
    share = ratio(seconds["flight"], seconds["grpc"])
    return {
        "scenarios": count,
        "steps": STEPS,
        "batch_rows": rows,
        "bytes": size,
        "megabytes_per_second": {name: 1e-6 * size / statistics.median(own) for name, own in seconds.items()},
        "share_of_flight": share,
        "aim": AIM,
        "reached": share["median"] >= AIM,
        "seconds": seconds,
        "alone": alone,
    }


def _values(batch: Any) -> int:
    """Number of values, some of them read: Arrow memory alone would do if it were only handed out."""
    column = batch.column(0)
    values = column.values.to_numpy(zero_copy_only=True)
    if not np.isfinite(values[::1024]).all():
        raise RuntimeError("values that are not finite came")
    return int(values.size)


def _checked(name: str, found: int, count: int) -> None:
    if found != STEPS * count:
        raise RuntimeError(f"{name} brought {found} values of {STEPS * count}")
