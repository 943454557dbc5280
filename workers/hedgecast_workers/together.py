"""Queries that reach a solver in one turn of its loop: those of a kind are read, drawn and solved together.

A thread goes with them from their rows to the queue that solves. As many threads as queries would pass the
interpreter's lock around: 1.4 ms of a decision at 16 callers, 0.4 alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import AwaitedDraw, DrawFigures, Submit
from hedgecast.service.queries import Query
from hedgecast.service.settings import ServiceSettings
from hedgecast_workers.company import kind_of

if TYPE_CHECKING:
    from hedgecast.service.decide import ServedModel
    from hedgecast.service.local import Readied
    from hedgecast.service.work import Job


class Submits(NamedTuple):
    """What has scenarios drawn for a query."""

    alone: Submit
    """May draw on the thread that asks, which then is not there for others."""
    together: Submit
    """Never does."""


@dataclasses.dataclass(eq=False, kw_only=True, slots=True)
class _Member:
    """A query in hand, and what has become of it so far."""

    query: Query[Any]
    budget: Budget
    model: ServedModel
    submits: Submits
    figures: list[DrawFigures]
    context: contextvars.Context
    """Of the call: its span, and the request id of its log lines."""
    outcome: asyncio.Future[Future[Any] | None]
    draw: AwaitedDraw | None = None
    ready: Readied | None = None
    job: Job | None = None
    error: Exception | None = None


class Together:
    """Answers queries, those of a kind that come at once together; used on one loop.

    Parameters
    ----------
    settings : ServiceSettings
    """

    def __init__(self, settings: ServiceSettings) -> None:
        # Imported by the replicas that need torch and the solvers, not by the gateway and the driver.
        from hedgecast.service import local, work

        self._local, self._unsolved = local, work.unsolved
        self._queue = work.answer_queue(settings.batch_limits)
        self._limits = settings.batch_limits
        self._pool = ThreadPoolExecutor(settings.max_concurrent_requests, thread_name_prefix="query")
        self._waiting: list[_Member] = []

    async def answer(
        self,
        query: Query[Any],
        budget: Budget,
        model: ServedModel,
        submits: Submits,
        figures: list[DrawFigures],
    ) -> Any:
        """The answer to a query; cancelling stops the work on it before its next stage, and nobody else's.

        Parameters
        ----------
        query : Query
        budget : Budget
        model : ServedModel
        submits : Submits
        figures : list of DrawFigures
            What became of each draw is added to it.
        """
        loop = asyncio.get_running_loop()
        member = _Member(
            query=query, budget=budget, model=model, submits=submits, figures=figures,
            context=contextvars.copy_context(), outcome=loop.create_future(),
        )  # fmt: skip
        if not self._waiting:
            # After what else has come in this turn.
            loop.call_soon(self._go, loop)
        self._waiting.append(member)
        try:
            solved = await member.outcome
        except asyncio.CancelledError:
            if member.draw is not None:
                member.draw.cancel()
            raise
        if solved is None:
            return self._unsolved(query, model)
        return solved.result() if solved.done() else await asyncio.wrap_future(solved)

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        companies: dict[Hashable, list[_Member]] = {}
        for member in self._waiting:
            kind = kind_of(member.query, self._limits)
            companies.setdefault(member if kind is None else (id(member.model), kind), []).append(member)
        self._waiting = []
        for members in companies.values():
            for member in members:
                submit = member.submits.together if len(members) > 1 else member.submits.alone
                member.draw = AwaitedDraw(submit, member.figures)
            self._pool.submit(self._worked, members, loop)

    def _worked(self, members: Sequence[_Member], loop: asyncio.AbstractEventLoop) -> None:
        """All stages, on a thread; an error of one is that one's own."""
        found: list[Future[Any]] | None = None
        try:
            for stage in (self._read, self._draw) if len(members) > 1 else (self._read,):
                for member in members:
                    _tried(stage, member)
            for member in members:
                _tried(self._make_job, member)
            jobs = [member.job for member in members if member.job is not None]
            # Log lines of a batch carry the request id of its first member.
            found = members[0].context.run(self._queue.here, jobs) if jobs else []
        except BaseException as error:  # noqa: BLE001 - somebody waits for it, as in `concurrent.futures`
            for member in members:
                member.error = member.error or cast(Exception, error)
        loop.call_soon_threadsafe(_settle, members, found or [])

    def _read(self, member: _Member) -> None:
        member.ready = self._local.readied(member.query, member.model, member.budget)

    def _draw(self, member: _Member) -> None:
        """Begin to, for all before the first is waited for."""
        ready = member.ready
        if ready is None or ready.context is None:
            return
        query, graph = member.query, member.model.graph(ready.judged)
        assert member.draw is not None
        member.draw.ahead(ready.context, query.draw_count, query.seed, query.draw_start, graph)

    def _make_job(self, member: _Member) -> None:
        if member.ready is not None:
            assert member.draw is not None
            local = self._local.LocalModel(model=member.model, draw=member.draw)
            member.job = self._local.drawn_job(member.ready, local, member.budget)


def _tried(stage: Any, member: _Member) -> None:
    """Run a stage in the member's context, unless it has failed in one before."""
    if member.error is None:
        try:
            member.context.run(stage, member)
        except Exception as error:  # noqa: BLE001 - it is the member's answer
            member.error = error


def _settle(members: Sequence[_Member], solved: Sequence[Future[Any]]) -> None:
    rest = iter(solved)
    for member in members:
        future = None if member.job is None or member.error is not None else next(rest)
        if member.outcome.done():
            # Nobody waits for it any more: it leaves the queue if it is still there.
            if future is not None:
                future.cancel()
        elif member.error is not None:
            member.outcome.set_exception(member.error)
        else:
            member.outcome.set_result(future)
