from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.programs.appraisal import appraise
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.smps import read_smps
from hedgecast.programs.solution import Verdict

DEMAND = np.arange(1.0, 11.0).reshape(1, 10, 1)


def _newsvendor(**recourse: object) -> TwoStageProgram:
    order, demand = cp.Variable(1, name="order"), cp.Parameter(1, name="demand")
    return TwoStageProgram(
        name="newsvendor",
        decision=order,
        uncertain=demand,
        constraints=[order >= 0, order <= 100],
        cost=cp.sum(order),
        recourse_cost=4 * cp.sum(cp.pos(demand - order)),
        **recourse,
    )


def test_the_farmer_is_worth_what_the_book_says() -> None:
    # Birge and Louveaux, section 1.1: RP = -108390, WS = -115406, EVPI = 7016, EEV = -107240, VSS = 1150.
    instance = read_smps(Path(__file__).parent / "smps" / "farmer")
    worth = appraise(instance.program, instance.scenarios, instance.probabilities)
    assert worth.expected_cost == pytest.approx(-108390, rel=1e-5)
    assert worth.wait_and_see == pytest.approx(-115405.56, rel=1e-5)
    assert worth.expected_value_of_perfect_information == pytest.approx(7015.56, rel=1e-3)
    assert worth.expected_value_problem_cost == pytest.approx(-107240, rel=1e-5)
    assert worth.value_of_stochastic_solution == pytest.approx(1150, rel=1e-2)


def test_the_newsvendor_is_worth_its_closed_form() -> None:
    # Order 8 (quantile 3/4): 8 + 4 (1 + 2)/10; perfect information 5.5; order 5.5: 5.5 + 4 * 1.25.
    worth = appraise(_newsvendor(), torch.from_numpy(DEMAND))
    assert worth.expected_cost == pytest.approx(9.2, rel=1e-5)
    assert worth.wait_and_see == pytest.approx(5.5, rel=1e-6)
    assert worth.expected_value_problem_cost == pytest.approx(5.5 + 4 * 1.25, rel=1e-5)
    assert worth.expected_regret == pytest.approx(3.7, rel=1e-4)
    assert worth.cvar_level == 0.95
    assert worth.cvar == pytest.approx(16.0, rel=1e-4)


def test_values_of_information_do_not_depend_on_the_risk_measure() -> None:
    neutral = appraise(_newsvendor(), torch.from_numpy(DEMAND))
    averse = appraise(_newsvendor(), torch.from_numpy(DEMAND), risk=Risk.parse("cvar:0.9"))
    assert averse.cvar_level == 0.9
    assert averse.cvar == pytest.approx(averse.objective, rel=1e-6)
    assert averse.cvar < neutral.cvar
    assert averse.expected_cost > neutral.expected_cost
    for name in ("wait_and_see", "expected_value_of_perfect_information", "value_of_stochastic_solution"):
        assert getattr(averse, name) == pytest.approx(getattr(neutral, name), rel=1e-5)


def test_one_scenario_leaves_nothing_to_know() -> None:
    worth = appraise(_newsvendor(), torch.from_numpy(DEMAND[:, 3:4]))
    assert worth.expected_value_of_perfect_information == pytest.approx(0.0, abs=1e-6)
    assert worth.value_of_stochastic_solution == pytest.approx(0.0, abs=1e-6)


def test_a_mean_scenario_without_recourse_has_no_value() -> None:
    extra = cp.Variable(1, name="extra", nonneg=True)
    order, demand = cp.Variable(1, name="order"), cp.Parameter(1, name="demand")
    program = TwoStageProgram(
        name="limited",
        decision=order,
        uncertain=demand,
        constraints=[order >= 0],
        cost=cp.sum(order),
        recourse_cost=0.5 * cp.sum(extra),
        recourse_constraints=[order + extra >= demand, extra <= 1],
    )
    worth = appraise(program, torch.from_numpy(DEMAND))
    assert worth.decision.values["order"].item() == pytest.approx(9.0, abs=1e-4)
    assert worth.expected_value_problem_cost is None
    assert worth.value_of_stochastic_solution is None
    assert worth.expected_value_of_perfect_information is not None


def test_an_infeasible_program_keeps_its_verdict() -> None:
    extra = cp.Variable(1, name="extra", nonneg=True)
    program = _newsvendor(recourse_constraints=[extra <= -1])
    worth = appraise(program, torch.from_numpy(DEMAND))
    assert worth.decision.verdict(0) is Verdict.INFEASIBLE
    assert worth.expected_cost is None
