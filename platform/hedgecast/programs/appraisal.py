"""The best decision of one context with what it costs and what information is worth, as plain numbers.

The words (RP, WS, EEV, EVPI, VSS) are those of `hedgecast.programs.information`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hedgecast.programs.information import Information
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
    decision = program.solve(scenarios, probabilities, given, risk=risk, backend=backend)
    level = risk.alpha if risk.beta > 0 and 0 < risk.alpha < 1 else DEFAULT_CVAR_LEVEL
    if decision.verdict(0) is not Verdict.OPTIMAL:
        return _unsolved(decision, risk, level)
    optimum = decision if risk.neutral else None
    known = Information(program, scenarios, probabilities, given, backend=backend, optimum=optimum)
    weights = known.inputs.probabilities
    cost = expectation(decision.scenario_costs, weights)
    return Appraisal(
        decision=decision,
        risk=risk,
        objective=_number(decision.objective),
        expected_cost=_number(cost),
        wait_and_see=_number(known.wait_and_see_cost),
        expected_value_of_perfect_information=_number(known.value_of_perfect_information),
        expected_value_problem_cost=_number(known.expected_value_problem_cost),
        value_of_stochastic_solution=_number(known.value_of_stochastic_solution),
        cvar=_number(conditional_value_at_risk(decision.scenario_costs, weights, level)),
        cvar_level=level,
        expected_regret=_number(cost - known.wait_and_see_cost),
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
