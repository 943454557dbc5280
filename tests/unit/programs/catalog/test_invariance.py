"""What must not change the decision of any shipped program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk

RISKS = [Risk(), Risk(beta=0.5, alpha=0.7)]
Case = Callable[[float], tuple[TwoStageProgram, Tensor]]


def _check_order_and_splitting(program: TwoStageProgram, scenarios: Tensor, risk: Risk) -> None:
    count = scenarios.shape[1]
    weights = torch.arange(1.0, count + 1, dtype=torch.float64)[None]
    weights = weights / weights.sum()
    objective = program.solve(scenarios, weights, risk=risk).require_optimal().objective
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    permuted = program.solve(scenarios[:, order], weights[:, order], risk=risk).require_optimal()
    torch.testing.assert_close(permuted.objective, objective, rtol=1e-6, atol=1e-7)
    twice = torch.cat([scenarios, scenarios[:, :1]], dim=1)
    halves = torch.cat([weights, weights[:, :1] / 2], dim=1)
    halves[:, 0] /= 2
    split = program.solve(twice, halves, risk=risk).require_optimal()
    torch.testing.assert_close(split.objective, objective, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("risk", RISKS, ids=str)
def test_order_and_splitting_of_scenarios_change_nothing(case: Case, risk: Risk) -> None:
    _check_order_and_splitting(*case(1.0), risk)


def test_nor_do_they_for_portfolios_by_variance(unscaled: tuple[TwoStageProgram, Tensor]) -> None:
    _check_order_and_splitting(*unscaled, Risk())


@pytest.mark.parametrize("money", [1e-6, 1e-3, 1e4, 1e6])
def test_another_currency_scales_the_cost_alone(case: Case, money: float) -> None:
    program, scenarios = case(1.0)
    objective = program.solve(scenarios).require_optimal().objective
    other, other_scenarios = case(money)
    scaled = other.solve(other_scenarios).require_optimal()
    torch.testing.assert_close(scaled.objective / money, objective, rtol=2e-6, atol=1e-6)


def test_a_scenario_of_probability_one_stands_alone(case: Case) -> None:
    program, scenarios = case(1.0)
    weights = torch.zeros(scenarios.shape[:2], dtype=torch.float64)
    weights[0, 3] = 1.0
    certain = program.solve(scenarios, weights).require_optimal().objective
    alone = program.solve(scenarios[:, 3:4]).require_optimal().objective
    torch.testing.assert_close(certain, alone, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(program.wait_and_see(scenarios)[:, 3], alone, rtol=1e-6, atol=1e-7)
