"""Requests for scenarios wait here and are drawn together: bounded, cancellable, within their deadlines."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, DeadlineError, OverloadedError, UnavailableError
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.service.packing import Batch, DrawRequest, Progress, Turn, next_batch

if TYPE_CHECKING:
    from hedgecast.registry.session import Context

# Of the rate that retry hints are made from: a batch counts for a tenth.
_RATE_SHARE = 0.1


class Draws(Protocol):
    """One run of a network; see `ScenarioSession.draw_each`."""

    def draw_each(
        self,
        contexts: NDArray[np.float64],
        context_numbers: Sequence[int],
        count: int,
        seeds: Sequence[int],
        starts: Sequence[int],
        *,
        graph: str = SCENARIOS_GRAPH,
    ) -> NDArray[np.float32]:
        """Paths (B, count, T, F)."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DrawFigures:
    """What became of one request in the queue."""

    queued: int
    """Scenarios that waited when it came, its own left out."""
    waited_seconds: float
    """Until its first batch began."""
    batches: int
    """That it had a part in."""
    fill: float
    """Mean share of the largest batch that these had."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Scenarios of one request."""

    paths: NDArray[np.float32]
    """(count, T, F) by wall-clock slot, in units of the data."""
    figures: DrawFigures


@dataclasses.dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    progress: Progress
    future: Future[Drawn]
    came: float
    end: float
    queued: int
    began: float | None = None
    fills: list[float] = dataclasses.field(default_factory=list)

    def given_up(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        if now >= self.end:
            self.settle(
                DeadlineError(
                    f"{self.end - self.came:.3g} s were up before all scenarios were drawn: allow more time "
                    "or ask for fewer"
                )
            )
        return self.future.done()

    def settle(self, outcome: Drawn | Exception) -> None:
        """Answer, unless that was done or nobody waits."""
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Drawn):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)

    def finish(self) -> None:
        """Answer, if everything is drawn."""
        paths = self.progress.whole
        if paths is None:
            return
        assert self.began is not None
        figures = DrawFigures(
            queued=self.queued,
            waited_seconds=self.began - self.came,
            batches=len(self.fills),
            fill=sum(self.fills) / len(self.fills),
        )
        self.settle(Drawn(paths=paths, figures=figures))


