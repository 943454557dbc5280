"""The guard on every kind of method: a generic service with our name, on a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from hedgecast.core import errors
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.service.access import AccessBook, AccessTable, Grant
from hedgecast.service.calls import REQUEST_ID_KEY, Answered, Call
from hedgecast.service.identity import ANONYMOUS, Identity
from hedgecast.service.interceptors import CallGuard
from hedgecast.service.settings import load_settings

SERVICE = "hedgecast.test.v1.Kinds"
METHODS = {
    "OneOne": "unary_unary",
    "OneMany": "unary_stream",
    "ManyOne": "stream_unary",
    "ManyMany": "stream_stream",
}


class Kinds:
    """Sends every request's id back; a seed of 13 is an error, and one of 99 waits for ever."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.stopped = asyncio.Event()

    async def _answer(self, request: decision_pb.DecideRequest) -> decision_pb.DecideResponse:
        if request.seed == 13:
            raise errors.DataError("unlucky", field="seed")
        if request.seed == 99:
            self.waiting.set()
            try:
                await asyncio.sleep(3600)
            finally:
                self.stopped.set()
        return decision_pb.DecideResponse(
            request_id=request.request_id,
            scenario_fingerprint="f",
            scenario_count=request.scenario_count,
            model=decision_pb.ModelReference(name=request.model, version="1"),
        )

    async def one_one(self, request: Any, context: Any) -> Any:
        return await self._answer(request)

    async def one_many(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield await self._answer(
            decision_pb.DecideRequest(model=request.model, request_id=request.request_id)
        )
        yield await self._answer(request)

    async def many_one(self, requests: Any, context: Any) -> Any:
        return [await self._answer(request) async for request in requests][-1]

    async def many_many(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self._answer(request)

    def handlers(self) -> grpc.GenericRpcHandler:
        codecs = {
            "request_deserializer": decision_pb.DecideRequest.FromString,
            "response_serializer": decision_pb.DecideResponse.SerializeToString,
        }
        methods = {
            "OneOne": grpc.unary_unary_rpc_method_handler(self.one_one, **codecs),
            "OneMany": grpc.unary_stream_rpc_method_handler(self.one_many, **codecs),
            "ManyOne": grpc.stream_unary_rpc_method_handler(self.many_one, **codecs),
            "ManyMany": grpc.stream_stream_rpc_method_handler(self.many_many, **codecs),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


class Ended:
    """Keeps the calls that have ended."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def begun(self, call: Call, metadata: Any) -> None:
        assert call.service == SERVICE

    def answered(self, call: Call, answered: Answered) -> None:
        assert answered.fingerprint == "f"

    def ended(self, call: Call) -> None:
        self.calls.append(call)

    async def after(self, count: int) -> list[Call]:
        """All there are once there are so many, or after 4 s: an answer may come before its record."""
        for _ in range(200):
            if len(self.calls) >= count:
                break
            await asyncio.sleep(0.02)
        return self.calls


def _with_server(
    work: Callable[[grpc.aio.Channel, Kinds, Ended], Awaitable[None]],
    *,
    table: AccessTable | None = None,
    **settings: object,
) -> None:
    async def run() -> None:
        ended, kinds = Ended(), Kinds()
        book = AccessBook(lambda: table or AccessTable(default=Grant()))
        guard = CallGuard(load_settings(**settings), Identity(None), book, [ended])
        server = grpc.aio.server(interceptors=[guard])
        server.add_generic_rpc_handlers((kinds.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await work(channel, kinds, ended)
        finally:
            await server.stop(None)

    asyncio.run(run())


async def _call(
    channel: grpc.aio.Channel, method: str, *requests: decision_pb.DecideRequest, timeout: float | None = 10
) -> list[Any]:
    """The answers, whatever the kind."""
    multi = getattr(channel, METHODS[method])(
        f"/{SERVICE}/{method}",
        request_serializer=decision_pb.DecideRequest.SerializeToString,
        response_deserializer=decision_pb.DecideResponse.FromString,
    )
    call = multi(iter(requests) if method.startswith("Many") else requests[0], timeout=timeout)
    answers = [answer async for answer in call] if method.endswith("Many") else [await call]
    trailing = dict(await call.trailing_metadata())
    assert trailing[REQUEST_ID_KEY]
    return answers


def _request(**fields: Any) -> decision_pb.DecideRequest:
    return decision_pb.DecideRequest(**{"model": "m", **fields})


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_is_served_and_recorded(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        answers = await _call(
            channel, method, _request(request_id="mine", scenario_count=7, gap_replication_count=0)
        )
        assert answers[-1].request_id == "mine"
        (call,) = await ended.after(1)
        assert (call.method, call.code, call.principal) == (method, "OK", ANONYMOUS)
        assert (call.request_id, call.model, call.fingerprint) == ("mine", "m@1", "f")
        assert (call.scenarios, call.requests, call.answers) == (7, 1, len(answers))

    _with_server(work)


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_turns_errors_into_status(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="unlucky") as caught:
            await _call(channel, method, _request(seed=13))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        found = await ended.after(1)
        assert [(call.code, call.reason) for call in found] == [("INVALID_ARGUMENT", "INVALID_DATA")]

    _with_server(work)


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_stops_at_the_servers_deadline(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(channel, method, _request(seed=99), timeout=None)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert kinds.stopped.is_set(), "the work itself has stopped"

    _with_server(work, default_deadline_seconds=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_is_authorized_by_model_in_every_message(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        requests = (
            [_request(), _request(model="secret")]
            if method.startswith("Many")
            else [_request(model="secret")]
        )
        with pytest.raises(grpc.aio.AioRpcError, match="may not use model 'secret'") as caught:
            await _call(channel, method, *requests)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    _with_server(work, table=AccessTable(default=Grant(models=("m",))))


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_gives_its_place_back_when_cancelled(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        task = asyncio.create_task(_call(channel, method, _request(seed=99)))
        await asyncio.wait_for(kinds.waiting.wait(), 10)
        with pytest.raises(grpc.aio.AioRpcError, match="under way, the limit"):
            await _call(channel, method, _request())
        task.cancel()
        await asyncio.wait_for(kinds.stopped.wait(), 10)
        # The cancelled call's record comes as its place is given back.
        await ended.after(2)
        assert await _call(channel, method, _request())
        assert sorted(call.code for call in await ended.after(3)) == ["CANCELLED", "OK", "RESOURCE_EXHAUSTED"]

    _with_server(work, max_concurrent_requests=1)


def test_a_stream_that_nobody_reads_is_cut_at_the_deadline() -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        multi = channel.stream_stream(
            f"/{SERVICE}/ManyMany", request_serializer=decision_pb.DecideRequest.SerializeToString
        )
        call = multi()
        await call.write(_request())
        # Half open: no further message, no end, nobody reads.
        assert [found.code for found in await ended.after(1)] == ["DEADLINE_EXCEEDED"]

    _with_server(work, default_deadline_seconds=0.3)


def test_the_id_in_the_metadata_is_used_where_the_request_has_none() -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        multi = channel.unary_unary(
            f"/{SERVICE}/OneOne",
            request_serializer=decision_pb.DecideRequest.SerializeToString,
            response_deserializer=decision_pb.DecideResponse.FromString,
        )
        for sent, kept in (("from-headers", True), ("no good id", False)):
            call = multi(_request(), metadata=((REQUEST_ID_KEY, sent),))
            answer = await call
            assert dict(await call.trailing_metadata())[REQUEST_ID_KEY] == answer.request_id
            assert (answer.request_id == sent) is kept

    _with_server(work)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_the_callers_error(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        call = getattr(channel, METHODS[method])(f"/{SERVICE}/{method}")
        content = b"\xff\xff\xff no message"
        with pytest.raises(grpc.aio.AioRpcError, match="not a message of its type") as caught:
            await _first(call(iter([content]) if method.startswith("Many") else content, timeout=10))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    _with_server(work)


async def _first(call: Any) -> Any:
    if hasattr(call, "__aiter__"):
        return [answer async for answer in call]
    return await call


@pytest.mark.parametrize("method", ["OneOne", "OneMany"])
def test_a_call_without_a_message_is_the_callers_error(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        call = channel.stream_stream(f"/{SERVICE}/{method}")(timeout=10)
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="without a request message") as caught:
            await _first(call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    _with_server(work)


@pytest.mark.parametrize("method", ["OneOne", "OneMany"])
def test_a_message_that_never_comes_is_held_to_the_deadline(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        call = channel.stream_stream(f"/{SERVICE}/{method}")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _first(call)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    _with_server(work, default_deadline_seconds=0.2)


def test_who_may_not_call_is_refused_before_the_message_is_read() -> None:
    """Nobody sends one here, and the answer comes all the same."""

    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        call = channel.stream_stream(f"/{SERVICE}/OneOne")(timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _first(call)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    _with_server(work, table=AccessTable(default=Grant(methods=("Other",))))


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_cannot_be_sent_is_a_recorded_error(method: str) -> None:
    async def work(channel: grpc.aio.Channel, kinds: Kinds, ended: Ended) -> None:
        assert await _call(channel, method, _request())
        with pytest.raises(grpc.aio.AioRpcError, match="at most 1024 are sent") as caught:
            await _call(channel, method, _request(model="m" * 2000))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [call.code for call in await ended.after(2)] == ["OK", "INVALID_ARGUMENT"]

    _with_server(work, max_message_bytes=1024)
