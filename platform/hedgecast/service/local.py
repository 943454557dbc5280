"""The backend that decides in this process: for tests and notebooks."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import UnavailableError
from hedgecast.registry.session import Context
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.models import ModelDescription, resolve
from hedgecast.service.queries import Query
from hedgecast.service.safety import Judgement
from hedgecast.service.tracing import stage
from hedgecast.service.work import conclude, unsolved

A = TypeVar("A")


class Draw(Protocol):
    """What turns a context into paths: a bundle's network, say."""

    def __call__(
        self, context: Context, count: int, seed: int, start: int = 0, *, baseline: bool = False
    ) -> NDArray[np.float32]:
        """Paths (count, T, F) from scenario ``start`` of a seed, by wall-clock slot, in units of the data.

        Of the network, or of the model's ``baseline``.
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
        Requests worked on at once; the rest wait.
    """

    def __init__(self, models: Sequence[LocalModel], *, threads: int = 1) -> None:
        self._models = {local.model.description.full_name: local for local in models}
        self._descriptions = tuple(local.model.description for local in models)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decide")

    def close(self) -> None:
        """Wait for the work under way, take on no more."""
        self._pool.shutdown()

    async def models(self) -> tuple[ModelDescription, ...]:
        """All served models."""
        return self._descriptions

    async def answer(self, query: Query[A]) -> A:
        """The answer to ``query``; cancelling stops the work before its next stage."""
        local = self._models[resolve(self._descriptions, query.model).full_name]
        budget = Budget(query.deadline_seconds)
        try:
            # The thread goes on in the call's context: its span, and the request id of its log lines.
            run = contextvars.copy_context().run
            work = asyncio.get_running_loop().run_in_executor(self._pool, run, _answer, query, local, budget)
        except RuntimeError as error:
            raise UnavailableError("the service is going away: call another replica") from error
        try:
            return await work
        except asyncio.CancelledError:
            budget.cancel()
            raise


def _answer(query: Query[A], local: LocalModel, budget: Budget) -> A:
    with stage("solver.answer"):
        return _worked(query, local, budget)


def _worked(query: Query[A], local: LocalModel, budget: Budget) -> A:
    model = local.model
    budget.check("reading the rows")
    started = time.perf_counter()
    context = model.prepare(query)
    if query.validate_only:
        return unsolved(query, model)
    judged = model.before(query, context)
    paths = None
    if context is not None:
        budget.check("drawing scenarios")
        paths = _drawn(query, local, context, judged)
        checked = model.after(judged, paths)
        if checked.baseline and not judged.baseline:
            paths = _drawn(query, local, context, checked)
            checked = model.after(checked, paths)
        judged = checked
    seconds = time.perf_counter() - started
    return conclude(query, model, context, paths, judged, budget, drawn_seconds=seconds)


def _drawn(query: Query[A], local: LocalModel, context: Context, judged: Judgement) -> NDArray[np.float32]:
    with stage("denoiser.draw"):
        return local.draw(context, query.draw_count, query.seed, query.draw_start, baseline=judged.baseline)
