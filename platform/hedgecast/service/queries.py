"""Checked requests as plain records; the type of a query names the type of its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hedgecast.programs.risk import Risk
from hedgecast.registry.ladder import MeasuredStep, Rung
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.answers import (
    DecideAnswer,
    EvaluateAnswer,
    ExplainAnswer,
    ReduceAnswer,
    Scenarios,
    ScenariosAnswer,
)

if TYPE_CHECKING:
    # It loads torch, which no gateway needs.
    from hedgecast.scenarios.reduction import Method

A = TypeVar("A")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Query(Generic[A]):
    """What every question about one decision period has; its answer is an ``A``."""

    model: str
    """NAME, NAME@ALIAS or NAME@VERSION."""
    history: NamedRows
    """Rows before the decision period."""
    known: NamedRows
    """Rows of the decision period that are known ahead."""
    given: Mapping[str, NDArray[np.float64]]
    """Values of given parameters by name."""
    own: Scenarios | None
    """The caller's scenarios, in place of the model's; then there are no rows."""
    scenario_count: int
    """Scenarios of the sample, or of the caller's own."""
    seed: int
    """Seed of the draw."""
    risk: Risk
    """What to minimize."""
    request_id: str
    """Identifies the request in answers and logs."""
    deadline_seconds: float
    """Time left to the caller when the query was made."""
    validate_only: bool = False
    """Check against the model, draw and solve nothing."""
    draw_start: int = 0
    """First scenario of the seed."""

    @property
    def draw_count(self) -> int:
        """Scenarios to draw in all; none where the caller brings them."""
        return 0 if self.own is not None else self.scenario_count


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecideQuery(Query[DecideAnswer]):
    """A decision is asked for."""

    quantile_levels: tuple[float, ...]
    """Levels of the returned quantiles."""
    tail_level: float
    """Level of the returned conditional values at risk."""
    return_scenarios: bool
    """Whether the answer carries the scenarios."""
    gap_replications: int
    """Fresh samples for the optimality gap's interval; 0: no interval."""
    gap_confidence: float
    """Of that interval."""
    prices: bool = True
    """Whether shadow prices and sensitivities are asked for."""
    keep: bool = False
    """Whether the answer carries the bands that its outcome will be held against."""
    rungs: frozenset[Rung] = frozenset()
    """Cheaper ways that it is answered in, because of load."""
    degradation: MeasuredStep | None = None
    """What the step they belong to costs; None: there are none."""

    @property
    def kind(self) -> Hashable:
        """Equal for queries that one program solves together: measure, number of scenarios, what is told."""
        replications = 0 if self.own is not None else self.gap_replications
        return self.scenario_count, self.risk, self.prices, replications, frozenset(self.given), self.rungs

    @property
    def draw_count(self) -> int:
        """The sample, then one more of its size for each replication of the gap."""
        return 0 if self.own is not None else self.scenario_count * (1 + self.gap_replications)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A plan of the caller's."""

    label: str
    values: Mapping[str, NDArray[np.float64]]
    """Decision variable to values, in the program's shapes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateQuery(Query[EvaluateAnswer]):
    """The caller's plans are to be compared with each other and with the best one."""

    candidates: tuple[Candidate, ...]
    confidence: float
    """Of the intervals of differences."""

    @property
    def draw_count(self) -> int:
        """One sample to find the best plan, another one of its size to compare all plans on."""
        return 0 if self.own is not None else 2 * self.scenario_count


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExplainQuery(Query[ExplainAnswer]):
    """What drives the decision is asked for."""

    top_scenarios: int
    """Most influential scenarios to return."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScenariosQuery(Query[ScenariosAnswer]):
    """Scenarios are asked for, and nothing is to be decided."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReduceQuery(Query[ReduceAnswer]):
    """Few scenarios that stand for the sample are asked for; ``risk`` is what their error is told in."""

    reduce_to: int
    """At most so many; 0: a tree."""
    method: Method
    stages: tuple[int, ...] = ()
    """First steps of a tree's stages."""
    branching: tuple[int, ...] = ()
    """Most children of a node of the stage before each stage."""
