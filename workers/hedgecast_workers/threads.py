"""Threads and processors: replicas that share a machine must not fight for its cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hedgecast.core.errors import ConfigError

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def check_threads(draws: int, threads: int, *, cores: int | None = None) -> None:
    """Check that so many draws at once, each on so many threads, find a core for every thread.

    Draws of one thread are let be, however many: they take turns, and no thread of one waits for another's.

    Parameters
    ----------
    draws : int
        Draws at once: sessions of a replica, or of all replicas of a machine.
    threads : int
        Threads of each.
    cores : int, optional
        Cores there are; None: `available_cores`.

    Raises
    ------
    ConfigError
        There are more threads than cores.
    """
    found = available_cores() if cores is None else cores
    if threads > 1 and draws * threads > found:
        raise ConfigError(
            f"{draws} draws at once on {threads} threads each need {draws * threads} cores, "
            f"{found} are there: "
            f"fewer threads (at most {max(found // draws, 1)}), sessions or replicas",
            cores=found,
        )


def available_cores(quota_file: Path = _CGROUP_QUOTA) -> int:
    """Cores that this process may use: of its affinity, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(min(cores, math.floor(int(quota) / int(period))), 1)
