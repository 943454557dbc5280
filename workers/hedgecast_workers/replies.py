"""What goes between deployments: queries, replies, and asking again when a replica went away."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentResponse

from hedgecast.core.errors import HedgecastError, OverloadedError, UnavailableError
from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import DrawFigures
from hedgecast.service.logs import REQUEST_ID
from hedgecast.service.queries import Query
from hedgecast.service.tracing import stage

Q = TypeVar("Q", bound=Query[Any])

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """A replica's answer with what was seen on the way to it."""

    outcome: Any
    """The answer, or our error as a value: a raised one Serve would log as a failure of the replica."""
    draws: tuple[DrawFigures, ...] = ()
    """Of what was drawn for it."""


async def replied(
    query: Q,
    work: Callable[[Q, Budget, list[DrawFigures]], Awaitable[Any]],
    name: str,
    trace: Mapping[str, str],
) -> Reply:
    """A replica's reply to a query: what ``work`` returns, or our error.

    Parameters
    ----------
    query : Query
    work : callable
        Answers it within the budget, and adds the figures of what it had drawn.
    name : str
        Of the span.
    trace : mapping
        The caller's span.
    """
    REQUEST_ID.set(query.request_id)
    budget = Budget(query.deadline_seconds)
    draws: list[DrawFigures] = []
    try:
        with stage(name, trace):
            outcome = await work(query, budget, draws)
    except HedgecastError as error:
        outcome = error
    except asyncio.CancelledError:
        budget.cancel()
        raise
    return Reply(outcome, tuple(draws))


def with_time_left(query: Q, budget: Budget) -> Q:
    """The query with the time that is left: another try has no more."""
    return dataclasses.replace(query, deadline_seconds=budget.left)


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
