"""What surrounds every call of our own services: identity, load, deadline, errors.

Health and reflection pass untouched: a probe must be answered under load and without a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from hedgecast.core.errors import DeadlineError, OverloadedError
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.status import DETAILS_KEY, rule_of, status_of
from hedgecast.service.tokens import TokenTable

INCIDENT_KEY = "x-hedgecast-incident"
_OWN_SERVICES = "/hedgecast."

log = logging.getLogger(__name__)

_Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses what is too much or unknown, bounds the time, turns errors into status."""

    def __init__(self, settings: ServiceSettings, tokens: TokenTable | None) -> None:
        self._settings = settings
        self._tokens = tokens
        self._under_way = 0

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """The handler, guarded where it is one of ours."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(_OWN_SERVICES):
            return handler
        assert handler.unary_unary is not None, f"{method} streams: guard its kind first"
        metadata = handler_call_details.invocation_metadata

        async def behavior(request: Any, context: grpc.aio.ServicerContext) -> Any:
            async with self._guard(context, method, metadata):
                return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            behavior,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @contextlib.asynccontextmanager
    async def _guard(
        self, context: grpc.aio.ServicerContext, method: str, metadata: Any
    ) -> AsyncIterator[None]:
        incident = uuid.uuid4().hex
        try:
            if self._tokens is not None:
                self._tokens.require(metadata)
            with self._slot():
                async with self._deadline(context):
                    yield
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: what leaves here is a status
            await self._abort(context, method, incident, error)

    @contextlib.contextmanager
    def _slot(self) -> Any:
        limit = self._settings.max_concurrent_requests
        if self._under_way >= limit:
            raise OverloadedError(f"{limit} requests are under way, the limit: try again later", limit=limit)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    @contextlib.asynccontextmanager
    async def _deadline(self, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
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

    async def _abort(
        self, context: grpc.aio.ServicerContext, method: str, incident: str, error: Exception
    ) -> None:
        if rule_of(error).public:
            log.info("%s refused, incident %s: %s", method, incident, error)
        else:
            log.error("%s failed, incident %s", method, incident, exc_info=error)
        delay = self._settings.retry_delay_seconds
        status = status_of(error, incident=incident, retry_delay_seconds=delay)
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        trailing = ((DETAILS_KEY, status.SerializeToString()), (INCIDENT_KEY, incident))
        await context.abort(code, status.message, trailing_metadata=trailing)


def deadline_seconds(context: grpc.aio.ServicerContext, settings: ServiceSettings) -> float:
    """What is left to the caller; the default where they set no deadline."""
    remaining = context.time_remaining()
    return settings.default_deadline_seconds if remaining is None else max(float(remaining), 0.0)
