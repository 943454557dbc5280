"""Threads of queries for scenarios: each goes from its rows to them, and waits for who draws."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import AwaitedDraw, DrawFigures, Submit
from hedgecast.service.queries import Query

if TYPE_CHECKING:
    from hedgecast.service.decide import ServedModel
    from hedgecast.service.local import LocalModel

A = TypeVar("A")
Q = TypeVar("Q", bound=Query)  # type: ignore[type-arg]


class QueryThreads:
    """One thread a query: turns of the loop between reading, drawing and packing took 0.6 ms of a decision.

    Parameters
    ----------
    most : int
        Queries at once; their threads mostly wait.
    """

    def __init__(self, most: int) -> None:
        # Imported by the replicas that need torch and the solvers, not by the gateway and the driver.
        from hedgecast.service.local import LocalModel

        self._local = LocalModel
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="query")

    async def run(
        self,
        work: Callable[[Q, LocalModel, Budget], A],
        query: Q,
        budget: Budget,
        model: ServedModel,
        submit: Submit,
        figures: list[DrawFigures],
    ) -> A:
        """What ``work`` makes of a query on a thread; cancelling calls its draw off.

        Parameters
        ----------
        work : callable
            Of `hedgecast.service.local`.
        query : Query
        budget : Budget
        model : ServedModel
        submit : callable
            Has the query's scenarios drawn.
        figures : list of DrawFigures
            What became of each draw is added to it.
        """
        draw = AwaitedDraw(submit, figures)
        # The thread goes on in the call's context: its span, and the request id of its log lines.
        run = contextvars.copy_context().run
        working = self._pool.submit(run, work, query, self._local(model=model, draw=draw), budget)
        try:
            return await asyncio.wrap_future(working)
        except asyncio.CancelledError:
            draw.cancel()
            raise
