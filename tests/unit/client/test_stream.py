"""Many decisions on one call, by both clients, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from hedgecast.client import AsyncClient, Client, DecideOptions, DecisionAnswer
from hedgecast.client.stream import StreamAnswer, StreamRequest
from hedgecast.core import errors
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings


@pytest.fixture
def address(local_backend: LocalBackend) -> Iterator[str]:
    with background_server(local_backend, load_settings(port=0, max_stream_requests=4)) as address:
        yield address


@pytest.fixture
def ask(rows: NamedRows) -> DecideOptions:
    return {
        "history": rows.columns, "history_times": rows.times, "scenario_count": 20, "gap_replications": 0,
    }  # fmt: skip


def _several(ask: DecideOptions) -> list[StreamRequest]:
    return [
        ("a", "last_day", {**ask, "seed": 1}),
        ("unknown", "other", ask),
        ("risk", "last_day", {**ask, "risk": "cvar:1.5"}),
        ("time", "last_day", {**ask, "deadline_seconds": 3.0}),
        ("no id", "last_day", ask),
        ("b", "last_day", {**ask, "seed": 2, "given": {"capacity": 38.0}}),
        ("infeasible", "last_day", {**ask, "given": {"capacity": -1.0}}),
    ]


def _check(found: list[StreamAnswer], client: Client, ask: DecideOptions) -> None:
    assert len(found) == 7
    answers = dict(found)
    kinds = {name: type(answer) for name, answer in answers.items()}
    assert kinds == {
        "a": DecisionAnswer,
        "b": DecisionAnswer,
        "unknown": errors.ModelNotFoundError,
        "risk": errors.ConfigError,
        "time": errors.ConfigError,
        "no id": errors.InputError,
        "infeasible": errors.InfeasibleError,
    }
    unknown = answers["unknown"]
    assert isinstance(unknown, errors.ModelNotFoundError)
    assert "last_day@3" in str(unknown)
    assert unknown.facts["grpc_status"] == "NOT_FOUND"
    assert len(str(unknown.facts["incident"])) == 32
    assert "alpha = 1.5" in str(answers["risk"])
    nameless = answers["no id"]
    assert isinstance(nameless, errors.InputError)
    assert nameless.facts["field"] == "correlation_id"
    for name, options in (("a", {"seed": 1}), ("b", {"seed": 2, "given": {"capacity": 38.0}})):
        alone, one = client.decide("last_day", **{**ask, **options}), answers[name]  # type: ignore[typeddict-item]
        assert isinstance(one, DecisionAnswer)
        assert one.scenario_fingerprint == alone.scenario_fingerprint
        assert one.decision["schedule"] == pytest.approx(alone.decision["schedule"], rel=1e-6)


def test_one_bad_request_fails_alone(address: str, ask: DecideOptions) -> None:
    async def requests() -> AsyncIterator[StreamRequest]:
        for request in _several(ask):
            yield request

    async def run() -> list[list[StreamAnswer]]:
        async with AsyncClient(address) as client:
            sources = (_several(ask), requests())
            return [[one async for one in client.decide_stream(source)] for source in sources]

    with Client(address) as client:
        _check(list(client.decide_stream(_several(ask))), client, ask)
        for found in asyncio.run(run()):
            _check(found, client, ask)
        assert list(client.decide_stream([])) == []


def test_a_request_may_wait_for_the_answer_before_it(address: str, ask: DecideOptions) -> None:
    told: queue.Queue[str] = queue.Queue()

    def requests() -> Iterator[StreamRequest]:
        # The first cannot be asked at all: its error must come while nothing else is under way.
        yield "0", "last_day", {**ask, "risk": "cvar:1.5"}
        for number in range(1, 4):
            assert told.get(timeout=30) == str(number - 1)
            yield str(number), "last_day", {**ask, "validate_only": True}

    names = []
    with Client(address) as client:
        for name, _ in client.decide_stream(requests(), deadline_seconds=60):
            names.append(name)
            told.put(name)
    assert names == ["0", "1", "2", "3"]


def test_ending_early_cancels_the_call(address: str, ask: DecideOptions) -> None:
    taken = 0

    def endless() -> Iterator[StreamRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield str(taken), "last_day", {**ask, "validate_only": True}

    with Client(address) as client:
        with contextlib.closing(client.decide_stream(endless())) as answers:
            next(answers)
        time.sleep(0.5)
        before = taken
        time.sleep(0.5)
        assert taken == before
        assert client.decide("last_day", **ask).decision


def test_ending_early_ends_an_async_source(address: str, ask: DecideOptions) -> None:
    async def run() -> None:
        ended = asyncio.Event()

        async def waiting() -> AsyncIterator[StreamRequest]:
            try:
                yield "a", "last_day", ask
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with AsyncClient(address) as client:
            async with contextlib.aclosing(client.decide_stream(waiting())) as answers:
                name, answer = await anext(answers)
                assert name == "a"
                assert isinstance(answer, DecisionAnswer)
            await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(run())


def test_what_the_requests_raise_comes_after_the_answers(address: str, ask: DecideOptions) -> None:
    def broken() -> Iterator[StreamRequest]:
        yield "a", "last_day", ask
        raise LookupError("the caller's own")

    async def run() -> None:
        async with AsyncClient(address) as client:
            answers = client.decide_stream(broken())
            assert (await anext(answers))[0] == "a"
            with pytest.raises(LookupError, match="the caller's own"):
                await anext(answers)

    with Client(address) as client:
        answers = client.decide_stream(broken())
        assert next(answers)[0] == "a"
        with pytest.raises(LookupError, match="the caller's own"):
            next(answers)
    asyncio.run(run())


def test_errors_of_the_whole_call_are_raised(address: str, ask: DecideOptions) -> None:
    def never() -> Iterator[StreamRequest]:
        yield "a", "last_day", ask
        time.sleep(2.0)

    async def run() -> None:
        async with AsyncClient("127.0.0.1:1", deadline_seconds=5) as client:
            with pytest.raises(errors.UnavailableError, match="is the service running there"):
                await anext(client.decide_stream([("a", "last_day", ask)]))

    with Client(address) as client, pytest.raises(errors.DeadlineError):
        list(client.decide_stream(never(), deadline_seconds=0.5))
    asyncio.run(run())