class DrawQueue:
    """Draws what is submitted on threads of its own, or of who asks, batch after batch; see `packing`.

    Parameters
    ----------
    sessions : sequence of Draws
        As many as threads; batches of different sessions run at once.
    batch_scenarios : int
        Most scenarios of a batch.
    wait_seconds : float
        How long a batch that is not full waits for more, counted from its oldest request's coming. What comes
        while another batch runs is packed anyway.
    most_queued : int
        Scenarios that may wait; a request that finds none waiting is always taken.
    """

    def __init__(
        self, sessions: Sequence[Draws], *, batch_scenarios: int, wait_seconds: float, most_queued: int
    ) -> None:
        if not sessions or batch_scenarios < 1 or wait_seconds < 0 or most_queued < 1:
            raise ConfigError(
                f"{len(sessions)} sessions, batches of {batch_scenarios}, a wait of {wait_seconds:g} s and "
                f"{most_queued} scenarios at most: the wait must be at least 0, everything else at least 1"
            )
        self._limit, self._wait, self._most = batch_scenarios, wait_seconds, most_queued
        self._waiting: list[_Waiting] = []
        self._turn = Turn.SHORTEST
        self._seconds_a_scenario = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._idle = list(sessions)
        self._threads = [
            threading.Thread(target=self._work, name=f"draw-{number}", daemon=True)
            for number in range(len(sessions))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: DrawRequest, seconds: float) -> Future[Drawn]:
        """Have a request drawn within ``seconds``; cancelling the future takes the rest out.

        Raises
        ------
        OverloadedError
            Too many scenarios wait; ``retry_seconds`` among the facts says for how long about.
        UnavailableError
            The queue is closed.
        """
        with self._changed:
            waiting = self._enter(request, seconds)
            self._changed.notify_all()
        return waiting.future

    def here(self, request: DrawRequest, seconds: float) -> Future[Drawn]:
        """As `submit`, by this thread where none waits and a session does: two threads less to wake.

        The future is done then. For threads that may take as long.
        """
        with self._changed:
            alone = not self._waiting and self._idle and not self._wait and request.count <= self._limit
            waiting = self._enter(request, seconds)
            taken = self._taken(time.monotonic()) if alone else None
            if taken is None:
                self._changed.notify_all()
        if taken is not None:
            self._run(*taken)
        return waiting.future

    @property
    def queued(self) -> int:
        """Scenarios that wait."""
        with self._changed:
            return sum(one.progress.left for one in self._waiting)

    def close(self) -> None:
        """Take on no more, and return once everything that waits is drawn."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enter(self, request: DrawRequest, seconds: float) -> _Waiting:
        if self._closed:
            raise UnavailableError("the replica that draws is going away: try again")
        now = time.monotonic()
        self._waiting = [one for one in self._waiting if not one.given_up(now)]
        queued = sum(one.progress.left for one in self._waiting)
        if queued and queued + request.count > self._most:
            raise self._overloaded(queued, request.count)
        waiting = _Waiting(
            progress=Progress(request), future=Future(), came=now, end=now + seconds, queued=queued
        )
        self._waiting.append(waiting)
        return waiting

    def _overloaded(self, queued: int, count: int) -> OverloadedError:
        message = (
            f"{queued} scenarios wait to be drawn, {count} more are over the limit of {self._most}: "
            "try again later"
        )
        if not self._seconds_a_scenario:
            return OverloadedError(message, queued=queued)
        share = self._seconds_a_scenario / len(self._threads)
        return OverloadedError(message, queued=queued, retry_seconds=queued * share)

    def _work(self) -> None:
        while True:
            with self._changed:
                taken = self._next()
            if taken is None:
                return
            self._run(*taken)

    def _run(self, session: Draws, packed: Batch, members: Sequence[_Waiting]) -> None:
        began = time.monotonic()
        outcome: NDArray[np.float32] | Exception
        try:
            outcome = run_batch(session, packed)
        except Exception as error:  # noqa: BLE001 - it is the answer of everyone in the batch
            outcome = error
        # Two threads may hold pieces of one request.
        with self._changed:
            self._idle.append(session)
            if self._waiting:
                self._changed.notify_all()
            if isinstance(outcome, Exception):
                for member in members:
                    member.settle(outcome)
                return
            self._note_rate((time.monotonic() - began) / packed.scenarios)
            packed.put(outcome)
            for member in members:
                member.finish()

    def _next(self) -> tuple[Draws, Batch, list[_Waiting]] | None:
        """The next batch once there is one and a session for it; None: the queue is closed and empty."""
        while True:
            now = time.monotonic()
            self._waiting = [one for one in self._waiting if not one.given_up(now)]
            if not self._waiting and self._closed:
                return None
            if not self._waiting or not self._idle:
                self._changed.wait()
                continue
            left = self._waiting[0].came + self._wait - now
            full = sum(one.progress.left for one in self._waiting) >= self._limit
            if full or self._closed or left <= 0:
                return self._taken(now)
            self._changed.wait(left)

    def _taken(self, now: float) -> tuple[Draws, Batch, list[_Waiting]]:
        batch = next_batch([one.progress for one in self._waiting], self._limit, self._turn)
        self._turn = self._turn.following
        members = [one for one in self._waiting if one.progress in batch.members]
        for member in members:
            member.began = now if member.began is None else member.began
            member.fills.append(batch.scenarios / self._limit)
        self._waiting = [one for one in self._waiting if one.progress.left]
        return self._idle.pop(), batch, members

    def _note_rate(self, seconds: float) -> None:
        before = self._seconds_a_scenario
        self._seconds_a_scenario = before + _RATE_SHARE * (seconds - before) if before else seconds


Submit = Callable[[DrawRequest], Future[Drawn]]
"""Has a request drawn, in this process or in another; cancelling the future calls it off."""


class AwaitedDraw:
    """`hedgecast.service.local.Draw` for one query: its thread waits for who draws, and can be called off.

    Parameters
    ----------
    submit : callable
        Has a request drawn.
    figures : list of DrawFigures
        What became of each draw is added to it.
    """

    def __init__(self, submit: Submit, figures: list[DrawFigures]) -> None:
        self._submit, self._figures = submit, figures
        self._drawing: Future[Drawn] | None = None
        self._ahead: str | None = None
        self._called_off = False

    def ahead(self, context: Context, count: int, seed: int, start: int, graph: str) -> None:
        """Begin what the next call will ask for, without waiting: others begin theirs meanwhile."""
        self._begin(context, count, seed, start, graph)
        self._ahead = graph

    def __call__(
        self, context: Context, count: int, seed: int, start: int = 0, *, graph: str = SCENARIOS_GRAPH
    ) -> NDArray[np.float32]:
        """Paths (count, T, F), or `HedgecastError`; CancelledError: it was called off."""
        if self._ahead != graph:
            self._begin(context, count, seed, start, graph)
        self._ahead = None
        assert self._drawing is not None
        drawn = self._drawing.result()
        self._figures.append(drawn.figures)
        return drawn.paths

    def _begin(self, context: Context, count: int, seed: int, start: int, graph: str) -> None:
        request = DrawRequest(
            features=context.features,
            day_number=context.day_number,
            count=count,
            seed=seed,
            start=start,
            graph=graph,
        )
        self._drawing = self._submit(request)
        if self._called_off:
            self._drawing.cancel()

    def cancel(self) -> None:
        """Nobody waits any more: what is not drawn yet need not be."""
        self._called_off = True
        if self._drawing is not None:
            self._drawing.cancel()


def run_batch(session: Draws, batch: Batch) -> NDArray[np.float32]:
    """Paths (B, S, T, F) of the batch's members."""
    asked = [member.request for member in batch.members]
    return session.draw_each(
        np.stack([one.features for one in asked]),
        [one.day_number for one in asked],
        batch.size,
        [one.seed for one in asked],
        [one.start + place for one, place in zip(asked, batch.places, strict=True)],
        graph=asked[0].graph,
    )
