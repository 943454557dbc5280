"""Many decisions on one call: what both clients share, and their methods."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator
from typing import Any

import grpc

from hedgecast.client.answers import DecisionAnswer
from hedgecast.client.channel import Terms, typed
from hedgecast.client.reading import decision_answer
from hedgecast.client.requests import DecideOptions, decide_request
from hedgecast.core import errors
from hedgecast.core.errors import ConfigError, HedgecastError
from hedgecast.rpc.codec import decode_duration
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb

StreamRequest = tuple[str, str, DecideOptions]
"""Correlation id, model, options."""
StreamAnswer = tuple[str, DecisionAnswer | HedgecastError]
"""Correlation id, and what came of it."""


class DecisionStreams:
    """The stream of a client that waits."""

    _terms: Terms
    _decisions: Any

    def decide_stream(
        self, requests: Iterable[StreamRequest], *, deadline_seconds: float | None = None
    ) -> Generator[StreamAnswer, None, None]:
        """Many decisions on one call: correlation id and what came of it, in the order in which they come.

        A request that has no answer fails alone: its error comes as a value. Ending the iteration early
        cancels the call. Not tried again: requests that were taken cannot be taken again.

        Parameters
        ----------
        requests : iterable
            (correlation id, model, options as for `decide`), taken in another thread, as fast as the service
            reads them; it may wait for answers. Ids have 1 to 64 letters, digits, dots, dashes and
            underscores and are the caller's to keep unique.
        deadline_seconds : float, optional
            Time for the whole call, in place of the options'; the client's where left out.

        Raises
        ------
        HedgecastError
            Of the whole call. What ``requests`` itself raises comes after the answers to those before.
        """
        feed = _Feed()
        seconds = self._terms.deadline_seconds if deadline_seconds is None else deadline_seconds
        messages = feed.messages(requests)
        call = self._decisions.DecideStream(messages, timeout=seconds, metadata=self._terms.metadata)
        try:
            for message in call:
                yield feed.answer(message)
        except grpc.RpcError as error:
            raise typed(error, self._terms.address) from error
        finally:
            call.cancel()
        feed.finish()


class AsyncDecisionStreams:
    """The stream of a client on an event loop."""

    _terms: Terms
    _decisions: Any

    async def decide_stream(
        self,
        requests: Iterable[StreamRequest] | AsyncIterable[StreamRequest],
        *,
        deadline_seconds: float | None = None,
    ) -> AsyncGenerator[StreamAnswer, None]:
        """Many decisions on one call: correlation id and what came of it, in the order in which they come.

        A request that has no answer fails alone: its error comes as a value. Ending the iteration early
        cancels the call. Not tried again: requests that were taken cannot be taken again.

        Parameters
        ----------
        requests : iterable or async iterable
            (correlation id, model, options as for `decide`), taken as fast as the service reads them; an
            async one may wait for answers. Ids have 1 to 64 letters, digits, dots, dashes and underscores
            and are the caller's to keep unique.
        deadline_seconds : float, optional
            Time for the whole call, in place of the options'; the client's where left out.

        Raises
        ------
        HedgecastError
            Of the whole call. What ``requests`` itself raises comes after the answers to those before.
        """
        feed = _Feed()
        seconds = self._terms.deadline_seconds if deadline_seconds is None else deadline_seconds
        messages = _AsyncMessages(feed, requests)
        call = self._decisions.DecideStream(messages, timeout=seconds, metadata=self._terms.metadata)
        try:
            async for message in call:
                yield feed.answer(message)
        except grpc.RpcError as error:
            raise typed(error, self._terms.address) from error
        finally:
            call.cancel()
        feed.finish()


class _Feed:
    """Messages from requests, and answers from messages."""

    def __init__(self) -> None:
        self._refused: dict[str, HedgecastError] = {}
        self._failure: Exception | None = None

    def messages(self, requests: Iterable[StreamRequest]) -> Iterator[decision_pb.DecideStreamRequest]:
        """One for each request, up to the first that raises."""
        try:
            for request in requests:
                yield self.message(request)
        except Exception as error:  # noqa: BLE001 - raised where the answers are taken; gRPC would log it alone
            self.fail(error)

    def message(self, request: StreamRequest) -> decision_pb.DecideStreamRequest:
        """That asks it; empty where it cannot be asked."""
        name, model, options = request
        try:
            if options.get("deadline_seconds") is not None:
                raise ConfigError(
                    "deadline_seconds of one request in a stream: give it to decide_stream, for all"
                )
            question = decide_request(model, options)
        except HedgecastError as error:
            # The service refuses what is empty, which gives the error its place among the answers: whoever
            # waits for one before asking more gets it.
            self._refused[name] = error
            return decision_pb.DecideStreamRequest(correlation_id=name)
        return decision_pb.DecideStreamRequest(correlation_id=name, request=question)

    def fail(self, error: Exception) -> None:
        """No more requests come."""
        self._failure = error

    def answer(self, message: decision_pb.DecideStreamResponse) -> StreamAnswer:
        """Its id, and the decision or the error."""
        name = message.correlation_id
        refused = self._refused.pop(name, None)
        if refused is not None:
            return name, refused
        if message.HasField("error"):
            return name, _stream_error(message.error)
        return name, decision_answer(message.response)

    def finish(self) -> None:
        """Raise what ended the requests early."""
        if self._failure is not None:
            raise self._failure


class _AsyncMessages:
    """The messages as an async iterator. No generator: a call that is cancelled would leave it unfinished."""

    def __init__(self, feed: _Feed, requests: Iterable[StreamRequest] | AsyncIterable[StreamRequest]) -> None:
        self._feed = feed
        self._ahead = aiter(requests) if isinstance(requests, AsyncIterable) else None
        self._held = iter(()) if isinstance(requests, AsyncIterable) else iter(requests)

    def __aiter__(self) -> _AsyncMessages:
        return self

    async def __anext__(self) -> decision_pb.DecideStreamRequest:
        try:
            return self._feed.message(await self._next())
        except StopAsyncIteration:
            raise
        except Exception as error:
            # gRPC would cancel the call.
            self._feed.fail(error)
            raise StopAsyncIteration from error

    async def _next(self) -> StreamRequest:
        if self._ahead is not None:
            return await anext(self._ahead)
        try:
            return next(self._held)
        except StopIteration as error:
            raise StopAsyncIteration from error


def _stream_error(message: decision_pb.StreamError) -> HedgecastError:
    """The service's error again, of the class where it was raised."""
    status = next((code.name for code in grpc.StatusCode if code.value[0] == message.code), "UNKNOWN")
    cls = errors.class_of(message.reason) or errors.ServiceError
    facts: dict[str, object] = {"grpc_status": status, "incident": message.incident_id}
    if message.field:
        facts["field"] = message.field
    if message.HasField("retry_delay"):
        facts["retry_seconds"] = decode_duration(message.retry_delay)
    return cls(message.message, **facts)
