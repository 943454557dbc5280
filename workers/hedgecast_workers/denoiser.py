"""The deployment that draws scenarios and solves nothing.

For solvers, who have read the rows; and for callers who want scenarios and no decision, from their rows on: a
way over a solver would cost them five milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hedgecast.core.errors import HedgecastError
from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import Drawn
from hedgecast.service.models import BundleReference
from hedgecast.service.packing import DrawRequest
from hedgecast.service.queries import ScenariosQuery
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import stage
from hedgecast_workers.draws import Draws
from hedgecast_workers.observed import observed
from hedgecast_workers.replies import Reply


class Denoiser:
    """Draws scenarios; a replica runs once it is warm."""

    async def __init__(self, bundle: BundleReference, threads: int, settings: ServiceSettings) -> None:  # type: ignore[misc]
        observed(settings, "denoiser")
        self._draws = Draws(bundle, threads, settings)
        await self._draws.start()

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
                submit = (await self._draws.of(reference)).submit(Budget(seconds))
                return await asyncio.wrap_future(submit(request))
        except HedgecastError as error:
            return error

    async def answer(self, query: ScenariosQuery, trace: Mapping[str, str]) -> Reply:
        """The scenarios that a query asks for."""
        return await self._draws.answer(query, trace)

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that were asked for and are not there."""
        return self._draws.missing
