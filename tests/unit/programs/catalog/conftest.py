"""Every shipped program, small, with costs in any currency."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgecast.programs.catalog import (
    battery_storage,
    freight_routing,
    generation_scheduling,
    portfolio,
    product_allocation,
)
from hedgecast.programs.program import TwoStageProgram

COUNT = 8
Case = Callable[[float], tuple[TwoStageProgram, Tensor]]


def _draw(*shape: int) -> Tensor:
    return torch.rand(1, COUNT, *shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def schedule(money: float) -> tuple[TwoStageProgram, Tensor]:
    names = ("shortage", "excess", "quadratic", "reserve", "reserve_call")
    costs = {f"{n}_cost": money * c for n, c in zip(names, (50.0, 0.5, 0.5, 0.2, 1.0), strict=True)}
    return generation_scheduling.build(5, capacity=3.5, reserve=0.1, **costs), 2.0 + 2.0 * _draw(5)


def battery(money: float) -> tuple[TwoStageProgram, Tensor]:
    costs = {"level_cost": 0.2 * money, "power_cost": 0.1 * money, "degradation_cost": 0.5 * money}
    return battery_storage.build(4, **costs), money * (20 + 40 * _draw(4))


def mean_cvar(money: float) -> tuple[TwoStageProgram, Tensor]:
    # Returns are shares of wealth: money does not scale, so only the cost of trading and returns do.
    program = portfolio.build(num_assets=3, objective="mean-cvar", transaction_cost=0.01 * money)
    return program, money * (0.1 * _draw(1, 3) - 0.03)


def products(money: float) -> tuple[TwoStageProgram, Tensor]:
    costs = {
        "unit_cost": money,
        "price": 3 * money,
        "salvage_value": 0.2 * money,
        "substitution_cost": 0.5 * money,
    }
    return product_allocation.build(1, num_products=3, capacity=40.0, **costs), 25 * _draw(1, 3)


def freight(money: float) -> tuple[TwoStageProgram, Tensor]:
    names = ("route", "truck", "idle", "spot", "storage", "lateness", "final")
    costs = {
        f"{n}_cost": money * c for n, c in zip(names, (4.0, 20.0, 2.0, 60.0, 3.0, 10.0, 80.0), strict=True)
    }
    return freight_routing.build(3, num_lanes=2, **costs), 20 * _draw(3, 2)


@pytest.fixture(params=[schedule, battery, mean_cvar, products, freight], ids=lambda case: case.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    """A shipped program and its scenarios (1, 8, ...) by the unit of money."""
    found: Case = request.param
    return found


@pytest.fixture(params=[0, 1], ids=["mean-variance", "maximum-sharpe"])
def unscaled(request: pytest.FixtureRequest) -> tuple[TwoStageProgram, Tensor]:
    """The portfolios whose objective is not in money."""
    objective = ("mean-variance", "maximum-sharpe")[request.param]
    return portfolio.build(num_assets=3, objective=objective, max_weight=0.7), 0.1 * _draw(1, 3) - 0.03
