"""Many answers on one call: of many requests, as they are ready, or of parts of one, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


async def answered(
    requests: AsyncIterator[Q], work: Callable[[Q], Awaitable[A]], *, most: int
) -> AsyncGenerator[A, None]:
    """The answers to ``requests``, in the order in which they are ready.

    At most ``most`` requests have been read whose answers have not been taken: whoever takes answers slowly
    is read slowly. Ending the iteration cancels what is under way.

    Parameters
    ----------
    requests : async iterator
        Its errors end the whole.
    work : callable
        Answers one; does not raise for what is wrong with one request.
    most : int
        Requests at once.
    """
    places = asyncio.Semaphore(most)
    done: asyncio.Queue[asyncio.Task[A] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[A]] = set()

    async def read() -> None:
        source = aiter(requests)
        while True:
            # A place first, then the request: nothing is read that there is no room for.
            await places.acquire()
            try:
                request = await anext(source)
            except StopAsyncIteration:
                return
            task = asyncio.ensure_future(work(request))
            tasks.add(task)
            task.add_done_callback(done.put_nowait)

    reader = asyncio.ensure_future(read())
    reader.add_done_callback(lambda _: done.put_nowait(None))
    try:
        open_for_more = True
        while open_for_more or tasks:
            task = await done.get()
            if task is None:
                open_for_more = False
                # Raises what ended the requests.
                reader.result()
                continue
            tasks.discard(task)
            yield task.result()
            places.release()
    finally:
        for pending in (reader, *tasks):
            pending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(reader, *tasks, return_exceptions=True)


async def read_ahead(parts: Iterable[Q], work: Callable[[Q], Awaitable[A]]) -> AsyncGenerator[A, None]:
    """What ``work`` makes of each part, in order; one part is worked on ahead of whoever takes them.

    Ending the iteration cancels what is under way.

    Parameters
    ----------
    parts : iterable
    work : callable
        Never runs twice at once. Its errors end the whole.
    """
    ahead: asyncio.Future[A] | None = None
    try:
        for part in parts:
            if ahead is None:
                ahead = asyncio.ensure_future(work(part))
                continue
            found = await ahead
            ahead = asyncio.ensure_future(work(part))
            yield found
        if ahead is not None:
            yield await ahead
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
