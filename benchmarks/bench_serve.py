"""Latency and throughput of Decide, here and through Ray Serve, against the same work called directly.

    python benchmarks/bench_serve.py [--services background,ray] [--requests 400] [--concurrent 1,4,16,32]
    python benchmarks/bench_serve.py --scenarios 25,50 --output small.json      other counts, elsewhere

The same bundle answers the same requests: `direct` is the backend's `answer` in this process, `background`
a gRPC server in this process around the same backend object, `ray` the local Ray Serve service (a gateway
and a solver that draws, each a process). Direct and served calls alternate in short blocks, so that other
work on the machine meets both. Callers are closed loops: each sends its next request when it has an answer,
for another day and with another seed than any other.
Results are kept after each service in benchmarks/results/serve.json, and docs/serving.md is written from it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from serving.page import page

from hedgecast.client import AsyncClient
from hedgecast.client.requests import decide_request
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model, warm_up, warm_up_context
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.requests import decide_query
from hedgecast.service.settings import load_settings
from hedgecast.testing import TinyModel, make_tiny_model

ROOT = pathlib.Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "serve.json"
SERVICES = ("background", "ray")
PAGE_SCENARIOS = "200,1000"
_DEADLINE_SECONDS = 600.0
_BLOCKS = 5
_DAYS = 16

Call = Callable[[int], Awaitable[str]]
"""Asks with a seed; the fingerprint of the scenarios comes back."""


@dataclasses.dataclass
class Timings:
    """Latencies of one way of asking, and the time that all of them took."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    wall: float = 0.0

    def figures(self) -> dict[str, float]:
        """Milliseconds by quantile, and requests a second."""
        low = 1e3 * np.quantile(self.seconds, [0.5, 0.99, 0.999])
        names = ("p50_ms", "p99_ms", "p999_ms")
        found = {name: round(float(value), 2) for name, value in zip(names, low, strict=True)}
        return {**found, "requests_per_second": round(len(self.seconds) / self.wall, 2)}

    async def add(self, call: Call, seeds: range, concurrent: int) -> None:
        """Ask with each seed, so many at once."""
        left = iter(seeds)

        async def caller() -> None:
            for seed in left:
                begun = time.perf_counter()
                await call(seed)
                self.seconds.append(time.perf_counter() - begun)

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrent)))
        self.wall += time.perf_counter() - started


