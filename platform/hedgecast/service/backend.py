"""What stands between the servicers and whatever decides.

In process for tests and notebooks (`hedgecast.service.local`), Ray Serve handles in production
(`hedgecast_workers.serve`); the servicers see no difference.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import Query

A = TypeVar("A")


class DecisionBackend(Protocol):
    """Whatever decides."""

    async def answer(self, query: Query[A]) -> A:
        """The answer to ``query``; cancelling the call stops the work between stages."""
        ...

    async def models(self) -> tuple[ModelDescription, ...]:
        """All served models."""
        ...
