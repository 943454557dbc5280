"""Values read from files that an operator may replace while the service runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from hedgecast.core.errors import HedgecastError

_T = TypeVar("_T")
_Signature = tuple[tuple[int, int, int], ...]

log = logging.getLogger(__name__)


class Reloaded(Generic[_T]):
    """What files hold now; looked at again when asked, at most once in ``seconds``.

    A replacement that cannot be used is logged once and the last good value stays: a half-written file
    must neither let anybody in nor lock everybody out. Safe to ask from several threads.

    Parameters
    ----------
    paths : sequence of Path
        The files; links are followed, so that a mounted secret that is swapped is seen.
    read : callable
        Makes the value; raises HedgecastError where the files cannot be used.
    seconds : float
        Least time between two looks; 0 looks at every call.

    Raises
    ------
    HedgecastError
        At construction, when the first read fails.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], _T], *, seconds: float) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._seen = _signature(self._paths)
        self._value = read()
        self._looked = time.monotonic()

    def value(self) -> _T:
        """The last good value."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= self._seconds:
                self._looked = now
                self._look()
            return self._value

    def _look(self) -> None:
        signature = _signature(self._paths)
        if signature == self._seen:
            return
        names = ", ".join(path.name for path in self._paths)
        self._seen = signature
        try:
            self._value = self._read()
        except HedgecastError as error:
            log.error("%s changed and cannot be used, so the former content stays: %s", names, error)
        else:
            log.info("%s read again", names)


def _signature(paths: Sequence[Path]) -> _Signature:
    """What changes with the files' content; zeros for one that is not there."""
    marks = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            marks.append((0, 0, 0))
        else:
            marks.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(marks)
