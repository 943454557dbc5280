"""What stands between the servicers and whatever decides: plain records and one protocol.

In process for tests and notebooks (`hedgecast.service.local`), Ray Serve handles in production
(`hedgecast_workers.serve`); the servicers see no difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import ModelNotFoundError
from hedgecast.programs.risk import Risk
from hedgecast.rpc.codec import NamedRows

CHAMPION = "champion"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecideQuery:
    """One checked request for a decision."""

    model: str
    """NAME, NAME@ALIAS or NAME@VERSION."""
    history: NamedRows
    """Rows before the decision period."""
    known: NamedRows
    """Rows of the decision period that are known ahead."""
    given: Mapping[str, NDArray[np.float64]]
    """Values of given parameters by name."""
    scenario_count: int
    """Scenarios to draw."""
    seed: int
    """Seed of the draw."""
    risk: Risk
    """What to minimize."""
    quantile_levels: tuple[float, ...]
    """Levels of the returned quantiles."""
    tail_level: float
    """Level of the returned conditional values at risk."""
    return_scenarios: bool
    """Whether the answer carries the scenarios."""
    validate_only: bool
    """Check against the model, draw and solve nothing."""
    request_id: str
    """Identifies the request in answers and logs."""
    deadline_seconds: float
    """Time left to the caller when the query was made."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecisionArray:
    """One decision variable's values."""

    name: str
    """In the program."""
    unit: str
    """Empty: the program names none."""
    values: NDArray[np.float64]
    """In the variable's shape."""
    times: NDArray[np.datetime64] | None
    """Start of the step of each entry of the first axis, where that axis is the steps."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What a decision is expected to cost, over one context's scenarios."""

    objective: float
    """The asked risk measure at the decision."""
    expected_cost: float
    expected_regret: float
    expected_regret_standard_error: float
    cost_quantiles: tuple[tuple[float, float], ...]
    """(level, value)."""
    regret_quantiles: tuple[tuple[float, float], ...]
    """(level, value)."""
    cost_cvar: float
    regret_cvar: float
    tail_level: float
    """Level of both conditional values at risk."""
    expected_value_of_perfect_information: float
    value_of_stochastic_solution: float | None
    """None: the decision for the mean scenario has no finite expected cost."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SolveReport:
    """How the solve ended; the verdict is optimal, or there is no answer."""

    primal_residual: float
    dual_residual: float
    relative_gap: float
    iterations: int
    backend: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scenarios:
    """One context's scenarios as arrays."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    times: NDArray[np.datetime64] | None
    """(T,)."""
    paths: NDArray[np.float64]
    """(S, T, F)."""
    probabilities: NDArray[np.float64] | None
    """(S,); None: equal."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """Everything that a solved query adds to its answer."""

    decision: tuple[DecisionArray, ...]
    statistics: Statistics
    report: SolveReport
    scenario_fingerprint: str
    scenarios: Scenarios | None
    """Only where asked for."""
    scenario_seconds: float
    solve_seconds: float
    statistics_seconds: float
    warnings: tuple[tuple[str, str], ...] = ()
    """(reason, message)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BundleReference:
    """Where a bundle stands and what it is called."""

    folder: Path
    """The bundle."""
    name: str = ""
    """Name under which it answers; empty: its own."""
    version: str = "local"
    """Version, as registered."""
    aliases: tuple[str, ...] = ()
    """Aliases under which it answers too."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """A named array of a program."""

    name: str
    shape: tuple[int, ...]
    unit: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSpec:
    """A named column and its unit."""

    name: str
    unit: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProgramDescription:
    """A program's name, version and interface for an ordinary decision period."""

    name: str
    version: str
    fingerprint: str
    decision: tuple[ArraySpec, ...]
    uncertain: tuple[ArraySpec, ...]
    given: tuple[ArraySpec, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """A served model: what it is called and what it wants to be asked."""

    name: str
    version: str
    fingerprint: str
    aliases: tuple[str, ...]
    program: ProgramDescription
    history_columns: tuple[ColumnSpec, ...]
    known_columns: tuple[ColumnSpec, ...]
    history_steps: int
    """Rows of history needed."""
    horizon_steps: int
    """Steps of an ordinary decision period."""
    step_seconds: float
    time_zone: str
    series: tuple[ColumnSpec, ...]

    @property
    def full_name(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecideAnswer:
    """Which model answers, and its solution unless the query was only to be checked."""

    model: ModelDescription
    solution: Solution | None


class DecisionBackend(Protocol):
    """Whatever decides."""

    async def decide(self, query: DecideQuery) -> DecideAnswer:
        """The answer to ``query``; cancelling the call stops the work between stages."""
        ...

    async def models(self) -> tuple[ModelDescription, ...]:
        """All served models."""
        ...


def resolve(models: Sequence[ModelDescription], reference: str) -> ModelDescription:
    """The model that NAME, NAME@ALIAS or NAME@VERSION means.

    A bare NAME is the alias champion, or the only version that is served.

    Raises
    ------
    ModelNotFoundError
        None is meant; the message lists the served ones.
    """
    name, at, label = reference.partition("@")
    candidates = [model for model in models if model.name == name]
    if not at and len(candidates) == 1:
        return candidates[0]
    label = label if at else CHAMPION
    for model in candidates:
        if label == model.version or label in model.aliases:
            return model
    served = ", ".join(sorted(model.full_name for model in models)) or "none"
    raise ModelNotFoundError(
        f"model {reference[:128]!r} is not served; served: {served}", model=reference[:128], field="model"
    )
