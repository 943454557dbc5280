"""What a decision, information and the stochastic model are worth: one context, each problem solved once.

With RP the smallest expected cost, WS the expected wait-and-see cost, and EEV the expected cost of the
decision that is best for the mean scenario:

    expected value of perfect information   EVPI = RP - WS  >= 0
    value of the stochastic solution        VSS = EEV - RP  >= 0

Source: Birge and Louveaux (2011), Introduction to Stochastic Programming, chapter 4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hedgecast.programs.information import expected_value_decision
from hedgecast.programs.measures import conditional_value_at_risk, expectation
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Decision, Verdict

DEFAULT_CVAR_LEVEL = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Appraisal:
    """A decision and its worth; a number that is infinite or was not found is None."""

    decision: Decision
    """Of one context."""
    risk: Risk
    objective: float | None
    """The risk measure of the decision."""
    expected_cost: float | None
    """Of the decision, under all scenarios."""
    wait_and_see: float | None
    """WS."""
    expected_value_of_perfect_information: float | None
    """RP - WS: of the decision of least expected cost, whatever the risk measure."""
    expected_value_problem_cost: float | None
    """EEV; None where the mean scenario's decision has no recourse in some scenario."""
    value_of_stochastic_solution: float | None
    """EEV - RP."""
    cvar: float | None
    """CVaR of the decision's cost at ``cvar_level``."""
    cvar_level: float
    expected_regret: float | None
    """Expected cost less WS, of the decision."""


def appraise(
    program: TwoStageProgram,
    scenarios: Tensor,
    probabilities: Tensor | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    risk: Risk = EXPECTATION,
    backend: str | None = None,
) -> Appraisal:
    """The best decision of one context and its worth.

    Parameters
    ----------
    program : TwoStageProgram
    scenarios, probabilities, given
        Of one context, see `TwoStageProgram.inputs`; scenarios of probability zero count nowhere.
    risk : Risk
        What the decision minimizes. The values of information are about expected cost in any case.
    backend : str, optional
        Solver of every problem here.
    """
    inputs = program.inputs(scenarios, probabilities, given)
    weights = inputs.probabilities
    decision = program.solve(scenarios, weights, given, risk=risk, backend=backend)
    level = risk.alpha if risk.beta > 0 and 0 < risk.alpha < 1 else DEFAULT_CVAR_LEVEL
    if decision.verdict(0) is not Verdict.OPTIMAL:
        return _unsolved(decision, risk, level)
    neutral = decision
    if not risk.neutral:
        neutral = program.solve(scenarios, weights, given, backend=backend)
    least = _number(expectation(neutral.scenario_costs, weights))
    known = _number(expectation(program.wait_and_see(scenarios, given, backend=backend), weights))
    guess = expected_value_decision(program, scenarios, weights, given, backend=backend)
    naive = None
    if bool(torch.isfinite(guess).all()):
        with torch.no_grad():
            naive = _number(expectation(program.value(guess, scenarios, given, backend=backend), weights))
    cost = _number(expectation(decision.scenario_costs, weights))
    return Appraisal(
        decision=decision,
        risk=risk,
        objective=_number(decision.objective),
        expected_cost=cost,
        wait_and_see=known,
        expected_value_of_perfect_information=_difference(least, known),
        expected_value_problem_cost=naive,
        value_of_stochastic_solution=_difference(naive, least),
        cvar=_number(conditional_value_at_risk(decision.scenario_costs, weights, level)),
        cvar_level=level,
        expected_regret=_difference(cost, known),
    )


def _unsolved(decision: Decision, risk: Risk, level: float) -> Appraisal:
    return Appraisal(
        decision=decision,
        risk=risk,
        objective=None,
        expected_cost=None,
        wait_and_see=None,
        expected_value_of_perfect_information=None,
        expected_value_problem_cost=None,
        value_of_stochastic_solution=None,
        cvar=None,
        cvar_level=level,
        expected_regret=None,
    )


def _number(value: Tensor) -> float | None:
    number = float(value.reshape(-1)[0])
    return number if math.isfinite(number) else None


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
