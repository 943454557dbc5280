"""Named steps on the terminal: what runs, how long it took, how much memory the process peaked at."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


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
    def step(self, name: str, *, waiting: str = "") -> Iterator[None]:
        """Announce ``name``, time the block, and say how long it took.

        Parameters
        ----------
        name : str
            Of the step.
        waiting : str
            What is waited for, where the block draws no bar of its own: a moving bar stands beside it.
        """
        self.console.print(f"[bold]{name}[/]")
        started = time.perf_counter()
        with _moving_bar(self.console, waiting) if waiting else contextlib.nullcontext():
            yield
        self.seconds[name] = time.perf_counter() - started
        self.console.print(f"  done in {self.seconds[name]:.1f} s", style="dim")


def _moving_bar(console: Console, text: str) -> Progress:
    bar = Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    bar.add_task(text, total=None)
    return bar


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
