"""A server beside the caller's own work, in a thread: for notebooks and tests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from hedgecast.service.backend import DecisionBackend
from hedgecast.service.server import DecisionServer
from hedgecast.service.settings import ServiceSettings

_T = TypeVar("_T")


@contextlib.contextmanager
def background_server(
    backend: DecisionBackend, settings: ServiceSettings, *, ready: bool = True
) -> Iterator[str]:
    """Serve ``backend`` while the block runs; its value is HOST:PORT.

    Parameters
    ----------
    backend : DecisionBackend
        What decides.
    settings : ServiceSettings
        Port 0 lets the system choose one.
    ready : bool
        Whether health says SERVING.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hedgecast-server", daemon=True)
    thread.start()

    def wait(work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def start() -> tuple[DecisionServer, str]:
        # Made inside the loop: grpc.aio binds a server to the running loop.
        server = DecisionServer(backend, settings)
        address = await server.start()
        try:
            if ready:
                await server.set_ready()
        except BaseException:
            await server.stop()
            raise
        return server, address

    try:
        server, address = wait(start())
        try:
            yield address
        finally:
            wait(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
