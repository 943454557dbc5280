"""What a solver has drawn for a query: by which graph, and again by another where the first did not do."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import BundleError
from hedgecast.service.answers import ScenarioSource
from hedgecast.service.packing import DrawRequest
from hedgecast.service.queries import Query

if TYPE_CHECKING:
    from hedgecast.registry.session import Context
    from hedgecast.service.decide import ServedModel
    from hedgecast.service.safety import Judgement

log = logging.getLogger(__name__)


def draw_request(query: Query[Any], context: Context, graph: str) -> DrawRequest:
    """What the denoiser is asked for."""
    return DrawRequest(
        features=context.features,
        day_number=context.day_number,
        count=query.draw_count,
        seed=query.seed,
        start=query.draw_start,
        graph=graph,
    )


async def judged_draw(
    model: ServedModel, judged: Judgement, draw: Callable[[str], Awaitable[NDArray[np.float32]]]
) -> tuple[NDArray[np.float32], Judgement]:
    """Scenarios (S, T, F), and what an answer on them rests on.

    A student gives way to the network, and the network to the baseline, as `ServedModel.after` says. A
    student that the denoiser's machine lacks gives way, too: it fetched the bundle before that was measured.

    Parameters
    ----------
    model : ServedModel
    judged : Judgement
        Before anything is drawn.
    draw : callable
        Draws by the graph of a name.

    Raises
    ------
    HedgecastError
        Whatever ``draw`` raises; UntrustedError: the policy refuses the scenarios.
    """
    while True:
        try:
            paths = await draw(model.graph(judged))
        except BundleError as error:
            if judged.source is not ScenarioSource.STUDENT:
                raise
            log.warning("the network draws, for want of the student: %s", error)
            judged = judged.by_network()
            continue
        checked = model.after(judged, paths)
        if checked.source is judged.source:
            return paths, checked
        judged = checked
