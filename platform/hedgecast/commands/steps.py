"""Named steps on the terminal: what runs, and how long it took."""

from __future__ import annotations

import contextlib
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
