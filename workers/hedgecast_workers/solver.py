"""The deployments that solve: with denoisers beside them, or drawing for themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from ray.serve.handle import DeploymentHandle, DeploymentResponse

from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import DrawFigures, Drawn
from hedgecast.service.models import BundleReference, ModelDescription
from hedgecast.service.packing import DrawRequest
from hedgecast.service.queries import Query, ScenariosQuery
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import carrier
from hedgecast_workers.draws import Draws
from hedgecast_workers.models import present
from hedgecast_workers.observed import observed
from hedgecast_workers.replies import Reply, ask, replied
from hedgecast_workers.together import Submits, Together
from hedgecast_workers.versions import Versions, descriptions, meant

if TYPE_CHECKING:
    from hedgecast.service.decide import ServedModel

_WARM_UP_SCENARIOS = 16
_WARM_UP_SECONDS = 300.0


class Solver:
    """Reads rows, asks a denoiser for scenarios, solves; a replica runs once it is warm."""

    async def __init__(  # type: ignore[misc]
        self, bundle: BundleReference, denoiser: DeploymentHandle, settings: ServiceSettings
    ) -> None:
        observed(settings, "solver")
        self._denoiser, self._retries = denoiser, settings.replica_retries
        await self._start(bundle, settings)

    async def _start(self, bundle: BundleReference, settings: ServiceSettings) -> None:
        self._together = Together(settings)
        self._calls: dict[str, list[asyncio.Task[Reply]]] = {}
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

    async def answer_all(
        self, key: str, asked: Sequence[tuple[Query[Any], Mapping[str, str]]]
    ) -> list[Reply | None]:
        """The answers to queries of one call, each with its trace; None: ask for that one by itself.

        Parameters
        ----------
        key : str
            Of the call, by which queries are withdrawn.
        asked : sequence of tuple
        """
        tasks = [asyncio.create_task(self.answer(query, trace)) for query, trace in asked]
        self._calls[key] = tasks
        try:
            found = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            del self._calls[key]
        return [one if isinstance(one, Reply) else None for one in found]

    async def withdraw(self, places: Mapping[str, Sequence[int]]) -> None:
        """Stop work that nobody waits for any more: on queries by their call's key and their places in it."""
        for key in places.keys() & self._calls.keys():
            for place in places[key]:
                self._calls[key][place].cancel()

    async def _answer(self, query: Query[Any], budget: Budget, draws: list[DrawFigures]) -> Any:
        version = await meant(self._versions, query.model)
        submits = await self._submits(version.reference, budget)
        return await self._together.answer(query, budget, version.value, submits, draws)

    async def _submits(self, reference: BundleReference, budget: Budget) -> Submits:
        """What has scenarios of a version of the model drawn, for a thread that may take as long."""
        loop = asyncio.get_running_loop()

        async def drawn(request: DrawRequest) -> Drawn:
            def send() -> DeploymentResponse:
                return self._denoiser.draw.remote(reference, request, budget.left, carrier())

            return cast(Drawn, await ask(send, retries=self._retries))

        def submit(request: DrawRequest) -> Future[Drawn]:
            return asyncio.run_coroutine_threadsafe(drawn(request), loop)

        return Submits(submit, submit)

    async def _ready(self, reference: BundleReference) -> ServedModel:
        """A version of the model, once it has drawn and solved."""
        from hedgecast.service.bundles import served_model, warm_up, warm_up_context

        model = await asyncio.to_thread(lambda: served_model(present(reference, apart=True)))
        context = warm_up_context(model)
        request = DrawRequest(
            features=context.features, day_number=context.day_number, count=_WARM_UP_SCENARIOS, seed=0
        )
        submits = await self._submits(reference, Budget(_WARM_UP_SECONDS))
        drawn = await asyncio.to_thread(lambda: submits.alone(request).result())
        # Beside the queue: the version before goes on answering.
        await asyncio.to_thread(warm_up, model, context, drawn.paths)
        return model


class DrawingSolver(Solver):
    """A solver that draws for itself: no denoiser, and no hop to one."""

    async def __init__(self, bundle: BundleReference, threads: int, settings: ServiceSettings) -> None:  # type: ignore[misc]
        observed(settings, "solver")
        self._draws = Draws(bundle, threads, settings)
        await self._draws.start()
        await self._start(bundle, settings)

    async def answer(self, query: Query[Any], trace: Mapping[str, str]) -> Reply:
        """The answer to any query."""
        if isinstance(query, ScenariosQuery):
            return await self._draws.answer(query, trace)
        return await super().answer(query, trace)

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that were asked for and are not there."""
        return self._draws.missing

    async def _submits(self, reference: BundleReference, budget: Budget) -> Submits:
        drawing = await self._draws.of(reference)
        return Submits(drawing.here(budget), drawing.submit(budget))
