"""What goes between deployments: replies of replicas, and asking again when a replica went away."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentResponse

from hedgecast.core.errors import HedgecastError, OverloadedError, UnavailableError
from hedgecast.service.draw_queue import DrawFigures

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """A solver's answer with what was seen on the way to it."""

    outcome: Any
    """The answer, or our error as a value: a raised one Serve would log as a failure of the replica."""
    draws: tuple[DrawFigures, ...] = ()
    """Of the requests to the denoiser."""


async def ask(send: Callable[[], DeploymentResponse], *, retries: int = 0) -> Any:
    """What a replica returned; a cancelled wait cancels the replica's work.

    Parameters
    ----------
    send : callable
        Sends the request, to whichever replica. It is called again when that one went away before it
        answered: the answer must not depend on how often.
    retries : int
        Most times after the first.

    Raises
    ------
    OverloadedError
        All queues are full.
    UnavailableError
        Every replica that was asked went away.
    HedgecastError
        What the replica returned as a value.
    """
    for tries_left in range(retries, -1, -1):
        response = send()
        try:
            outcome = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError as error:
            raise OverloadedError("every replica's queue is full: try again later") from error
        except (RayActorError, DeploymentUnavailableError) as error:
            if not tries_left:
                raise UnavailableError("the replica that worked on this went away: try again") from error
            log.warning("a replica went away before it answered; asking another: %s", error)
        else:
            if isinstance(outcome, HedgecastError):
                raise outcome
            return outcome
    raise AssertionError
