"""What the service answers, as plain records of numpy arrays."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioArrays:
    """The scenarios behind a decision."""

    series: tuple[str, ...]
    """F names."""
    units: tuple[str, ...]
    """F units."""
    times: NDArray[np.datetime64]
    """(T,) start of each step, UTC; empty where the model names no times."""
    paths: NDArray[np.float64]
    """(S, T, F) in the units of the series."""
    probabilities: NDArray[np.float64]
    """(S,) summing to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SolverVerdict:
    """How the solve ended, with its relative residuals."""

    state: str
    """``OPTIMAL``: an answer has no other; failures are raised."""
    primal_residual: float
    dual_residual: float
    relative_gap: float
    iterations: int
    backend: str
    batch_size: int = 0
    """Requests solved together with this one, itself included; 0: not told."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GapBound:
    """How much more than the best decision one may cost, under the model's law."""

    estimate: float
    standard_error: float
    upper_bound: float
    """Not exceeded with probability ``confidence``."""
    confidence: float
    replications: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """How load made an answer cheaper, and what such answers cost on the model's validation days."""

    rungs: tuple[str, ...]
    """``FEWER_SCENARIOS``, ``BASELINE_SCENARIOS``, ``SURROGATE_SOLVER``, ``STUDENT_SAMPLER``."""
    regret_increase: float
    """Mean regret of such answers less that of full ones, in the currency of the program."""
    lower_bound: float
    """Of the interval of that mean."""
    upper_bound: float
    confidence: float
    reference_regret: float
    """Mean regret of full answers."""
    num_days: int
    reference_scenarios: int
    """Of each full answer."""
    measured_at: np.datetime64
    """UTC."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConstraintPrice:
    """What a constraint that binds is worth."""

    constraint: str
    """As the program writes it."""
    recourse: bool
    """It stands in the recourse, not on the decision alone."""
    values: NDArray[np.float64]
    """Reduction of the objective per unit more on the right-hand side, entry by entry."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecisionAnswer:
    """A decision and what it is expected to cost, in the currency of the program."""

    decision: Mapping[str, NDArray[np.float64]]
    """Variable name to values; empty when the request was only validated."""
    units: Mapping[str, str]
    """Variable name to unit."""
    times: NDArray[np.datetime64]
    """(T,) start of each step, UTC, along the first axis of the variables that have one entry a step."""
    objective: float
    """The asked risk measure at the decision."""
    expected_cost: float
    expected_regret: float
    expected_regret_standard_error: float
    """Of the Monte Carlo estimate of `expected_regret`."""
    cost_quantiles: Mapping[float, float]
    """Level to value."""
    regret_quantiles: Mapping[float, float]
    """Level to value."""
    cost_cvar: float
    """Mean cost of the worst ``1 - tail_level`` of the scenarios."""
    regret_cvar: float
    """Mean regret of the worst ``1 - tail_level`` of the scenarios."""
    tail_level: float
    expected_value_of_perfect_information: float
    value_of_stochastic_solution: float
    gap: GapBound | None
    """Of the decision, under the model's law; None: not asked for."""
    prices: tuple[ConstraintPrice, ...]
    """Constraints that bind."""
    sensitivities: Mapping[str, NDArray[np.float64]]
    """Given parameter to change of the objective per unit of it."""
    verdict: SolverVerdict
    model: str
    """NAME@VERSION."""
    model_fingerprint: str
    program: str
    """NAME@VERSION."""
    program_fingerprint: str
    scenario_fingerprint: str
    scenario_count: int
    seed: int
    scenarios: ScenarioArrays | None
    """Only where asked for."""
    durations: Mapping[str, float]
    """Stage to seconds on the server: ``scenario``, ``solve``, ``statistics``, ``total``."""
    warnings: tuple[str, ...]
    request_id: str
    decision_id: str
    """Under which the outcome can be recorded; empty: the server keeps none."""
    scenario_source: str
    """``MODEL``, ``BASELINE``, ``CALLER`` or ``STUDENT``; empty when the request was only validated."""
    student: str
    """NAME@VERSION of the student that drew the scenarios; empty: none did."""
    student_fingerprint: str
    degradation: Degradation | None
    """None: a full answer."""

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the variables with one entry a step, indexed by time; needs pandas."""
        # By name: the client must not load pandas, nor need it.
        pandas = importlib.import_module("pandas")
        stepwise = {
            name: values
            for name, values in self.decision.items()
            if values.ndim == 1 and len(values) == len(self.times)
        }
        return pandas.DataFrame(stepwise, index=pandas.DatetimeIndex(self.times, tz="UTC", name="time"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CertifiedDecision:
    """The best decision so far, and how good it is for sure."""

    best: DecisionAnswer
    model_gap_upper_bound: float
    """It costs at most this much more than the best one, with probability ``confidence``, under the model's
    law."""
    confidence: float
    stages: int
    draws: int
    stop_reason: str
    """``CERTIFIED``, ``DEADLINE_NEAR`` or ``DRAWS_USED_UP``; empty: it goes on."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecordedOutcome:
    """What a decision was worth."""

    decision_id: str
    realized_cost: float
    realized_regret: float
    expected_cost: float
    expected_regret: float
    model: str
    """NAME@VERSION."""
    covered: Mapping[str, Mapping[float, float]]
    """Series to level to share of steps at or below the scenarios' quantile."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A mean of differences paired by scenario, with its interval."""

    mean: float
    standard_error: float
    lower_bound: float
    upper_bound: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.lower_bound > 0 or self.upper_bound < 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A constraint that a plan breaks."""

    constraint: str
    amount: float
    """In the constraint's units; infinite: it leaves scenarios without recourse."""
    scenarios: int
    """Scenarios without recourse; 0: it binds the plan alone."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlanEvaluation:
    """One plan over the common scenarios."""

    label: str
    """Empty: the best plan of the program."""
    feasible: bool
    violations: tuple[Violation, ...]
    objective: float
    expected_cost: float
    expected_regret: float
    expected_regret_standard_error: float
    above_best: Difference | None
    """Cost less that of the best plan; None: one is infinite."""
    above_leader: Difference | None
    """Cost less that of the candidate ranked first; None: one is infinite."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationAnswer:
    """Plans ranked, and the best one."""

    plans: tuple[PlanEvaluation, ...]
    """Feasible ones first, by the asked measure."""
    best: PlanEvaluation
    best_decision: Mapping[str, NDArray[np.float64]]
    confidence: float
    model: str
    """NAME@VERSION."""
    program: str
    """NAME@VERSION."""
    scenario_fingerprint: str
    scenario_count: int
    seed: int
    durations: Mapping[str, float]
    scenario_source: str
    """``MODEL``, ``BASELINE`` or ``CALLER``."""
    warnings: tuple[str, ...]
    request_id: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioInfluence:
    """What one scenario does to the decision."""

    scenario: int
    probability: float
    magnitude: float
    """Length of ``shift``."""
    shift: Mapping[str, NDArray[np.float64]]
    """How the decision would move, to first order, if the scenario were twice as likely."""
    cost: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExplanationAnswer:
    """What drives a decision, and the plan without hedge."""

    decision: Mapping[str, NDArray[np.float64]]
    objective: float
    expected_cost: float
    influences: tuple[ScenarioInfluence, ...]
    unhedged_decision: Mapping[str, NDArray[np.float64]]
    """The decision if the mean scenario were certain."""
    unhedged_planned_cost: float
    unhedged_expected_cost: float
    """Infinite: it leaves a scenario without recourse."""
    model: str
    program: str
    scenario_fingerprint: str
    scenario_count: int
    seed: int
    durations: Mapping[str, float]
    scenario_source: str
    """``MODEL``, ``BASELINE`` or ``CALLER``."""
    warnings: tuple[str, ...]
    request_id: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A served model and what it wants to be asked."""

    name: str
    """NAME@VERSION."""
    aliases: tuple[str, ...]
    fingerprint: str
    program: str
    """NAME@VERSION."""
    decision: Mapping[str, tuple[int, ...]]
    """Decision variable to shape, for an ordinary period."""
    given: Mapping[str, tuple[int, ...]]
    """Parameter that a request may give to shape, for an ordinary period."""
    history_columns: Mapping[str, str]
    """Column that ``history`` must have to its unit."""
    known_columns: Mapping[str, str]
    """Column that ``known`` must have to its unit."""
    series: Mapping[str, str]
    """Uncertain series that scenarios are made of to its unit, in their order."""
    history_steps: int
    """Rows that ``history`` must have at least."""
    horizon_steps: int
    """Steps of an ordinary decision period."""
    step_seconds: float
    time_zone: str
