"""What surrounds every call of our own services: identity, rights, load, deadline, errors, records.

Health and reflection pass: a probe must be answered under load and without a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import traceback
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from hedgecast.core.errors import DeadlineError, HedgecastError, InputError, OverloadedError
from hedgecast.rpc.pieces import Piece
from hedgecast.service.access import AccessBook
from hedgecast.service.calls import CURRENT_CALL, REQUEST_ID_KEY, Call, request_id_in
from hedgecast.service.identity import Identity
from hedgecast.service.logs import REQUEST_ID
from hedgecast.service.records import Recorder
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.status import DETAILS_KEY, rule_of, status_of

INCIDENT_KEY = "x-hedgecast-incident"
_OWN_SERVICES = "/hedgecast."

log = logging.getLogger(__name__)

_Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]
_Context: TypeAlias = grpc.aio.ServicerContext


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A message of a stream that its caller may not send: the others go on."""

    message: Any
    error: HedgecastError


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses what is too much or unknown, bounds the time, turns errors into status, keeps records.

    Parameters
    ----------
    settings : ServiceSettings
        Limits.
    identity : Identity
        Says who calls.
    access : AccessBook
        Says what they may.
    recorders : sequence of Recorder
        Told of every call's begin, answers and end.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        identity: Identity,
        access: AccessBook,
        recorders: Sequence[Recorder] = (),
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._access = access
        self._recorders = tuple(recorders)
        self._under_way = 0

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """The handler, guarded where it is one of ours."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OWN_SERVICES):
            return _careful(handler)
        return self._guarded(handler, handler_call_details)

    def _guarded(
        self, handler: grpc.RpcMethodHandler, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        # To gRPC every method takes a stream of requests, also those that take one: then identity, rights and
        # places are seen to before a message is read, so that nobody can fill the memory with messages that
        # are refused afterwards, and one that comes drop by drop is held to the deadline.
        async def one(incoming: Any, context: _Context) -> Any:
            async with self._guard(context, details) as call:
                method = handler.stream_unary if handler.request_streaming else handler.unary_unary
                answer = await method(await self._admitted(handler, call, incoming), context)
                self._note_answer(call, answer)
                return answer

        async def many(incoming: Any, context: _Context) -> AsyncIterator[Any]:
            async with self._guard(context, details) as call:
                method = handler.stream_stream if handler.request_streaming else handler.unary_stream
                answers = method(await self._admitted(handler, call, incoming), context)
                async with contextlib.aclosing(answers):
                    async for answer in answers:
                        self._note_answer(call, answer)
                        yield answer

        make, behavior = (
            (grpc.stream_stream_rpc_method_handler, many)
            if handler.response_streaming
            else (grpc.stream_unary_rpc_method_handler, one)
        )
        return make(behavior, _parser(handler.request_deserializer), _serializer(handler.response_serializer))

    async def _admitted(self, handler: grpc.RpcMethodHandler, call: Call, incoming: Any) -> Any:
        """The stream of requests, or the one request; each is admitted when it is read."""

        async def requests() -> AsyncGenerator[Any, None]:
            async for request in incoming:
                if isinstance(request, Exception):
                    raise request
                try:
                    self._admit(call, request)
                except HedgecastError as error:
                    # Where each answer names its request, one that is refused does not end the call.
                    if not hasattr(request, "correlation_id"):
                        raise
                    request = Refused(request, error)
                yield request

        stream = requests()
        if handler.request_streaming:
            return stream
        async with contextlib.aclosing(stream):
            async for request in stream:
                return request
        raise InputError("the call ended without a request message")

    def _admit(self, call: Call, request: Any) -> None:
        asked = call.asked(request, self._settings.max_scenarios)
        # What is logged from here on has the id that the request brought.
        REQUEST_ID.set(call.request_id)
        self._access.charge(call.principal, asked.models, asked.scenarios)

    def _note_answer(self, call: Call, answer: Any) -> None:
        # Pieces are cut to fit.
        if not isinstance(answer, Piece):
            require_sendable(answer, self._settings.max_message_bytes)
        answered = call.answered(answer.rest if isinstance(answer, Piece) else answer)
        for recorder in self._recorders:
            recorder.answered(call, answered)

    @contextlib.asynccontextmanager
    async def _guard(self, context: _Context, details: grpc.HandlerCallDetails) -> AsyncIterator[Call]:
        metadata = details.invocation_metadata or ()
        call = _call(details.method, dict(metadata), context.peer())
        for recorder in self._recorders:
            recorder.begun(call, metadata)
        try:
            call.principal = self._identity.principal(metadata, context)
            with self._slot(), self._access.call(call.principal, call.method):
                async with self._deadline(context):
                    CURRENT_CALL.set(call)
                    yield call
            context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
            call.code = "OK"
        except grpc.aio.AbortError:
            call.code = _code_name(context.code())
            raise
        except (asyncio.CancelledError, GeneratorExit):
            call.code = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: what leaves here is a status
            await self._abort(context, call, error)
        finally:
            call.end()
            for recorder in self._recorders:
                recorder.ended(call)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        limit = self._settings.max_concurrent_requests
        if self._under_way >= limit:
            raise OverloadedError(f"{limit} requests are under way, the limit: try again later", limit=limit)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    @contextlib.asynccontextmanager
    async def _deadline(self, context: _Context) -> AsyncIterator[None]:
        seconds = deadline_seconds(context, self._settings)
        try:
            async with asyncio.timeout(seconds) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineError(
                f"no answer within {seconds:.3g} s: allow more time or ask for fewer scenarios",
                seconds=round(seconds, 3),
            ) from error

    async def _abort(self, context: _Context, call: Call, error: Exception) -> None:
        rule = rule_of(error)
        call.code = rule.code.name
        call.reason = error.reason if isinstance(error, HedgecastError) else "INTERNAL"
        if rule.public:
            log.info("%s refused, incident %s: %s", call.method, call.incident, error)
        else:
            log.error("%s failed, incident %s", call.method, call.incident, exc_info=error)
        delay = self._settings.retry_delay_seconds
        status = status_of(error, incident=call.incident, retry_delay_seconds=delay)
        trailing = (
            (DETAILS_KEY, status.SerializeToString()),
            (INCIDENT_KEY, call.incident),
            (REQUEST_ID_KEY, call.request_id),
        )
        # The frames behind an error form cycles with it and hold the request, which unpacked may be 20 times
        # its size, until the collector comes by. Nobody reads them any more.
        traceback.clear_frames(error.__traceback__)
        await context.abort(rule.code, status.message, trailing_metadata=trailing)


def require_sendable(answer: Message, most: int, **facts: object) -> None:
    """Refuse an answer that gRPC would refuse to send: in its own words, to a call that counts as answered.

    Raises
    ------
    InputError
        It is larger than ``most`` bytes.
    """
    size = answer.ByteSize()
    if size > most:
        raise InputError(
            f"the answer has {size} bytes, at most {most} are sent: ask for fewer scenarios, or take them "
            "from GenerateScenarios, batch by batch",
            limit=most,
            **facts,
        )


def deadline_seconds(context: _Context, settings: ServiceSettings) -> float:
    """What is left to the caller; the default where they set no deadline."""
    remaining = context.time_remaining()
    return settings.default_deadline_seconds if remaining is None else max(float(remaining), 0.0)


def _call(path: str, metadata: dict[str, str | bytes], peer: str) -> Call:
    service, _, method = path.removeprefix("/").rpartition("/")
    return Call(
        method=method,
        service=service,
        request_id=request_id_in(metadata) or str(uuid.uuid4()),
        incident=uuid.uuid4().hex,
        peer=peer,
    )


def _parser(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """``parse`` with what cannot be parsed as a value: raised in here, gRPC would answer in its own words."""

    def parsed(content: bytes) -> Any:
        try:
            return parse(content)
        except DecodeError:
            return InputError(f"the request's {len(content)} bytes are not a message of its type")

    return parsed


def _serializer(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """``serialize``, or a piece's own way."""

    def serialized(answer: Any) -> bytes:
        return answer.to_bytes() if isinstance(answer, Piece) else serialize(answer)

    return serialized


def _careful(handler: grpc.RpcMethodHandler | None) -> grpc.RpcMethodHandler | None:
    """A unary handler that is not ours (Health.Check), with a status of ours for what is no message."""
    if handler is None or handler.request_streaming or handler.response_streaming:
        return handler

    async def behavior(request: Any, context: _Context) -> Any:
        if isinstance(request, Exception):
            await context.abort(rule_of(request).code, str(request))
        return await handler.unary_unary(request, context)

    parser = _parser(handler.request_deserializer)
    return grpc.unary_unary_rpc_method_handler(behavior, parser, handler.response_serializer)


def _code_name(code: Any) -> str:
    """grpc.aio keeps the number of an aborted call's status."""
    return next((known.name for known in grpc.StatusCode if code in (known, known.value[0])), "UNKNOWN")
