"""What every method is: something that draws scenarios for decision days."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from hedgecast.learning.part import Part
from hedgecast.scenarios.scenario_set import ScenarioSet


class ScenarioMethod(Protocol):
    """Anything that draws scenarios for decision days."""

    @property
    def name(self) -> str:
        """In tables and studies."""
        ...

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """Scenarios by slot, one context a day, in units of the data; nothing of the day's own targets."""
        ...


def scenario_set(values: Tensor, part: Part, source: str, seed: int | None) -> ScenarioSet:
    """The scenarios ``values`` (B, S, T*F) of the days of ``part``."""
    return ScenarioSet(
        paths=values.reshape(*values.shape[:2], *part.targets.shape[1:]),
        names=part.names,
        units=part.units,
        times=part.times,
        source=source,
        seed=seed,
    )
