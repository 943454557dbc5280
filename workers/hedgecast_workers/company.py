"""Queries for decisions that wait at a gateway while their solvers are busy, and go to one of them together.

What a call to a replica costs the gateway, Ray and the replica's loop hardly grows with what is in it, and
what a solver has in one call it reads, draws and solves at once. So nobody waits where nothing is under way,
and under load each call takes its share of what is in hand. Who comes when load falls may wait for the end of
one call though there is room:

    call A    1 1 1 1 1 1 1 1 --> solver
    call B    2 2 2 2 2 2 2 2 --> solver       drawn for while A is solved
    waiting   3 3 3 ...

Only queries that a solver solves in one batch share a call: then nobody waits for what is slower.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Hashable
from typing import Any, cast

from ray.serve.handle import DeploymentHandle, DeploymentResponse

from hedgecast.service.batches import Limits
from hedgecast.service.budget import Budget
from hedgecast.service.queries import DecideQuery, Query
from hedgecast.service.tracing import carrier
from hedgecast_workers.replies import Reply, ask, with_time_left

_PATIENCE_SECONDS = 5.0

_keys = itertools.count()

log = logging.getLogger(__name__)


def kind_of(query: Query[Any], limits: Limits) -> Hashable | None:
    """Of those that may share a call; None: it goes by itself.

    Parameters
    ----------
    query : Query
    limits : Limits
        Of what is solved together: a query of which no two fit into a batch goes by itself.
    """
    if not isinstance(query, DecideQuery) or query.own is not None or query.validate_only:
        return None
    if limits.jobs < 2 or 2 * query.draw_count > limits.weight:
        return None
    return query.model, query.kind


@dataclasses.dataclass(eq=False, slots=True)
class _Member:
    query: DecideQuery
    budget: Budget
    trace: dict[str, str]
    reply: asyncio.Future[Reply | None]
    call: _Call | None = None


@dataclasses.dataclass(eq=False, slots=True)
class _Call:
    members: list[_Member]
    key: str = ""
    """By which its replica knows it; another one for each try, two of which may meet in one replica."""
    task: asyncio.Task[None] | None = None
    sent: list[_Member] = dataclasses.field(default_factory=list)
    """In the order in which they are in it."""


class Company:
    """Queries of one kind and the calls that they go in; used on one loop.

    Parameters
    ----------
    solver : DeploymentHandle
        Of the replicas that answer.
    most : int
        Queries of one call.
    retries : int
        How often a call is begun again when the replica that did it went away.
    name : str
        Of this gateway, among those that call the same replicas.
    """

    def __init__(self, solver: DeploymentHandle, *, most: int, retries: int, name: str) -> None:
        self._solver, self._most, self._retries, self._name = solver, most, retries, name
        self._waiting: list[_Member] = []
        self._calls: set[_Call] = set()
        self._withdrawn: dict[str, list[int]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._limit, self._share = 1, 0

    @property
    def idle(self) -> bool:
        """Whether nobody waits and nothing is under way."""
        return not self._waiting and not self._calls

    async def answer(self, query: DecideQuery, budget: Budget, calls: int) -> Reply:
        """A replica's reply; cancelling stops the work on this query, and nobody else's.

        Parameters
        ----------
        query : DecideQuery
        budget : Budget
        calls : int
            Calls that may be under way before further queries wait for one of them.
        """
        self._limit = calls
        loop = asyncio.get_running_loop()
        member = _Member(query, budget, carrier(), loop.create_future())
        self._waiting.append(member)
        self._send()
        try:
            reply = await member.reply
        except asyncio.CancelledError:
            self._withdraw(member)
            raise
        if reply is None:
            # What failed there as none of our errors is asked again by itself: its failure is then its own.
            return cast(Reply, await ask(lambda: self._alone(member), retries=self._retries))
        return reply

    def _send(self) -> None:
        """Send what may go: into each call as much as into the others."""
        while self._waiting and self._may_go():
            in_hand = len(self._waiting) + sum(len(call.members) for call in self._calls)
            size = min(-(-in_hand // self._limit), self._most)
            self._share = min(in_hand // self._limit, self._most)
            call = _Call(self._waiting[:size])
            self._waiting = self._waiting[size:]
            for member in call.members:
                member.call = call
            self._calls.add(call)
            call.task = asyncio.create_task(self._run(call))
            call.task.add_done_callback(lambda _, call=call: self._ended(call))  # type: ignore[misc]

    def _may_go(self) -> bool:
        """Whether nothing is under way, or there is room and a share of what was in hand of late waits.

        Calls of five where there could be two of eight took 4 % more time at 16 callers.
        """
        room = len(self._calls) < self._limit
        return not self._calls or (room and len(self._waiting) >= self._share)

    async def _run(self, call: _Call) -> None:
        try:
            found = await ask(lambda: self._called(call), retries=self._retries)
        except Exception as error:  # noqa: BLE001 - it is the answer of everyone in the call
            for member in call.members:
                if not member.reply.done():
                    member.reply.set_exception(error)
            return
        replies = [found] if isinstance(found, Reply) else found
        for member, reply in zip(call.sent, replies, strict=True):
            if not member.reply.done():
                member.reply.set_result(reply)

    def _ended(self, call: _Call) -> None:
        """Also of a call that was cancelled before it began."""
        self._calls.discard(call)
        self._send()

    def _called(self, call: _Call) -> DeploymentResponse:
        """Send a call's queries, another time those that are still waited for."""
        call.sent = [member for member in call.members if not member.reply.done()]
        if len(call.sent) == 1:
            return self._alone(call.sent[0])
        call.key = f"{self._name}-{next(_keys)}"
        asked = [(with_time_left(member.query, member.budget), member.trace) for member in call.sent]
        return cast(DeploymentResponse, self._solver.answer_all.remote(call.key, asked))

    def _alone(self, member: _Member) -> DeploymentResponse:
        query = with_time_left(member.query, member.budget)
        return cast(DeploymentResponse, self._solver.answer.remote(query, member.trace))

    def _withdraw(self, member: _Member) -> None:
        call = member.call
        if call is None:
            self._waiting.remove(member)
        elif all(one.reply.done() for one in call.members):
            assert call.task is not None
            call.task.cancel()
        elif call in self._calls and member in call.sent:
            if not self._withdrawn:
                # One message for all whose connection was lost.
                asyncio.get_running_loop().call_soon(self._tell)
            self._withdrawn.setdefault(call.key, []).append(call.sent.index(member))

    def _tell(self) -> None:
        withdrawn, self._withdrawn = self._withdrawn, {}
        telling = asyncio.create_task(self._told(withdrawn))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _told(self, withdrawn: dict[str, list[int]]) -> None:
        """Tell all replicas: which of them has a call is Serve's secret."""
        try:
            await self._solver.broadcast("withdraw", withdrawn).results_async(timeout_s=_PATIENCE_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever it is, work is done that nobody waits for
            log.info("%d calls go on with queries that were withdrawn: %s", len(withdrawn), error)
