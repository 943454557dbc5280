"""Holds calls that come while the server closes its port, so that none of them falls between two states."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

# Between two looks, and how many in a row must see nobody new.
_LOOK_SECONDS = 0.002
_QUIET_LOOKS = 5
# Under load somebody new comes between any two looks; what is late then is told to try again.
_MOST_SECONDS = 0.5


class Door(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Every call goes in through it; first of the server's interceptors.

    gRPC tells calls that have reached its socket, but not yet its event loop, CANCELLED when the server is
    stopped: nobody cancelled them, and callers do not try again what they cancelled themselves. Calls held
    here have reached the loop, so they count as under way, and the loop has time for those behind them.
    """

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._came = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler, once the door is open."""
        self._came += 1
        await self._open.wait()
        return await continuation(handler_call_details)

    async def stop(self, server: grpc.aio.Server, seconds: float) -> None:
        """Stop ``server``: calls that came before have ``seconds`` to end, later ones find a closed port."""
        self._open.clear()
        try:
            await self._quiet()
            stopping = asyncio.create_task(server.stop(seconds))
            # Its first step closes the port.
            await asyncio.sleep(0)
        finally:
            self._open.set()
        await stopping

    async def _quiet(self) -> None:
        """Return once nobody new comes."""
        end, quiet = time.monotonic() + _MOST_SECONDS, 0
        while quiet < _QUIET_LOOKS and time.monotonic() < end:
            before = self._came
            await asyncio.sleep(_LOOK_SECONDS)
            quiet = quiet + 1 if self._came == before else 0
