"""What draws scenarios with ONNX Runtime in a replica: a queue for each version of the model."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import DrawFigures, DrawQueue, Submit
from hedgecast.service.models import BundleReference, ModelDescription
from hedgecast.service.queries import ScenariosQuery
from hedgecast.service.settings import ServiceSettings
from hedgecast_workers.drawing import QueryThreads
from hedgecast_workers.models import present
from hedgecast_workers.replies import Reply, replied
from hedgecast_workers.threads import check_threads
from hedgecast_workers.versions import Versions, meant

if TYPE_CHECKING:
    from hedgecast.registry.session import ScenarioSession
    from hedgecast.service.decide import ServedModel

# Solvers of two versions, and work that began with a third.
_MOST_VERSIONS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Drawing:
    """A loaded version: what it asks of rows, and the queue that draws."""

    model: ServedModel
    queue: DrawQueue

    @property
    def description(self) -> ModelDescription:
        """The model's."""
        return self.model.description

    def submit(self, budget: Budget) -> Submit:
        """What has a request drawn within ``budget``; waits for nothing."""
        return lambda request: self.queue.submit(request, budget.left)

    def here(self, budget: Budget) -> Submit:
        """As `submit`, on the thread that asks where that is free to."""
        return lambda request: self.queue.here(request, budget.left)


class Draws:
    """Draws scenarios of many requests together.

    Parameters
    ----------
    bundle : BundleReference
        The version to begin with.
    threads : int
        Of one run.
    settings : ServiceSettings

    Raises
    ------
    ConfigError
        The machine has too few cores for so many sessions of so many threads.
    """

    def __init__(self, bundle: BundleReference, threads: int, settings: ServiceSettings) -> None:
        # Imported by the replicas that need torch and the solvers, not by the gateway and the driver.
        from hedgecast.service.local import scenarios_answer

        check_threads(settings.draw_sessions, threads)
        self._scenarios = scenarios_answer
        self._query_threads = QueryThreads(settings.max_concurrent_requests)
        self._threads, self._settings = threads, settings
        self.missing: tuple[str, ...] = ()
        """Execution providers that were asked for and are not there."""
        self._versions: Versions[Drawing] = Versions(
            bundle,
            self._loaded,
            drop=_closed_later,
            most=_MOST_VERSIONS,
            seconds=settings.takeover_seconds,
        )

    async def start(self) -> None:
        """Load the first version; every session has run a full batch then."""
        await self._versions.start()

    async def of(self, reference: BundleReference) -> Drawing:
        """A version of the model, loaded where it is not yet.

        Raises
        ------
        HedgecastError
            It cannot be loaded.
        """
        return await self._versions.of(reference)

    async def answer(self, query: ScenariosQuery, trace: Mapping[str, str]) -> Reply:
        """The scenarios that a query asks for."""
        return await replied(query, self._answer, "denoiser.answer", trace)

    async def _answer(self, query: ScenariosQuery, budget: Budget, draws: list[DrawFigures]) -> Any:
        version = (await meant(self._versions, query.model)).value
        submit = version.here(budget)
        return await self._query_threads.run(self._scenarios, query, budget, version.model, submit, draws)

    async def _loaded(self, reference: BundleReference) -> Drawing:
        return await asyncio.to_thread(self._opened, reference)

    def _opened(self, reference: BundleReference) -> Drawing:
        # As above.
        from hedgecast.registry.session import ScenarioSession
        from hedgecast.service.bundles import served_model

        reference = present(reference, apart=True)
        settings, folder = self._settings, reference.folder
        sessions = [
            ScenarioSession.open(
                folder,
                threads=self._threads,
                providers=settings.providers,
                allow_fallback=settings.allow_provider_fallback,
            )
            for _ in range(settings.draw_sessions)
        ]
        for session in sessions:
            _warm_up(session, settings.draw_batch_scenarios)
        self.missing = sessions[0].missing_providers
        queue = DrawQueue(
            sessions,
            batch_scenarios=settings.draw_batch_scenarios,
            wait_seconds=settings.draw_wait_seconds,
            most_queued=settings.max_queued_scenarios,
        )
        return Drawing(served_model(reference), queue)


def _warm_up(session: ScenarioSession, count: int) -> None:
    """ONNX Runtime plans its memory at the first run."""
    features = np.zeros((1, session.bundle.manifest.generator.num_features))
    for graph in session.graphs:
        session.draw_each(features, [0], count, [0], [0], graph=graph)


def _closed_later(version: Drawing) -> None:
    """What waits there is drawn first."""
    threading.Thread(target=version.queue.close, name="close", daemon=True).start()
