"""The backend that decides in this process, and its parts for whoever draws and solves in one."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import BundleError, UnavailableError
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.session import Context
from hedgecast.service.answers import ScenariosAnswer, ScenarioSource
from hedgecast.service.batches import Limits
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.generate import drawn
from hedgecast.service.models import ModelDescription, resolve
from hedgecast.service.queries import Query, ScenariosQuery
from hedgecast.service.safety import Judgement
from hedgecast.service.sample import sample_of
from hedgecast.service.tracing import stage
from hedgecast.service.work import Job, answer_queue, unsolved

A = TypeVar("A")

log = logging.getLogger(__name__)


class Draw(Protocol):
    """What turns a context into paths: a bundle's network, say."""

    def __call__(
        self, context: Context, count: int, seed: int, start: int = 0, *, graph: str = SCENARIOS_GRAPH
    ) -> NDArray[np.float32]:
        """Paths (count, T, F) from scenario ``start`` of a seed, by wall-clock slot, in units of the data.

        By the ``graph`` of that name.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A served model and the network that draws for it."""

    model: ServedModel
    draw: Draw


class LocalBackend:
    """Decides on threads of this process.

    Parameters
    ----------
    models : sequence of LocalModel
        What is served.
    threads : int
        Requests that scenarios are drawn for at once; the rest wait.
    batches : Limits, optional
        Of the requests that are solved together, on one thread more.
    """

    def __init__(
        self, models: Sequence[LocalModel], *, threads: int = 1, batches: Limits | None = None
    ) -> None:
        self._models = {local.model.description.full_name: local for local in models}
        self._descriptions = tuple(local.model.description for local in models)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="draw")
        self._queue = answer_queue(batches or Limits())

    def close(self) -> None:
        """Wait for the work under way, take on no more."""
        self._pool.shutdown()
        self._queue.close()

    async def models(self) -> tuple[ModelDescription, ...]:
        """All served models."""
        return self._descriptions

    async def answer(self, query: Query[A]) -> A:
        """The answer to ``query``; cancelling stops the work before its next stage."""
        local = self._models[resolve(self._descriptions, query.model).full_name]
        budget = Budget(query.deadline_seconds)
        try:
            with stage("denoiser.answer" if isinstance(query, ScenariosQuery) else "solver.answer"):
                return await self._answered(query, local, budget)
        except asyncio.CancelledError:
            budget.cancel()
            raise

    async def _answered(self, query: Query[A], local: LocalModel, budget: Budget) -> A:
        # The threads go on in the call's context: its span, and the request id of its log lines.
        run = contextvars.copy_context().run
        if isinstance(query, ScenariosQuery):
            return cast(A, await _taken_on(self._pool.submit, run, scenarios_answer, query, local, budget))
        job = await _taken_on(self._pool.submit, run, job_of, query, local, budget)
        return (
            unsolved(query, local.model) if job is None else cast(A, await _taken_on(self._queue.submit, job))
        )


def _taken_on(submit: Callable[..., Future[Any]], *arguments: Any) -> asyncio.Future[Any]:
    try:
        work = submit(*arguments)
    except RuntimeError as error:
        raise UnavailableError("the service is going away: call another replica") from error
    return asyncio.wrap_future(work)


def scenarios_answer(query: ScenariosQuery, local: LocalModel, budget: Budget) -> ScenariosAnswer:
    """The scenarios themselves: nothing is solved, and nobody who solves is waited for.

    Raises
    ------
    HedgecastError
        The rows cannot be used, the policy refuses what was drawn, or the budget ran out.
    """
    budget.check("reading the rows")
    context = local.model.prepare(query)
    assert context is not None
    paths, judged = judged_draw(query, local, context, local.model.before(query, context), budget)
    return drawn(local.model, context, paths, judged)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Readied:
    """A query whose rows are read, for which nothing is drawn yet."""

    query: Query[Any]
    context: Context | None
    """None: it brings scenarios of its own."""
    judged: Judgement
    """What the answer would rest on."""
    seconds: float
    """What reading took."""


def readied(query: Query[Any], model: ServedModel, budget: Budget) -> Readied | None:
    """The query with its rows read; None: it was only to be checked.

    Raises
    ------
    HedgecastError
        The rows cannot be used, the policy refuses them, or the budget ran out.
    """
    budget.check("reading the rows")
    started = time.perf_counter()
    context = model.prepare(query)
    if query.validate_only:
        return None
    judged = model.before(query, context)
    return Readied(query=query, context=context, judged=judged, seconds=time.perf_counter() - started)


def drawn_job(ready: Readied, local: LocalModel, budget: Budget) -> Job:
    """The query with its scenarios.

    Raises
    ------
    HedgecastError
        As `scenarios_answer`.
    """
    started = time.perf_counter()
    query, context, judged = ready.query, ready.context, ready.judged
    paths = None
    if context is not None:
        paths, judged = judged_draw(query, local, context, judged, budget)
    seconds = ready.seconds + time.perf_counter() - started
    sample = sample_of(query, local.model, context, paths, judged, drawn_seconds=seconds)
    return Job(query=query, model=local.model, sample=sample, budget=budget)


def job_of(query: Query[Any], local: LocalModel, budget: Budget) -> Job | None:
    """The query with its scenarios; None: it was only to be checked.

    Raises
    ------
    HedgecastError
        As `scenarios_answer`.
    """
    ready = readied(query, local.model, budget)
    return None if ready is None else drawn_job(ready, local, budget)


def judged_draw(
    query: Query[Any], local: LocalModel, context: Context, judged: Judgement, budget: Budget
) -> tuple[NDArray[np.float32], Judgement]:
    """Scenarios, and what an answer on them rests on; a student that is not there gives way."""
    budget.check("drawing scenarios")
    while True:
        try:
            with stage("denoiser.draw"):
                graph = local.model.graph(judged)
                paths = local.draw(context, query.draw_count, query.seed, query.draw_start, graph=graph)
        except BundleError as error:
            if judged.source is not ScenarioSource.STUDENT:
                raise
            log.warning("the network draws, for want of the student: %s", error)
            judged = judged.by_network()
            continue
        checked = local.model.after(judged, paths)
        if checked.source is judged.source:
            return paths, checked
        judged = checked
