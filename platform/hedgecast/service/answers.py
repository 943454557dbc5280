"""What a backend answers, as plain records."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hedgecast.outcomes.records import Band
from hedgecast.registry.ladder import Rung
from hedgecast.service.models import ModelDescription


class ScenarioSource(enum.Enum):
    """Who made the scenarios that an answer rests on."""

    MODEL = "model"
    BASELINE = "baseline"
    CALLER = "caller"
    STUDENT = "student"


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
    field: str = "own_scenarios"
    """Of a request that brought them, as errors name it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """How much more than the best decision this one may cost, under the scenarios' own law."""

    estimate: float
    standard_error: float
    upper_bound: float
    confidence: float
    replications: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConstraintPrice:
    """What a constraint that binds is worth."""

    constraint: str
    """As the program writes it."""
    recourse: bool
    """It stands in the recourse, not on the decision alone."""
    values: NDArray[np.float64]
    """Cost saved by one unit more on the right-hand side, entry by entry."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """How the objective moves with a given parameter."""

    name: str
    unit: str
    values: NDArray[np.float64]
    """Change of the objective per unit, in the parameter's shape."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bands:
    """Quantiles of the scenarios that an outcome is held against."""

    cost: Band
    """Of the decision's cost."""
    series: Mapping[str, Band]
    """Of each series, (T,)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """Everything that a solved query adds to its answer."""

    decision: tuple[DecisionArray, ...]
    statistics: Statistics
    report: SolveReport
    source: ScenarioSource
    scenario_fingerprint: str
    scenarios: Scenarios | None
    """Only where asked for."""
    gap: Gap | None
    """None: not asked for, or it cannot be stated; a warning then says why."""
    prices: tuple[ConstraintPrice, ...]
    sensitivities: tuple[Sensitivity, ...]
    scenario_seconds: float
    solve_seconds: float
    statistics_seconds: float
    warnings: tuple[tuple[str, str], ...] = ()
    """(reason, message)."""
    bands: Bands | None = None
    """Only where asked for."""
    rungs: frozenset[Rung] = frozenset()
    """Cheaper ways that were taken."""
    batch_size: int = 1
    """Queries that were solved together, this one included."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecideAnswer:
    """Which model answers, and its solution unless the query was only to be checked."""

    model: ModelDescription
    solution: Solution | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A mean of paired differences over common scenarios, with its interval."""

    mean: float
    standard_error: float
    lower_bound: float
    upper_bound: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A constraint that a plan breaks."""

    constraint: str
    """As the program writes it; of recourse, one that leaves a scenario without any."""
    amount: float
    """Largest violation, in the constraint's units; infinite: a scenario has no recourse."""
    scenarios: int
    """Scenarios in which it is broken; 0: it binds the plan alone."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One plan over the common scenarios."""

    label: str
    feasible: bool
    violations: tuple[Violation, ...]
    objective: float
    """The asked risk measure; infinite where a scenario has no recourse."""
    expected_cost: float
    expected_regret: float
    expected_regret_standard_error: float
    above_best: Difference | None
    """Cost less that of the optimized plan; None where either is infinite."""
    above_leader: Difference | None
    """Cost less that of the candidate ranked first; None where either is infinite."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateAnswer:
    """The caller's plans, best first, and the optimized one."""

    model: ModelDescription
    evaluations: tuple[Evaluation, ...]
    """Ranked: feasible ones first, by the asked measure."""
    best: Evaluation
    """The optimized plan on the same scenarios, which it was not optimized on."""
    best_decision: tuple[DecisionArray, ...]
    source: ScenarioSource
    warnings: tuple[tuple[str, str], ...]
    """(reason, message)."""
    scenario_fingerprint: str
    """Of the scenarios of the comparison."""
    confidence: float
    scenario_seconds: float
    solve_seconds: float
    statistics_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Influence:
    """What one scenario does to the decision."""

    scenario: int
    """Index in the sample."""
    probability: float
    shift: float
    """Length of the decision's derivative in the scenario's weight, times its probability: how far, to first
    order, the decision would move if the scenario were twice as likely."""
    direction: tuple[DecisionArray, ...]
    """That derivative, times the probability."""
    cost: float
    """Of the decision under this scenario."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExplainAnswer:
    """Which scenarios drive the decision, and the same plan without hedge."""

    model: ModelDescription
    decision: tuple[DecisionArray, ...]
    objective: float
    expected_cost: float
    influences: tuple[Influence, ...]
    """Largest shift first."""
    unhedged: tuple[DecisionArray, ...]
    """The decision for the mean scenario."""
    unhedged_planned_cost: float
    """What that plan would cost if the mean scenario came."""
    unhedged_expected_cost: float
    """What it costs over the scenarios; infinite where one has no recourse to it."""
    source: ScenarioSource
    warnings: tuple[tuple[str, str], ...]
    """(reason, message)."""
    scenario_fingerprint: str
    scenario_seconds: float
    solve_seconds: float
    statistics_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScenariosAnswer:
    """Some of a model's scenarios, to be sent on."""

    model: ModelDescription
    names: tuple[str, ...]
    units: tuple[str, ...]
    times: NDArray[np.datetime64] | None
    """(T,) start of each step, UTC."""
    paths: NDArray[np.float32]
    """(S, T, F)."""
    made_by: str
    """What made them, as a set of scenarios says it."""
    source: ScenarioSource
    warnings: tuple[tuple[str, str], ...]
    """(reason, message)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReduceAnswer:
    """Few scenarios, or a tree, in place of many, and what that costs."""

    model: ModelDescription
    table: pa.Table
    """One row a scenario, or a node of the tree."""
    kept: int
    """Scenarios, or leaves."""
    method: str
    """``forward-selection``, ``k-means`` or ``quantiles``."""
    distance: float
    relative_distance: float
    cost_error: float
    """What a decision on the kept ones costs more over all; infinite or NaN as in `ReductionError`."""
    relative_cost_error: float
    cost_optimism: float
    scenario_fingerprint: str
    """Of all scenarios."""
    source: ScenarioSource
    warnings: tuple[tuple[str, str], ...]
    """(reason, message)."""
