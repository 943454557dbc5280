"""A second version in the shadow of the first: the same question, the same noise, an answer nobody waits for.

Which requests are shadowed follows from their ids alone, so that a retry is treated as the first try was.
Noise is counted by scenario, seed and day, not by version: both versions see common random numbers. What is
busy is left out, never queued: a shadow must not slow an answer.

Source of the rule that judges the pairs: `hedgecast.outcomes.canary`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
from collections.abc import Sequence

from hedgecast.core.errors import HedgecastError
from hedgecast.service.backend import DecisionBackend
from hedgecast.service.models import ModelDescription
from hedgecast.service.outcomes import OutcomeBook
from hedgecast.service.queries import DecideQuery

CANARY = "canary"
"""Alias of the version that answers in the shadow."""
_MOST_SHADOWS = 4

log = logging.getLogger(__name__)


class Canary:
    """Has a second version answer a share of the requests.

    Parameters
    ----------
    backend : DecisionBackend
        Serves both versions.
    book : OutcomeBook
        Keeps the shadows beside the planner's decisions.
    share : float
        Of the requests, in [0, 1].
    """

    def __init__(self, backend: DecisionBackend, book: OutcomeBook, share: float) -> None:
        self._backend, self._book, self._share = backend, book, share
        self._under_way: set[asyncio.Task[None]] = set()

    async def follow(
        self, query: DecideQuery, answered_by: ModelDescription, decision_id: str, principal: str
    ) -> None:
        """Begin the shadow of an answered and kept decision, where it is to have one."""
        if not decision_id or not chosen(query.request_id, self._share):
            return
        second = canary_of(answered_by, await self._backend.models())
        if second is None or len(self._under_way) >= _MOST_SHADOWS:
            return
        shadow = dataclasses.replace(query, model=second.full_name, prices=False, gap_replications=0)
        task = asyncio.ensure_future(self._answer(shadow, decision_id, principal))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def finish(self) -> None:
        """Wait for the shadows under way."""
        await asyncio.gather(*self._under_way)

    async def _answer(self, query: DecideQuery, decision_id: str, principal: str) -> None:
        try:
            answer = await self._backend.answer(query)
            await self._book.keep(query, answer, principal, shadow_of=decision_id)
        except HedgecastError as error:
            # A pair less; what is wrong with the version shows in the count of its outcomes.
            log.warning("the canary %s did not answer %s: %s", query.model, query.request_id, error)


def chosen(request_id: str, share: float) -> bool:
    """Whether a request is among the ``share`` that is shadowed: by its id, evenly."""
    place = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
    return place < share * 2.0**64


def canary_of(first: ModelDescription, models: Sequence[ModelDescription]) -> ModelDescription | None:
    """The canary version of the same model, where another version answered."""
    for model in models:
        if model.name == first.name and CANARY in model.aliases and model.version != first.version:
            return model
    return None
