"""The service's processes from outside: who they are, what they hold, and how one of them is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

ROLES = ("Gateway", "Solver", "Denoiser", "Controller")
_TITLE = re.compile(r"ray::(?:ServeReplica:[^:]+:(?P<replica>\w+)|(?P<other>ServeController))")
_SECONDS_BETWEEN = 2.0
# Imports, kernels and buffers of first calls are no leak.
_WARM_UP_SECONDS = 60.0
_FEWEST_SECONDS = 60.0
# Of a process's level between its first and last fifth: what is over both is growth.
_GROWTH_SHARE, _GROWTH_MIB = 0.1, 32.0
_MIB = 2**20


def by_role(pid: int) -> dict[str, list[psutil.Process]]:
    """The service's processes below ``pid`` by what they do, the eldest first."""
    found: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                role = _role(" ".join(process.cmdline()))
                if role in found:
                    found[role].append(process)
    return {role: sorted(members, key=psutil.Process.create_time) for role, members in found.items()}


def _role(title: str) -> str:
    match = _TITLE.match(title)
    if match is None:
        return ""
    return "Controller" if match["other"] else str(match["replica"])


@dataclasses.dataclass
class Memory:
    """Resident memory of each process over time."""

    samples: dict[tuple[str, int], list[tuple[float, float]]] = dataclasses.field(default_factory=dict)
    """(role, pid) to (seconds since the process was first seen, MiB)."""
    _first: dict[tuple[str, int], float] = dataclasses.field(default_factory=dict)

    def look(self, pid: int) -> None:
        """Take one sample of each process, and of this one, the driver."""
        now = time.monotonic()
        members = [(role, member) for role, found in by_role(pid).items() for member in found]
        for role, process in [*members, ("Driver", psutil.Process())]:
            with contextlib.suppress(psutil.NoSuchProcess):
                key = (role, process.pid)
                since = now - self._first.setdefault(key, now)
                self.samples.setdefault(key, []).append((since, process.memory_info().rss / _MIB))

    def report(self) -> list[dict[str, Any]]:
        """One row for each process that lived long enough after it was warm, by role and age."""
        rows = [(role, pid, np.array(found)) for (role, pid), found in self.samples.items()]
        warm = [(role, pid, found[found[:, 0] >= _WARM_UP_SECONDS]) for role, pid, found in rows]
        return [
            {"role": role, "pid": pid, **growth(found)}
            for role, pid, found in sorted(warm, key=lambda row: row[:2])
            if len(found) > 5 and np.ptp(found[:, 0]) >= _FEWEST_SECONDS
        ]


def growth(samples: np.ndarray) -> dict[str, Any]:
    """Slope and growth of samples (n, 2) of seconds and MiB.

    The slope is that of least squares in MiB a minute, with its standard error were samples independent;
    growth is the median of the last fifth less that of the first, and flat what is at most a tenth of the
    level or 32 MiB.
    """
    minutes, level = samples[:, 0] / 60.0, samples[:, 1]
    centred = minutes - minutes.mean()
    spread = float((centred**2).sum())
    slope = float((centred * level).sum()) / spread
    left = level - level.mean() - slope * centred
    error = float(np.sqrt((left**2).sum() / max(len(level) - 2, 1) / spread))
    fifth = max(len(level) // 5, 1)
    first, last = float(np.median(level[:fifth])), float(np.median(level[-fifth:]))
    return {
        "minutes": round(float(np.ptp(minutes)), 2),
        "first_mib": round(first, 1),
        "last_mib": round(last, 1),
        "slope_mib_a_minute": round(slope, 3),
        "slope_error": round(error, 3),
        "flat": last - first <= max(_GROWTH_SHARE * first, _GROWTH_MIB),
    }


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Memory]:
    """Memory of the processes below ``pid``, sampled while the block runs."""
    memory = Memory()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_SECONDS_BETWEEN):
            memory.look(pid)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()
