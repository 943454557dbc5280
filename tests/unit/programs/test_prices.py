"""Shadow prices and slopes against Clarabel's multipliers of the extensive form and finite differences."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.programs.prices import PricedProgram, Stage
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk

ITEMS, SCENARIOS = 3, 12


def stock(budget: float = 10.0) -> TwoStageProgram:
    """Stock to buy under a budget, and a recourse that buys more under a limit of its own."""
    plan = cp.Variable(ITEMS, name="plan")
    demand = cp.Parameter(ITEMS, name="demand")
    money = cp.Parameter(name="money", value=budget)
    cost = cp.Parameter(ITEMS, nonneg=True, name="unit_cost", value=np.array([1.0, 1.5, 2.0]))
    extra, lost = cp.Variable(ITEMS, name="extra"), cp.Variable(ITEMS, name="lost")
    return TwoStageProgram(
        name="stock",
        decision=plan,
        uncertain=demand,
        given=[money, cost],
        constraints=[plan >= 0, cp.sum(plan) <= money],
        cost=cost @ plan,
        recourse_cost=3 * cp.sum(extra) + 9 * cp.sum(lost) + 0.2 * cp.sum_squares(plan - demand),
        recourse_constraints=[extra >= 0, lost >= 0, cp.sum(extra) <= 2.0, plan + extra + lost >= demand],
    )


@pytest.fixture(scope="module")
def demand() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return 2.0 + 4.0 * torch.rand(1, SCENARIOS, ITEMS, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def priced() -> PricedProgram:
    return PricedProgram(stock())


def test_prices_are_the_multipliers_of_the_extensive_form(priced: PricedProgram, demand) -> None:
    decision = priced.solve(demand, tolerance=1e-9).require_optimal()
    found = priced.prices(decision)
    assert found is not None
    values = demand[0].numpy()
    plan, extra, lost = cp.Variable(ITEMS), *(cp.Variable((SCENARIOS, ITEMS)) for _ in range(2))
    budget, limit = cp.sum(plan) <= 10.0, cp.sum(extra, axis=1) <= 2.0
    cost = np.array([1.0, 1.5, 2.0]) @ plan
    cost += (3 * cp.sum(extra) + 9 * cp.sum(lost)) / SCENARIOS
    cost += 0.2 / SCENARIOS * sum(cp.sum_squares(plan - row) for row in values)
    rows = [plan[None, :] + extra + lost >= values, extra >= 0, lost >= 0, plan >= 0]
    problem = cp.Problem(cp.Minimize(cost), [budget, limit, *rows])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert float(decision.objective[0]) == pytest.approx(problem.value, rel=1e-7)
    by_text = {price.constraint: price for price in found.constraints}
    money = next(price for text, price in by_text.items() if "money" in text)
    assert money.stage is Stage.DECISION
    assert float(money.values) == pytest.approx(float(budget.dual_value), rel=1e-5)
    extras = next(price for text, price in by_text.items() if text.endswith("<= 2.0"))
    assert extras.stage is Stage.RECOURSE
    assert float(extras.values) == pytest.approx(limit.dual_value.sum(), rel=1e-5)
    # More money is worth what the budget's row is worth; a dearer item costs what is bought of it.
    assert float(found.given["money"]) == pytest.approx(-float(money.values), rel=1e-9)
    assert torch.allclose(found.given["unit_cost"], decision.values["plan"][0], atol=1e-6)


@pytest.mark.parametrize(
    "risk",
    [Risk(), Risk(beta=0.5, alpha=0.7), Risk(beta=1.0, alpha=0.7), Risk(beta=0.6, alpha=0.7, on_regret=True)],
    ids=str,
)
def test_slopes_are_those_of_the_objective(priced: PricedProgram, demand, risk: Risk) -> None:
    def objective(money: float) -> float:
        given = {"money": torch.tensor(money, dtype=torch.float64)}
        solved = priced.plain.solve(demand, given=given, risk=risk, backend="reference", tolerance=1e-10)
        return float(solved.require_optimal().objective[0])

    found = priced.prices(priced.solve(demand, risk=risk, tolerance=1e-9))
    assert found is not None
    step = 1e-3
    difference = (objective(10.0 + step) - objective(10.0 - step)) / (2 * step)
    assert abs(difference) > 0.1
    assert float(found.given["money"]) == pytest.approx(difference, abs=2e-3)


def test_what_does_not_bind_has_no_price(priced: PricedProgram, demand) -> None:
    given = {"money": torch.tensor(100.0, dtype=torch.float64)}
    decision = priced.solve(demand, given=given, tolerance=1e-9)
    found = priced.prices(decision)
    assert found is not None
    assert not [price for price in found.constraints if "money" in price.constraint]
    assert abs(float(found.given["money"])) < 1e-6


def test_the_decision_is_the_plain_programs(priced: PricedProgram, demand) -> None:
    decision = priced.solve(demand, tolerance=1e-9)
    assert torch.allclose(decision.flat, priced.plain.solve(demand, tolerance=1e-9).flat, atol=1e-6)


def test_a_member_without_an_optimum_has_no_slopes(priced: PricedProgram, demand) -> None:
    both = torch.cat([demand, demand])
    given = {"money": torch.tensor([10.0, -1.0], dtype=torch.float64)}
    decision = priced.solve(both, given=given, tolerance=1e-9)
    assert decision.slope_given is not None
    assert bool(torch.isfinite(decision.slope_given[0]).all())
    assert bool(torch.isnan(decision.slope_given[1]).all())


def test_a_backend_without_multipliers_states_none(demand) -> None:
    plan = cp.Variable(ITEMS, name="plan")
    parameter = cp.Parameter(ITEMS, name="demand")
    cone = TwoStageProgram(
        name="cone", decision=plan, uncertain=parameter, constraints=[cp.norm(plan) <= 8.0],
        recourse_cost=cp.sum_squares(plan - parameter),
    )  # fmt: skip
    program = PricedProgram(cone)
    assert program.prices(program.solve(demand)) is None
