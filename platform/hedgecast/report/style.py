"""How all pictures look."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

# Colors that stay apart for color-blind readers (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6b7280"


def picture(height: float = 4.2, columns: int = 1, *, share_heights: bool = True) -> tuple[Figure, list[Any]]:
    """An empty picture and its axes, one a column, with one scale of heights or each its own."""
    figure = Figure(figsize=(9 if columns == 1 else 5.2 * columns, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False, sharey=share_heights)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="both", color="#e5e7eb", lw=0.8)
        axis.set_axisbelow(True)
    return figure, axes
