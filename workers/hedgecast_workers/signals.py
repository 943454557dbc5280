"""Ctrl-C and SIGTERM as one exception, so that every context manager cleans up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """The first SIGTERM or SIGINT raises KeyboardInterrupt; later ones do not disturb the clean-up."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
