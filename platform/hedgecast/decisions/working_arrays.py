"""Working arrays of the compiled loops: lent to one thread at a time, kept for the next that needs such."""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Work: TypeAlias = tuple[FloatArray, ...]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]


def aligned_empty(*shape: int) -> FloatArray:
    """An array that begins at a cache line: a vector that straddles two costs two reads.

    From numpy, which asks for huge pages where an array is large: with 100,000 scenarios each pass runs
    over a gigabyte.
    """
    size = math.prod(shape)
    buffer = np.empty(size + 8)
    skip = -(buffer.ctypes.data // 8) % 8
    return buffer[skip : skip + size].reshape(shape)


def new_work(shapes: Shapes) -> Work:
    """Arrays of these shapes, filled."""
    work = tuple(aligned_empty(*shape) for shape in shapes)
    for array in work:
        # Numbers, whatever was there before: lanes past the last scenario are computed too.
        array[:] = 0.0
    return work


class WorkingArrays:
    """Keeps what is given back, the last of it first, for all threads of the process.

    Kept by each thread they would be as many times the memory as there are threads that solve by turns, and
    a decision, which needs two shapes of them, would make both anew each time.

    Parameters
    ----------
    most_bytes : int
        Of all that is kept; what is lent comes on top.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._lock = most_bytes, threading.Lock()
        self._kept: collections.deque[tuple[Shapes, Work]] = collections.deque()

    @property
    def kept_bytes(self) -> int:
        """Of what is not lent."""
        return sum(_size(work) for _, work in self._kept)

    @contextmanager
    def lent(self, shapes: Shapes) -> Iterator[Work]:
        """Arrays of these shapes, with numbers in them, for the time of the block."""
        work = self._taken(shapes) or new_work(shapes)
        try:
            yield work
        finally:
            self._give_back(shapes, work)

    def _taken(self, shapes: Shapes) -> Work | None:
        with self._lock:
            for place in range(len(self._kept) - 1, -1, -1):
                if self._kept[place][0] == shapes:
                    _, work = self._kept[place]
                    del self._kept[place]
                    return work
        return None

    def _give_back(self, shapes: Shapes, work: Work) -> None:
        if _size(work) > self._most:
            return
        with self._lock:
            self._kept.append((shapes, work))
            while self.kept_bytes > self._most:
                self._kept.popleft()


def _size(work: Work) -> int:
    return sum(array.nbytes for array in work)
