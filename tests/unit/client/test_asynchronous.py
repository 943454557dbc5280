"""The asyncio client: the same answers, many at once, the same errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from hedgecast.client import AsyncClient, Client
from hedgecast.core import errors
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import ServiceSettings


@pytest.fixture
def address(local_backend: LocalBackend) -> Iterator[str]:
    with background_server(local_backend, ServiceSettings(port=0)) as address:
        yield address


def test_many_at_once_get_their_own_answers(address: str, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times, "scenario_count": 30, "gap_replications": 0}

    async def run() -> list[str]:
        async with AsyncClient(address) as client:
            assert (await client.model("last_day")).name == "last_day@3"
            assert len(await client.models()) == 2
            answers = await asyncio.gather(
                *(client.decide("last_day", **ask, seed=seed) for seed in range(8))
            )
            plan = {"zero": {"schedule": np.zeros(6)}}
            assert (await client.evaluate("last_day", plan, **ask_less(ask))).plans[0].label == "zero"
            assert (await client.explain("last_day", **ask_less(ask))).influences
            return [answer.scenario_fingerprint for answer in answers]

    found = asyncio.run(run())
    with Client(address) as client:
        expected = [client.decide("last_day", **ask, seed=seed).scenario_fingerprint for seed in range(8)]
    assert found == expected
    assert len(set(found)) == 8


def ask_less(ask: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in ask.items() if key != "gap_replications"}


def test_errors_are_those_of_the_service(address: str, rows: NamedRows) -> None:
    async def run() -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(errors.ModelNotFoundError, match="is not served"):
                await client.decide("other", history=rows.columns, history_times=rows.times)
        async with AsyncClient("127.0.0.1:1", retries=1, deadline_seconds=5) as client:
            with pytest.raises(errors.UnavailableError, match="is the service running there"):
                await client.models()

    asyncio.run(run())
    with pytest.raises(errors.ConfigError, match="in the clear"):
        AsyncClient("planner.example:443", token="t")
