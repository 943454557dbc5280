"""Threads for loops that hold no lock of the interpreter: as many as torch uses."""

from __future__ import annotations

import concurrent.futures
import functools
import math
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hedgecast-solve")


# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def _parts(count: int, workers: int) -> list[IntArray]:
    """All indices in parts that shrink: the last ones even out members that take more iterations."""
    parts, start = [], 0
    while start < count:
        size = max(math.ceil((count - start) / (2 * workers)), min(4, math.ceil(count / workers)))
        parts.append(np.arange(start, min(start + size, count)))
        start += size
    return parts


def in_threads(task: Callable[[IntArray], None], count: int, *, even: bool = False) -> None:
    """Run ``task`` on all indices below ``count``, split over as many threads as torch uses.

    With ``even``, where every index costs the same, each thread gets one part.
    """
    workers = min(torch.get_num_threads(), count)
    if workers <= 1:
        task(np.arange(count))
        return
    queue = iter(np.array_split(np.arange(count), workers) if even else _parts(count, workers))

    def work() -> None:
        # ``next`` of a list iterator is atomic.
        for part in queue:
            task(part)

    futures = [_pool().submit(work) for _ in range(workers - 1)]
    work()
    for future in futures:
        future.result()
