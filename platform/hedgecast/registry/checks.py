"""Checks that a model must pass before it is served, each with its figure and its bound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One measured figure against one bound."""

    name: str
    """What was measured, in words of the field."""
    figure: float
    """The measured value; NaN never passes."""
    bound: float
    """The value it is held against."""
    relation: Literal["at most", "at least"]
    """How the figure must stand to the bound."""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps its bound."""
        if math.isnan(self.figure):
            return False
        return self.figure <= self.bound if self.relation == "at most" else self.figure >= self.bound

    def __str__(self) -> str:
        verdict = "holds" if self.passed else "fails"
        return f"{self.name} {verdict}: {self.figure:.4g}, must be {self.relation} {self.bound:.4g}"


# Metrics of a bundle, measured on validation days; the gate holds each against its bound.
SCENARIO_PARITY = "scenario_graph_relative_error"
DENOISER_PARITY = "denoiser_graph_relative_error"
COST_DIFFERENCE_LOW = "cost_difference_low"
CRPS_RATIO = "crps_ratio"
COVERAGE = "coverage_90"
UNSOLVED_SHARE = "unsolved_share"


def gate_checks(metrics: Mapping[str, float]) -> list[Check]:
    """The checks that ``champion`` must pass, from a bundle's metrics; a missing metric never passes.

    The cost of the model's decisions may not be shown worse than that of ridge with seasonal residual
    scenarios: the lower end of the 95 % paired interval of the difference is at most zero. Its scenarios
    must stay about as sharp (CRPS within 10 % of the same baseline's) and honest (the central 90 %
    covers 80 to 97 % of the validation hours).
    """
    bounds: tuple[tuple[str, str, float, Literal["at most", "at least"]], ...] = (
        ("scenario graph against torch, relative error", SCENARIO_PARITY, 1e-4, "at most"),
        ("denoiser graph against torch, relative error", DENOISER_PARITY, 1e-4, "at most"),
        ("cost less the baseline's, lower 95 % bound", COST_DIFFERENCE_LOW, 0.0, "at most"),
        ("CRPS relative to the baseline's", CRPS_RATIO, 1.10, "at most"),
        ("coverage of the central 90 %", COVERAGE, 0.80, "at least"),
        ("coverage of the central 90 %", COVERAGE, 0.97, "at most"),
        ("share of validation days without a decision", UNSOLVED_SHARE, 0.0, "at most"),
    )
    return [
        Check(name=name, figure=metrics.get(key, math.nan), bound=bound, relation=relation)
        for name, key, bound, relation in bounds
    ]
