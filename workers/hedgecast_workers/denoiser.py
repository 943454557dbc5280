"""The deployment that draws scenarios with ONNX Runtime: a queue for each version of the model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hedgecast.core.errors import HedgecastError
from hedgecast.service.draw_queue import Drawn, DrawQueue
from hedgecast.service.models import BundleReference
from hedgecast.service.packing import DrawRequest
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import stage
from hedgecast_workers.models import present
from hedgecast_workers.observed import observed
from hedgecast_workers.threads import check_threads
from hedgecast_workers.versions import Versions

if TYPE_CHECKING:
    from hedgecast.registry.session import ScenarioSession

# Solvers of two versions, and work that began with a third.
_MOST_VERSIONS = 3


class Denoiser:
    """Draws scenarios of many requests together; ready once every session has run a full batch."""

    async def __init__(self, bundle: BundleReference, threads: int, settings: ServiceSettings) -> None:  # type: ignore[misc]
        observed(settings, "denoiser")
        check_threads(settings.draw_sessions, threads)
        self._threads, self._settings = threads, settings
        self._missing: tuple[str, ...] = ()
        self._versions: Versions[DrawQueue] = Versions(
            bundle,
            self._loaded,
            drop=_closed_later,
            most=_MOST_VERSIONS,
            seconds=settings.takeover_seconds,
        )
        await self._versions.start()

    async def draw(
        self, reference: BundleReference, request: DrawRequest, seconds: float, trace: Mapping[str, str]
    ) -> Drawn | HedgecastError:
        """Scenarios of a version of the model, or our error as a value.

        Parameters
        ----------
        reference : BundleReference
            The version.
        request : DrawRequest
            What to draw.
        seconds : float
            Time for it.
        trace : mapping
            The caller's span.
        """
        try:
            with stage("denoiser.draw", trace):
                queue = await self._versions.of(reference)
                return await asyncio.wrap_future(queue.submit(request, seconds))
        except HedgecastError as error:
            return error

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that were asked for and are not there."""
        return self._missing

    async def _loaded(self, reference: BundleReference) -> DrawQueue:
        return await asyncio.to_thread(self._opened, reference)

    def _opened(self, reference: BundleReference) -> DrawQueue:
        # Imported by the replicas that need torch and the solvers, not by the gateway and the driver.
        from hedgecast.registry.session import ScenarioSession

        settings, folder = self._settings, present(reference, apart=True).folder
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
        self._missing = sessions[0].missing_providers
        return DrawQueue(
            sessions,
            batch_scenarios=settings.draw_batch_scenarios,
            wait_seconds=settings.draw_wait_seconds,
            most_queued=settings.max_queued_scenarios,
        )


def _warm_up(session: ScenarioSession, count: int) -> None:
    """ONNX Runtime plans its memory at the first run."""
    features = np.zeros((1, session.bundle.manifest.generator.num_features))
    for graph in session.graphs:
        session.draw_each(features, [0], count, [0], [0], graph=graph)


def _closed_later(queue: DrawQueue) -> None:
    """What waits there is drawn first."""
    threading.Thread(target=queue.close, name="close", daemon=True).start()
