"""What must not change the decision of any shipped program."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgecast.programs.catalog import battery_storage, freight_routing, portfolio, product_allocation
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk

COUNT = 8


def _draw(*shape: int) -> Tensor:
    return torch.rand(1, COUNT, *shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def _battery(money: float) -> tuple[TwoStageProgram, Tensor]:
    costs = {"level_cost": 0.2 * money, "power_cost": 0.1 * money, "degradation_cost": 0.5 * money}
    return battery_storage.build(4, **costs), money * (20 + 40 * _draw(4))


def _mean_cvar(money: float) -> tuple[TwoStageProgram, Tensor]:
    # Returns are shares of wealth: money does not scale, so only the cost of trading and returns do.
    program = portfolio.build(num_assets=3, objective="mean-cvar", transaction_cost=0.01 * money)
    return program, money * (0.1 * _draw(1, 3) - 0.03)


def _products(money: float) -> tuple[TwoStageProgram, Tensor]:
    costs = {
        "unit_cost": money,
        "price": 3 * money,
        "salvage_value": 0.2 * money,
        "substitution_cost": 0.5 * money,
    }
    return product_allocation.build(1, num_products=3, capacity=40.0, **costs), 25 * _draw(1, 3)


def _freight(money: float) -> tuple[TwoStageProgram, Tensor]:
    names = ("route", "truck", "idle", "spot", "storage", "lateness", "final")
    costs = {
        f"{n}_cost": money * c for n, c in zip(names, (4.0, 20.0, 2.0, 60.0, 3.0, 10.0, 80.0), strict=True)
    }
    return freight_routing.build(3, num_lanes=2, **costs), 20 * _draw(3, 2)


CASES = [_battery, _mean_cvar, _products, _freight]
RISKS = [Risk(), Risk(beta=0.5, alpha=0.7)]
Case = Callable[[float], tuple[TwoStageProgram, Tensor]]


@pytest.mark.parametrize("risk", RISKS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_order_and_splitting_of_scenarios_change_nothing(case: Case, risk: Risk) -> None:
    program, scenarios = case(1.0)
    weights = torch.arange(1.0, COUNT + 1, dtype=torch.float64)[None]
    weights = weights / weights.sum()
    objective = program.solve(scenarios, weights, risk=risk).require_optimal().objective
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    permuted = program.solve(scenarios[:, order], weights[:, order], risk=risk).require_optimal()
    torch.testing.assert_close(permuted.objective, objective, rtol=1e-6, atol=1e-7)
    twice = torch.cat([scenarios, scenarios[:, :1]], dim=1)
    halves = torch.cat([weights, weights[:, :1] / 2], dim=1)
    halves[:, 0] /= 2
    split = program.solve(twice, halves, risk=risk).require_optimal()
    torch.testing.assert_close(split.objective, objective, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("money", [1e-3, 1e4])
@pytest.mark.parametrize("case", CASES)
def test_another_currency_scales_the_cost_alone(case: Case, money: float) -> None:
    program, scenarios = case(1.0)
    objective = program.solve(scenarios).require_optimal().objective
    other, other_scenarios = case(money)
    scaled = other.solve(other_scenarios).require_optimal()
    torch.testing.assert_close(scaled.objective / money, objective, rtol=1e-6, atol=1e-7 / min(money, 1.0))


@pytest.mark.parametrize("case", CASES)
def test_a_scenario_of_probability_one_stands_alone(case: Case) -> None:
    program, scenarios = case(1.0)
    weights = torch.zeros(1, COUNT, dtype=torch.float64)
    weights[0, 3] = 1.0
    certain = program.solve(scenarios, weights).require_optimal().objective
    alone = program.solve(scenarios[:, 3:4]).require_optimal().objective
    torch.testing.assert_close(certain, alone, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(program.wait_and_see(scenarios)[:, 3], alone, rtol=1e-6, atol=1e-7)
