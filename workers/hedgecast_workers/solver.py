"""The deployments that solve: with denoisers beside them, or drawing for themselves."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import DrawFigures, Drawn, QueuedDraw
from hedgecast.service.models import BundleReference, ModelDescription
from hedgecast.service.packing import DrawRequest
from hedgecast.service.queries import Query, ScenariosQuery
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import carrier
from hedgecast_workers.drawing import draw_request, judged_draw
from hedgecast_workers.draws import Draws
from hedgecast_workers.models import present
from hedgecast_workers.observed import observed
from hedgecast_workers.replies import Reply, ask, replied
from hedgecast_workers.versions import Versions, descriptions, meant

if TYPE_CHECKING:
    from hedgecast.service.decide import ServedModel

_WARM_UP_SCENARIOS = 16
_WARM_UP_SECONDS = 300.0


class Source(Protocol):
    """Where a solver's scenarios come from."""

    async def draw(self, reference: BundleReference, request: DrawRequest, budget: Budget) -> Drawn:
        """Scenarios of a version of the model, or `HedgecastError`."""
        ...


class Denoisers:
    """Scenarios from the replicas of another deployment.

    Parameters
    ----------
    handle : DeploymentHandle
        Of a `Denoiser`.
    retries : int
        How often another one is asked when one went away.
    """

    def __init__(self, handle: DeploymentHandle, *, retries: int) -> None:
        self._handle, self._retries = handle, retries

    async def draw(self, reference: BundleReference, request: DrawRequest, budget: Budget) -> Drawn:
        """What a denoiser draws."""

        def send() -> DeploymentResponse:
            return self._handle.draw.remote(reference, request, budget.left, carrier())

        return cast(Drawn, await ask(send, retries=self._retries))


class Solver:
    """Reads rows, asks a denoiser for scenarios, solves; a replica runs once it is warm."""

    async def __init__(  # type: ignore[misc]
        self, bundle: BundleReference, denoiser: DeploymentHandle, settings: ServiceSettings
    ) -> None:
        observed(settings, "solver")
        await self._start(bundle, Denoisers(denoiser, retries=settings.replica_retries), settings)

    async def _start(self, bundle: BundleReference, source: Source, settings: ServiceSettings) -> None:
        from hedgecast.service.sample import sample_of
        from hedgecast.service.work import Job, answer_queue, unsolved

        self._sample, self._job, self._unsolved = sample_of, Job, unsolved
        self._source = source
        # Rows are read while a batch is solved, so that the next one is there when it ends.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")
        self._queue = answer_queue(settings.batch_limits)
        self._versions: Versions[ServedModel] = Versions(
            bundle, self._ready, seconds=settings.takeover_seconds
        )
        await self._versions.start()

    async def describe(self) -> tuple[ModelDescription, ...]:
        """The versions of the model, the current one first."""
        return descriptions(self._versions)

    async def answer(self, query: Query[Any], trace: Mapping[str, str]) -> Reply:
        """The answer to a query for which something is solved."""
        return await replied(query, self._answer, "solver.answer", trace)

    async def _answer(self, query: Query[Any], budget: Budget, draws: list[DrawFigures]) -> Any:
        started = time.perf_counter()
        version = await meant(self._versions, query.model)
        model = version.value
        context = await self._run(model.prepare, query)
        if query.validate_only:
            return self._unsolved(query, model)
        judged = model.before(query, context)
        paths = None
        if context is not None:
            budget.check("drawing scenarios")

            async def draw(graph: str) -> NDArray[np.float32]:
                drawn = await self._source.draw(
                    version.reference, draw_request(query, context, graph), budget
                )
                draws.append(drawn.figures)
                return drawn.paths

            paths, judged = await judged_draw(model, judged, draw)
        sample_of = functools.partial(self._sample, drawn_seconds=time.perf_counter() - started)
        sample = await self._run(sample_of, query, model, context, paths, judged)
        job = self._job(query=query, model=model, sample=sample, budget=budget)
        return await asyncio.wrap_future(self._queue.submit(job))

    async def _ready(self, reference: BundleReference) -> ServedModel:
        """A version of the model, once it has drawn and solved."""
        from hedgecast.service.bundles import served_model, warm_up, warm_up_context

        model = await asyncio.to_thread(lambda: served_model(present(reference, apart=True)))
        context = warm_up_context(model)
        request = DrawRequest(
            features=context.features, day_number=context.day_number, count=_WARM_UP_SCENARIOS, seed=0
        )
        drawn = await self._source.draw(reference, request, Budget(_WARM_UP_SECONDS))
        # Beside the pool: the version before goes on answering.
        await asyncio.to_thread(warm_up, model, context, drawn.paths)
        return model

    async def _run(self, function: Any, *arguments: Any) -> Any:
        run = contextvars.copy_context().run
        return await asyncio.wrap_future(self._pool.submit(run, function, *arguments))


class DrawingSolver(Solver):
    """A solver that draws for itself: no denoiser, and no hop to one."""

    async def __init__(self, bundle: BundleReference, threads: int, settings: ServiceSettings) -> None:  # type: ignore[misc]
        from hedgecast.service.local import LocalModel, job_of

        observed(settings, "solver")
        self._local, self._job_of = LocalModel, job_of
        self._draws = Draws(bundle, threads, settings)
        await self._draws.start()
        await self._start(bundle, self._draws, settings)
        # One thread goes from the rows to the scenarios' set and waits for the draw: three turns of the loop
        # more took 0.6 ms of a decision.
        self._pool = ThreadPoolExecutor(settings.max_concurrent_requests, thread_name_prefix="read")

    async def answer(self, query: Query[Any], trace: Mapping[str, str]) -> Reply:
        """The answer to any query."""
        if isinstance(query, ScenariosQuery):
            return await self._draws.answer(query, trace)
        return await super().answer(query, trace)

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that were asked for and are not there."""
        return self._draws.missing

    async def _answer(self, query: Query[Any], budget: Budget, draws: list[DrawFigures]) -> Any:
        version = await meant(self._versions, query.model)
        draw = QueuedDraw(await self._draws.queue(version.reference), budget, draws)
        local = self._local(model=version.value, draw=draw)
        try:
            job = await self._run(self._job_of, query, local, budget)
        except asyncio.CancelledError:
            draw.cancel()
            raise
        if job is None:
            return self._unsolved(query, version.value)
        return await asyncio.wrap_future(self._queue.submit(job))
