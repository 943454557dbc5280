"""A token bucket: a steady rate with room for a burst."""

from __future__ import annotations

import math
from collections.abc import Callable


class TokenBucket:
    """Fills at ``rate`` per second up to ``capacity``; full at first.

    Parameters
    ----------
    rate, capacity : float
        Positive.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, rate: float, capacity: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._capacity = float(capacity)
        self._clock = clock
        self._level = self._capacity
        self._filled = clock()

    def take(self, amount: float) -> float:
        """Zero when ``amount`` was taken; else seconds until it could be, and nothing was taken.

        What is more than the capacity is never granted: infinity.
        """
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if amount <= self._level:
            self._level -= amount
            return 0.0
        if amount > self._capacity:
            return math.inf
        return (amount - self._level) / self._rate
