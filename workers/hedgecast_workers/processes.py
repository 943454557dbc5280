"""Ending the processes that one started, all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def family(pid: int) -> set[psutil.Process]:
    """The process and all that descend from it now; empty once it is gone.

    Take it before the process ends: orphans are no longer its descendants.
    """
    try:
        parent = psutil.Process(pid)
        return {parent, *parent.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def end(processes: Iterable[psutil.Process], *, patience_seconds: float) -> None:
    """Wait until the processes are gone; those that are not by then are killed."""
    _, alive = psutil.wait_procs(list(processes), timeout=patience_seconds)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=patience_seconds)
