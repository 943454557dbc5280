"""Named steps on the terminal: what runs, how long it took, how much memory the process peaked at."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator

from rich.console import Console


class Steps:
    """Runs named steps and remembers their seconds.

    Parameters
    ----------
    console : Console
        Where steps are printed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce ``name``, time the block, and say how long it took."""
        self.console.print(f"[bold]{name}[/]")
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        self.console.print(f"  done in {self.seconds[name]:.1f} s", style="dim")


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
