"""Decisions on ever more scenarios until one of them is good enough for sure, under the model's law.

Stage k draws n_k = 2^k n_0 scenarios, decides on them, and bounds the decision's optimality gap on R samples
of n_k fresh scenarios each at level delta_k = delta 6 / (pi^2 (k + 1)^2), k = 0, 1, ... The levels sum to
delta, so all bounds hold together with probability 1 - delta however many there are and whenever one stops:
the least of them is one too. Every stage draws scenarios that no stage before has seen.

Source: the bound of one stage: Mak, Morton and Wood (1999), section 3.2 (Student's quantile: to first order
in R); sequential rules that need all stages' bounds: Bayraksan and Morton (2011), section 3,
https://doi.org/10.1287/opre.1110.0926.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from hedgecast.core.errors import DeadlineError, InputError
from hedgecast.service.answers import DecideAnswer, Gap, Solution
from hedgecast.service.queries import DecideQuery

REPLICATIONS = 10
# A stage takes about twice the time of the one before; a little more is allowed for.
_NEXT_STAGE = 2.5
# Before the deadline, for the last message's way to the caller.
_SENDING_SECONDS = 0.1


class StopReason(enum.Enum):
    """Why there is no further stage."""

    CERTIFIED = "certified"
    DEADLINE_NEAR = "deadline near"
    DRAWS_USED_UP = "draws used up"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is asked for and what it may cost.

    Raises
    ------
    InputError
        Neither or both of the targets are positive, or the first stage is beyond the limits.
    """

    target_gap: float
    """In the currency of the program; 0: the relative one counts."""
    target_relative_gap: float
    """Of the size of the objective."""
    confidence: float
    """Of all bounds together."""
    draw_limit: int
    """Scenarios in all."""
    stage_limit: int
    """Scenarios of one stage."""

    def __post_init__(self) -> None:
        if (self.target_gap > 0.0) == (self.target_relative_gap > 0.0):
            raise InputError(
                f"target_gap = {self.target_gap:g}, target_relative_gap = {self.target_relative_gap:g}: "
                "exactly one must be positive",
                field="target_gap",
            )

    def met(self, bound: float, objective: float) -> bool:
        """Whether a bound is as small as asked for."""
        return bound <= (self.target_gap or self.target_relative_gap * abs(objective))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """The best decision so far."""

    best: DecideAnswer
    query: DecideQuery
    """That it answers."""
    upper_bound: float
    stages: int
    draws: int
    stop: StopReason | None
    """None: it goes on."""


async def certified(
    query: DecideQuery,
    terms: Terms,
    answer: Callable[[DecideQuery], Awaitable[DecideAnswer]],
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Certificate, None]:
    """The best decision after each stage; the last one has the reason for stopping.

    Parameters
    ----------
    query : DecideQuery
        The first stage's, without replications.
    terms : Terms
    answer : callable
        Decides one stage.
    clock : callable
        Monotonic seconds.

    Raises
    ------
    InputError
        The first stage alone is beyond the limits.
    """
    end = clock() + query.deadline_seconds
    draws, stage, best = 0, 0, None
    size = query.scenario_count
    _check_first(size, terms)
    while True:
        began = clock()
        asked = _staged(query, size, stage, draws, terms, end - began)
        try:
            async with asyncio.timeout(None if best is None else asked.deadline_seconds - _SENDING_SECONDS):
                found = await answer(asked)
        except (DeadlineError, TimeoutError):
            if best is None:
                raise
            # Slower than the one before foretold: what there is stays good.
            yield _certificate(best, stage, draws, StopReason.DEADLINE_NEAR)
            return
        solution = _solved(found)
        # Bounds are of one model, also when another version takes over meanwhile.
        query = dataclasses.replace(query, model=found.model.full_name)
        draws += asked.draw_count
        stage += 1
        if best is None or _bound(solution) < _bound(_solved(best[1])):
            best = (asked, found)
        now = clock()
        stop = _stop(terms, _solved(best[1]), 2 * size, draws, end - now, now - began)
        yield _certificate(best, stage, draws, stop)
        if stop is not None:
            return
        size *= 2


def stage_level(confidence: float, stage: int) -> float:
    """Confidence of the bound of stage 0, 1, ...; their doubts sum to that of all."""
    return 1.0 - (1.0 - confidence) * 6.0 / (math.pi * (stage + 1)) ** 2


def _staged(
    query: DecideQuery, size: int, stage: int, draws: int, terms: Terms, seconds: float
) -> DecideQuery:
    return dataclasses.replace(
        query,
        scenario_count=size,
        draw_start=draws,
        gap_replications=REPLICATIONS,
        gap_confidence=stage_level(terms.confidence, stage),
        deadline_seconds=seconds,
        prices=False,
    )


def _certificate(
    best: tuple[DecideQuery, DecideAnswer], stages: int, draws: int, stop: StopReason | None
) -> Certificate:
    query, found = best
    bound = _bound(_solved(found))
    return Certificate(best=found, query=query, upper_bound=bound, stages=stages, draws=draws, stop=stop)


def _stop(
    terms: Terms, kept: Solution, next_size: int, draws: int, left: float, took: float
) -> StopReason | None:
    if terms.met(_bound(kept), kept.statistics.objective):
        return StopReason.CERTIFIED
    needed = next_size * (1 + REPLICATIONS)
    if needed > terms.stage_limit or draws + needed > terms.draw_limit:
        return StopReason.DRAWS_USED_UP
    return StopReason.DEADLINE_NEAR if _NEXT_STAGE * took > left else None


def _check_first(size: int, terms: Terms) -> None:
    needed, limit = size * (1 + REPLICATIONS), min(terms.stage_limit, terms.draw_limit)
    if needed > limit:
        raise InputError(
            f"request.scenario_count is {size}: with {REPLICATIONS} replications the first sample takes "
            f"{needed} draws, at most {limit} are allowed",
            field="request.scenario_count",
            limit=limit,
        )


def _solved(answer: DecideAnswer) -> Solution:
    assert answer.solution is not None
    return answer.solution


def _bound(solution: Solution) -> float:
    gap: Gap | None = solution.gap
    assert gap is not None
    return gap.upper_bound
