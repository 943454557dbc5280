"""How long work on one request may go on."""

from __future__ import annotations

import threading
import time

from hedgecast.core.errors import DeadlineError


class Budget:
    """How long work may go on; asked between stages, since a running solve cannot be interrupted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._cancelled = threading.Event()

    @property
    def left(self) -> float:
        """Seconds that are left; not below 0."""
        return max(self._end - time.monotonic(), 0.0)

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self._cancelled.set()

    def check(self, stage: str) -> None:
        """Raise before ``stage`` when the work is not worth going on with.

        Raises
        ------
        DeadlineError
            The time is up, or the call was cancelled.
        """
        if self._cancelled.is_set():
            raise DeadlineError(f"the call was cancelled before {stage}", stage=stage)
        if time.monotonic() >= self._end:
            raise DeadlineError(
                f"{self._seconds:.3g} s were up before {stage}: allow more time or ask for fewer scenarios",
                stage=stage,
            )