def main() -> None:
    """Measure the services that are asked for, keep the rest of the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", default=",".join(SERVICES))
    parser.add_argument("--requests", type=int, default=400, help="of each way, at each concurrency")
    parser.add_argument("--scenarios", default=PAGE_SCENARIOS)
    parser.add_argument("--concurrent", default="1,4,16,32")
    parser.add_argument(
        "--solvers", type=int, default=2, help="replicas behind Ray Serve, one call at a time"
    )
    parser.add_argument("--output", type=pathlib.Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.scenarios != PAGE_SCENARIOS and arguments.output == RESULT:
        parser.error("other numbers of scenarios would replace what docs/serving.md shows: give --output")
    counts, concurrencies = (
        [int(word) for word in words.split(",")] for words in (arguments.scenarios, arguments.concurrent)
    )
    with tempfile.TemporaryDirectory(prefix="hedgecast-serve-") as folder:
        tiny = make_tiny_model(pathlib.Path(folder))
        for service in arguments.services.split(","):
            result = _measured(
                service, tiny, arguments.requests, counts, concurrencies, solvers=arguments.solvers
            )
            _keep(service, result, arguments.output)
    if arguments.output == RESULT:
        (ROOT / "docs" / "serving.md").write_text(page(json.loads(RESULT.read_text())))


def _measured(
    service: str,
    tiny: TinyModel,
    requests: int,
    counts: list[int],
    concurrencies: list[int],
    *,
    solvers: int,
) -> dict[str, Any]:
    reference = BundleReference(folder=tiny.bundle.folder)
    local = local_model(reference)
    context = warm_up_context(local.model)
    warm_up(local.model, context, local.draw(context, 16, 0))
    backend = LocalBackend([local])
    load = os.getloadavg()[0]
    with _served(service, backend, reference, solvers) as address:
        rows = asyncio.run(
            _rows(service, address, backend, _questions(tiny), requests, counts, concurrencies)
        )
    backend.close()
    found = {"machine": _machine(load), "days": _DAYS, "rows": rows}
    return found if service == "background" else {**found, "solvers": solvers}


@contextlib.contextmanager
def _served(service: str, backend: LocalBackend, reference: BundleReference, solvers: int) -> Iterator[str]:
    # Solvers share the cores: a second call at each would wait for the first one's interpreter.
    settings = load_settings(port=0, default_deadline_seconds=_DEADLINE_SECONDS, solver_calls=1)
    if service == "background":
        with background_server(backend, settings) as address:
            yield address
        return
    # Only here is Ray needed.
    from hedgecast_workers.local_service import local_service

    with local_service(reference, num_solvers=solvers, settings=settings) as address:
        yield address


def _questions(tiny: TinyModel) -> list[dict[str, Any]]:
    """The plans of local winter days, which begin at 23:00 UTC the day before."""
    starts = np.datetime64("2021-01-19T23:00") + np.timedelta64(24, "h") * np.arange(_DAYS)
    return [{**tiny.question(str(start)), "gap_replications": 0} for start in starts]


async def _rows(
    service: str,
    address: str,
    backend: LocalBackend,
    questions: list[dict[str, Any]],
    requests: int,
    counts: list[int],
    concurrencies: list[int],
) -> list[dict[str, Any]]:
    rows = []
    async with AsyncClient(address, retries=0, deadline_seconds=_DEADLINE_SECONDS) as client:
        for scenarios in counts:
            options = [{**question, "scenario_count": scenarios} for question in questions]
            direct, served = _calls(backend, client, options)
            for seed in range(3):
                # Also warms both.
                if await direct(seed) != await served(seed):
                    raise RuntimeError(f"{service} drew other scenarios than the backend for seed {seed}")
            for concurrent in concurrencies:
                row = await _row(direct, served, requests, concurrent)
                rows.append({"scenarios": scenarios, "concurrent": concurrent, **row})
                Console().print(f"{service}: {rows[-1]}")
    return rows


def _calls(backend: LocalBackend, client: AsyncClient, questions: list[dict[str, Any]]) -> tuple[Call, Call]:
    """Each seed asks for the next day, around."""
    messages = [decide_request("tiny", options) for options in questions]  # type: ignore[arg-type]
    queries = [
        decide_query(message, load_settings(), deadline_seconds=_DEADLINE_SECONDS) for message in messages
    ]

    async def direct(seed: int) -> str:
        query = queries[seed % len(queries)]
        answer = await backend.answer(dataclasses.replace(query, seed=seed))
        assert answer.solution is not None
        return answer.solution.scenario_fingerprint

    async def served(seed: int) -> str:
        options = questions[seed % len(questions)]
        return (await client.decide("tiny", seed=seed, **options)).scenario_fingerprint

    return direct, served


async def _row(direct: Call, served: Call, requests: int, concurrent: int) -> dict[str, Any]:
    timings = {"direct": Timings(), "served": Timings()}
    size = max(requests // _BLOCKS, concurrent)
    for block in range(_BLOCKS):
        seeds = range(block * size, (block + 1) * size)
        ways = [("direct", direct), ("served", served)]
        for name, call in ways if block % 2 == 0 else ways[::-1]:
            await timings[name].add(call, seeds, concurrent)
    return {"requests": size * _BLOCKS, **{name: timing.figures() for name, timing in timings.items()}}


def _keep(service: str, result: dict[str, Any], output: pathlib.Path) -> None:
    """Beside what is there of other services."""
    kept = json.loads(output.read_text()) if output.exists() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f"{output.name}.tmp")
    temporary.write_text(json.dumps({**kept, service: result}, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, output)


def _machine(load: float) -> dict[str, Any]:
    names = ("numpy", "torch", "onnxruntime", "grpcio", "ray")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


if __name__ == "__main__":
    main()
