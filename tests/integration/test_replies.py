"""Asking again when a replica went away, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from hedgecast.core.errors import DataError, OverloadedError, UnavailableError
from hedgecast_workers.replies import ask


class Replies:
    """Replies in turn; an exception is raised when its turn comes."""

    def __init__(self, *replies: Any) -> None:
        self._replies = list(replies)
        self.asked = 0
        self.cancelled = 0

    def __call__(self) -> Any:
        self.asked += 1
        return _Response(self, self._replies.pop(0))


class _Response:
    def __init__(self, replies: Replies, reply: Any) -> None:
        self._replies, self._reply = replies, reply

    def __await__(self) -> Generator[Any, None, Any]:
        if self._reply is None:
            yield from asyncio.Event().wait().__await__()
        if isinstance(self._reply, BaseException) and not isinstance(self._reply, DataError):
            raise self._reply
        return self._reply

    def cancel(self) -> None:
        self._replies.cancelled += 1


GONE = ActorUnavailableError("gone", b"0" * 16)


def test_what_went_away_is_asked_again() -> None:
    replies = Replies(GONE, GONE, "answer")
    assert asyncio.run(ask(replies, retries=2)) == "answer"
    assert replies.asked == 3


def test_not_for_ever() -> None:
    replies = Replies(GONE, GONE, "answer")
    with pytest.raises(UnavailableError, match="went away"):
        asyncio.run(ask(replies, retries=1))
    assert replies.asked == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), OverloadedError),
        (DataError("a column is missing"), DataError),
        (ValueError("a mistake of ours"), ValueError),
    ],
)
def test_other_errors_are_answers(reply: Exception, error: type[Exception]) -> None:
    replies = Replies(reply, "answer")
    with pytest.raises(error):
        asyncio.run(ask(replies, retries=3))
    assert replies.asked == 1


def test_whoever_stops_waiting_stops_the_work() -> None:
    replies = Replies(None)

    async def main() -> None:
        task = asyncio.create_task(ask(replies, retries=3))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (replies.asked, replies.cancelled) == (1, 1)
