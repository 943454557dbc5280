"""Jobs that wait together are worked on together: a queue in front of one thread at a time.

Nothing waits for company while the thread is idle: it takes what is queued, and under load that is more
than one. A setting makes it wait a moment for more.
"""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How large a batch gets, and what it waits for."""

    jobs: int = 16
    """Most jobs of one batch; 1: every job by itself."""
    weight: int = 20_000
    """Most weight of all jobs of one batch; a job that weighs more goes by itself."""
    wait_seconds: float = 0.0
    """How long the first job of a batch may wait for others."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Waiting(Generic[J, R]):
    job: J
    kind: Hashable
    weight: int
    future: Future[R]
    context: contextvars.Context
    since: float


class Batches(Generic[J, R]):
    """Collects jobs, works on those of one kind together, hands the results out.

    Parameters
    ----------
    work : callable
        Jobs of one kind to one result each, in order; an exception among them is that job's own.
    kind : callable
        Of a job: only equal ones share a batch.
    weight : callable
        Of a job.
    limits : Limits
    """

    def __init__(
        self,
        work: Callable[[Sequence[J]], Sequence[R | Exception]],
        kind: Callable[[J], Hashable],
        weight: Callable[[J], int],
        limits: Limits,
    ) -> None:
        self._work, self._kind, self._weight, self._limits = work, kind, weight, limits
        self._waiting: collections.deque[_Waiting[J, R]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        # A batch uses its cores well; two at once would only take turns.
        self._working = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="solve")

    def submit(self, job: J) -> Future[R]:
        """The job's result, later; cancelling it before its batch begins takes it out.

        Raises
        ------
        RuntimeError
            After `close`.
        """
        return self._queued([job])[0]

    def here(self, jobs: Sequence[J]) -> list[Future[R]]:
        """As `submit`, by this thread where nobody works and nothing waits: two threads less to wake.

        The futures are done then. For threads that may take as long.
        """
        if self._limits.wait_seconds or self._waiting or not self._working.acquire(blocking=False):
            return self._queued(jobs)
        try:
            if self._closed:
                return self._queued(jobs)
            own = [self._entered(job) for job in jobs]
            with self._changed:
                self._waiting.extend(own)
            while not all(one.future.done() for one in own):
                self._work_on(self._taken())
            return [one.future for one in own]
        finally:
            self._working.release()

    def close(self) -> None:
        """Finish what waits, take on no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pool.shutdown()

    def _entered(self, job: J) -> _Waiting[J, R]:
        context = contextvars.copy_context()
        return _Waiting(job, self._kind(job), self._weight(job), Future(), context, time.monotonic())

    def _queued(self, jobs: Sequence[J]) -> list[Future[R]]:
        found = [self._entered(job) for job in jobs]
        with self._changed:
            # One turn for each job: turns whose job went with an earlier one find nothing to do.
            for _ in found:
                self._pool.submit(self._turn)
            self._waiting.extend(found)
            self._changed.notify()
        return [one.future for one in found]

    def _turn(self) -> None:
        with self._working:
            self._work_on(self._taken())

    def _work_on(self, taken: Sequence[_Waiting[J, R]]) -> None:
        batch = [one for one in taken if one.future.set_running_or_notify_cancel()]
        if not batch:
            return
        # Log lines of a batch carry the request id of its first member.
        found = batch[0].context.run(self._results, [one.job for one in batch])
        for one, result in zip(batch, found, strict=True):
            _settle(one.future, result)

    def _results(self, jobs: Sequence[J]) -> Sequence[R | BaseException]:
        try:
            return self._work(jobs)
        # Whatever it is, somebody waits for it: as in `concurrent.futures`.
        except BaseException as error:  # noqa: BLE001
            if len(jobs) == 1:
                return [error]
            # Nobody fails for another one's sake.
            return [self._results([job])[0] for job in jobs]

    def _taken(self) -> list[_Waiting[J, R]]:
        """The longest waiting job and those that may go with it."""
        with self._changed:
            if not self._waiting:
                return []
            end = self._waiting[0].since + self._limits.wait_seconds
            while not self._closed and len(self._companions()) < self._limits.jobs:
                left = end - time.monotonic()
                if left <= 0.0:
                    break
                self._changed.wait(left)
            batch = self._companions()
            chosen = {id(one) for one in batch}
            self._waiting = collections.deque(one for one in self._waiting if id(one) not in chosen)
            return batch

    def _companions(self) -> list[_Waiting[J, R]]:
        first = self._waiting[0]
        batch, weight = [first], first.weight
        for one in list(self._waiting)[1:]:
            fits = one.kind == first.kind and weight + one.weight <= self._limits.weight
            if fits and len(batch) < self._limits.jobs:
                batch.append(one)
                weight += one.weight
        return batch


def _settle(future: Future[R], result: R | BaseException) -> None:
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
