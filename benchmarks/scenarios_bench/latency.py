"""GenerateScenarios on loopback against the bare session: what the gateway, and Ray Serve behind it, add.

    bare         ScenarioSession.draw in this process: noise, network, un-scaling
    in process   a gRPC server in a thread of this process around the same session
    ray          the local Ray Serve service: gateway, solver and denoiser, one replica of each, a process
    each

A served call is the client's: rows to messages, and Arrow batches back to one array of paths. The
fingerprint is left out, which `scenario_batches` does; `in process, with fingerprint` is the client's
`scenarios`. One caller. Every answer is compared with the bare session's paths before anything is timed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scenarios_bench.measure import Call, in_turn

from hedgecast.client import Client
from hedgecast.commands.workflow import Prepared
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.session import ScenarioSession
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.arrow import paths_of
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings

COUNTS = {1: 100, 100: 100, 1_000: 60, 10_000: 15}
"""Scenarios of a request, and how many requests are timed."""
AIM_COUNT, AIM_MILLISECONDS = 1_000, 15.0
_DEADLINE_SECONDS = 120.0
_DAY_START = np.datetime64("2020-06-09T22:00", "ns")
_HOURS_BACK, _HOURS = 200, 24
_CHECKED = 2e-4
"""Relative: float32 products of another batch."""

Paths = NDArray[np.floating]


def question(prepared: Prepared) -> dict[str, NamedRows]:
    """The rows before one local day and those known of it."""
    table, schema = prepared.table, prepared.schema
    start = int(np.searchsorted(table.times, _DAY_START))
    past, ahead = slice(start - _HOURS_BACK, start), slice(start, start + _HOURS)

    def rows(names: tuple[str, ...], part: slice) -> NamedRows:
        return NamedRows(table.times[part], {name: table.columns[name][part] for name in names})

    return {"history": rows(schema.columns, past), "known": rows(schema.known, ahead)}


def measure(bundle: Bundle, prepared: Prepared, *, ray: bool = True, effort: float = 1.0) -> dict[str, Any]:
    """Milliseconds of every way at every count."""
    asked = question(prepared)
    session = ScenarioSession(bundle)
    context = session.reader.read(asked["history"], asked["known"])
    with contextlib.ExitStack() as stack:
        clients = {"in process": stack.enter_context(_in_process(bundle))}
        if ray:
            clients["ray"] = stack.enter_context(_ray(bundle))
        rows = []
        for count, requests in COUNTS.items():
            bare = functools.partial(_bare, session, context.features, context.day_number, count)
            served = {name: functools.partial(_served, one, asked, count) for name, one in clients.items()}
            served["in process, with fingerprint"] = functools.partial(
                _whole, clients["in process"], asked, count
            )
            for name, way in served.items():
                _same(name, bare(seed=1), way(seed=1))
            calls: dict[str, Call] = {"bare": bare, **served}
            rows.append(_row(count, in_turn(calls, max(round(effort * requests), 3))))
    return {"rows": rows, "aim_milliseconds": AIM_MILLISECONDS, "aim_scenarios": AIM_COUNT}


def _row(count: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    def quantile(own: list[float], level: float) -> float:
        return 1e3 * float(np.quantile(own, level))

    bare = np.asarray(seconds["bare"])
    return {
        "scenarios": count,
        "requests": len(bare),
        "median_ms": {name: quantile(own, 0.5) for name, own in seconds.items()},
        "tenth_ms": {name: quantile(own, 0.1) for name, own in seconds.items()},
        "p99_ms": {name: quantile(own, 0.99) for name, own in seconds.items()},
        "added_ms": {
            name: 1e3 * float(np.median(np.asarray(own) - bare))
            for name, own in seconds.items()
            if name != "bare"
        },
    }


@contextlib.contextmanager
def _in_process(bundle: Bundle) -> Iterator[Client]:
    backend = LocalBackend([local_model(BundleReference(folder=bundle.folder))])
    with background_server(backend, load_settings(port=0)) as address, Client(address) as client:
        yield client
    backend.close()


@contextlib.contextmanager
def _ray(bundle: Bundle) -> Iterator[Client]:
    # Only here is Ray needed.
    from hedgecast_workers.local_service import local_service

    with local_service(bundle.folder, settings=load_settings(port=0)) as address, Client(address) as client:
        yield client


def _bare(
    session: ScenarioSession, features: NDArray[np.float64], day: int, count: int, *, seed: int = 0
) -> Paths:
    paths: Paths = session.draw(features[None], [day], count, seed)[0]
    return paths


def _options(asked: dict[str, NamedRows], count: int, seed: int) -> dict[str, Any]:
    return {
        "history": asked["history"].columns,
        "history_times": asked["history"].times,
        "known": asked["known"].columns,
        "known_times": asked["known"].times,
        "scenario_count": count,
        "seed": seed,
        "deadline_seconds": _DEADLINE_SECONDS,
    }


def _served(client: Client, asked: dict[str, NamedRows], count: int, *, seed: int = 0) -> Paths:
    parts = [
        paths_of(batch) for batch in client.scenario_batches(_name(client), **_options(asked, count, seed))
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _whole(client: Client, asked: dict[str, NamedRows], count: int, *, seed: int = 0) -> Paths:
    return client.scenarios(_name(client), **_options(asked, count, seed)).paths


@functools.cache
def _name(client: Client) -> str:
    (model,) = client.models()
    return model.name


def _same(name: str, bare: Paths, served: Paths) -> None:
    scale = float(np.sqrt(np.square(bare).mean()))
    difference = float(np.abs(bare - served).max()) / scale
    if not difference < _CHECKED:
        raise RuntimeError(f"{name} sent other scenarios than the bare session: {difference:.1e} relative")
