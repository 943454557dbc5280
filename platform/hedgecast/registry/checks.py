"""Checks that a model must pass before it is served, each with its figure and its bound."""

from __future__ import annotations

import dataclasses
import math
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
