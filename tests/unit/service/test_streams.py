"""Many requests on one call: out of order, one failing alone, bounded."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from hedgecast.core.errors import OverloadedError, RateLimitedError
from hedgecast.rpc import codec
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import ServiceSettings, load_settings
from hedgecast.service.settled import stream_error
from hedgecast.service.streams import answered, read_ahead


async def _numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def test_answers_come_as_they_are_ready() -> None:
    async def run() -> list[int]:
        gates = [asyncio.Event() for _ in range(3)]

        async def work(number: int) -> int:
            if number < 2:
                await gates[number + 1].wait()
            gates[number].set()
            return number

        return [answer async for answer in answered(_numbers(3), work, most=3)]

    assert asyncio.run(run()) == [2, 1, 0]


def test_no_more_are_read_than_there_are_places() -> None:
    async def run() -> None:
        read = 0

        async def requests() -> AsyncIterator[int]:
            nonlocal read
            for number in range(100):
                read += 1
                yield number

        async def work(number: int) -> int:
            return number

        answers = answered(requests(), work, most=4)
        assert await anext(answers) == 0
        await asyncio.sleep(0.05)
        assert read == 4, "the place of the first is free only when the second is asked for"
        assert await anext(answers) == 1
        await asyncio.sleep(0.05)
        assert read == 5
        await answers.aclose()

    asyncio.run(run())


def test_leaving_cancels_what_is_under_way() -> None:
    async def run() -> list[str]:
        seen: list[str] = []

        async def work(number: int) -> int:
            if number == 0:
                return number
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append(f"cancelled {number}")
                raise
            return number

        answers = answered(_numbers(3), work, most=3)
        assert await anext(answers) == 0
        await asyncio.sleep(0.01)
        await answers.aclose()
        return sorted(seen)

    assert asyncio.run(run()) == ["cancelled 1", "cancelled 2"]


def test_an_error_of_the_requests_ends_the_whole() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no message")

    async def run() -> None:
        async def work(number: int) -> int:
            return number

        async for _ in answered(broken(), work, most=2):
            pass

    with pytest.raises(ValueError, match="no message"):
        asyncio.run(run())


def test_one_part_is_worked_on_ahead() -> None:
    async def run() -> None:
        begun: list[int] = []

        async def work(number: int) -> int:
            begun.append(number)
            await asyncio.sleep(0)
            return number

        found = read_ahead(range(9), work)
        for number in range(5):
            assert await anext(found) == number
            await asyncio.sleep(0.01)
            assert begun == list(range(number + 2)), "the next, and no more"
        assert [number async for number in found] == [5, 6, 7, 8]
        assert [number async for number in read_ahead([], work)] == []

    asyncio.run(run())


@pytest.mark.parametrize("taken", [1, 2])
def test_leaving_cancels_the_part_that_is_worked_on(taken: int) -> None:
    async def run() -> list[int]:
        cancelled: list[int] = []

        async def work(number: int) -> int:
            try:
                await asyncio.sleep(60 if number == taken else 0)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
            return number

        found = read_ahead(range(9), work)
        for _ in range(taken):
            await anext(found)
        await asyncio.sleep(0.01)
        await found.aclose()
        return cancelled

    assert asyncio.run(run()) == [taken]


def test_an_error_of_a_part_ends_the_whole_after_those_before() -> None:
    async def run() -> list[int]:
        async def work(number: int) -> int:
            return 6 // (3 - number)

        found = read_ahead(range(9), work)
        before = [await anext(found) for _ in range(3)]
        with pytest.raises(ZeroDivisionError):
            await anext(found)
        return before

    assert asyncio.run(run()) == [2, 3, 6]


def _request(name: str, rows: NamedRows, **fields: object) -> decision_pb.DecideStreamRequest:
    question = {"model": "last_day", "scenario_count": 20, "gap_replication_count": 0, **fields}
    return decision_pb.DecideStreamRequest(
        correlation_id=name,
        request=decision_pb.DecideRequest(history=codec.encode_rows(rows), **question),  # type: ignore[arg-type]
    )


@pytest.fixture
def channel(local_backend: LocalBackend) -> Iterator[grpc.Channel]:
    with (
        background_server(local_backend, ServiceSettings(port=0)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield channel


def test_one_bad_request_fails_alone(channel: grpc.Channel, rows: NamedRows) -> None:
    stub = decision_grpc.DecisionServiceStub(channel)
    requests = [
        _request("a", rows, seed=1),
        _request("b", rows, model="other"),
        _request("c", rows, seed=2),
        _request("d e", rows),
        decision_pb.DecideStreamRequest(correlation_id="f"),
        _request("g", rows, given={"capacity": codec.encode_tensor(_negative())}),
    ]
    answers = {answer.correlation_id: answer for answer in stub.DecideStream(iter(requests), timeout=60)}
    assert set(answers) == {"a", "b", "c", "d e", "f", "g"}
    for name, seed in (("a", 1), ("c", 2)):
        alone = stub.Decide(_request(name, rows, seed=seed).request, timeout=30)
        assert answers[name].response.decision == alone.decision
        assert answers[name].response.scenario_fingerprint == alone.scenario_fingerprint
    reasons = {name: answers[name].error.reason for name in ("b", "d e", "f", "g")}
    assert reasons == {
        "b": "MODEL_NOT_FOUND",
        "d e": "INVALID_INPUT",
        "f": "INVALID_INPUT",
        "g": "INFEASIBLE",
    }
    fields = {name: answers[name].error.field for name in reasons}
    assert fields == {"b": "model", "d e": "correlation_id", "f": "request", "g": ""}
    assert not any(answers[name].error.HasField("retry_delay") for name in reasons)
    assert answers["b"].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert "last_day@3" in answers["b"].error.message
    assert len(answers["b"].error.incident_id) == 32


def _negative() -> object:
    import numpy as np

    return np.array(-1.0)


def test_what_the_caller_may_not_ask_fails_alone(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    table = tmp_path / "access.toml"
    table.write_text('[default]\nmodels = ["last_day"]\nscenarios_per_minute = 50\n')
    with (
        background_server(local_backend, load_settings(port=0, access_file=table)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = decision_grpc.DecisionServiceStub(channel)
        requests = [
            _request("first", rows),
            _request("others", rows, model="secret"),
            _request("second", rows),
            _request("too much", rows),
        ]
        answers = {answer.correlation_id: answer for answer in stub.DecideStream(iter(requests), timeout=60)}
    assert answers["first"].HasField("response")
    assert answers["second"].HasField("response")
    assert answers["others"].error.reason == "PERMISSION_DENIED"
    assert answers["others"].error.field == "model"
    assert answers["too much"].error.reason == "RATE_LIMITED"
    # Ten scenarios are missing, at 50 a minute.
    assert 0.0 < codec.decode_duration(answers["too much"].error.retry_delay) <= 12.0


def test_an_error_that_knows_no_delay_has_that_of_the_settings() -> None:
    busy = stream_error(OverloadedError("full"), "i", retry_delay_seconds=0.75)
    assert codec.decode_duration(busy.retry_delay) == 0.75
    # More than is ever granted: waiting does not help.
    never = stream_error(RateLimitedError("never", retry_seconds=math.inf), "i", retry_delay_seconds=0.75)
    assert not never.HasField("retry_delay")


def test_a_thousand_questions_on_one_call(channel: grpc.Channel, rows: NamedRows) -> None:
    stub = decision_grpc.DecisionServiceStub(channel)
    requests = (_request(str(number), rows, validate_only=True) for number in range(1000))
    names = {answer.correlation_id for answer in stub.DecideStream(requests, timeout=120)}
    assert names == {str(number) for number in range(1000)}
