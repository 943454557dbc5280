"""Generation scheduling against the same program written out by hand."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog.generation_scheduling import build

BACKENDS = ("reference", "structured")


def loads(num_scenarios: int, num_steps: int) -> np.ndarray:
    return 3 + np.random.default_rng(0).normal(size=(1, num_scenarios, num_steps)) * 0.5


def by_hand(load: np.ndarray, *, ramp: float, capacity: float, reserve: float | None) -> float:
    num_scenarios, num_steps = load.shape
    plan = cp.Variable(num_steps)
    rows = [plan >= 0, cp.abs(cp.diff(plan)) <= ramp]
    booked = cp.Variable(num_steps)
    rows += [booked == 0] if reserve is None else [booked >= reserve]
    rows.append(plan + booked <= capacity)
    cost = 0.2 * cp.sum(booked)
    for scenario in load:
        called = cp.Variable(num_steps)
        rows += [called >= 0, called <= booked]
        short, over = cp.pos(scenario - plan - called), cp.pos(plan - scenario)
        each = 50 * short + 0.5 * over + 1.0 * called + 0.5 * cp.square(plan - scenario)
        cost += cp.sum(each) / num_scenarios
    problem = cp.Problem(cp.Minimize(cost), rows)
    return float(problem.solve(solver=cp.CLARABEL))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reserve", [None, 0.3])
def test_equals_the_program_by_hand(backend: str, reserve: float | None) -> None:
    load = loads(8, 6)
    decision = build(6, capacity=3.6, reserve=reserve).solve(load, backend=backend).require_optimal()
    expected = by_hand(load[0], ramp=0.4, capacity=3.6, reserve=reserve)
    assert decision.objective.item() == pytest.approx(expected, rel=1e-6)
    assert decision.values["schedule"].diff().abs().max() <= 0.4 + 1e-6
    assert decision.values["schedule"].max() <= 3.6 + 1e-6


def test_without_binding_ramps_each_hour_is_a_quantile() -> None:
    """With e = q = 0 the highest demand; with q = 0 the s / (s + e) quantile."""
    load = loads(40, 3)
    quiet = build(3, excess_cost=0.0, quadratic_cost=0.0, ramp_limit=9.0).solve(load)
    assert torch.all(quiet.flat[0] >= torch.as_tensor(load[0].max(axis=0)) - 1e-4)
    linear = build(3, shortage_cost=3.1, excess_cost=0.9, quadratic_cost=0.0, ramp_limit=9.0).solve(load)
    # 3.1 of 4 times 40 scenarios is 31: the 31st order statistic, not a tie.
    expected = np.sort(load[0], axis=0)[30:32]
    assert np.all(linear.flat[0].numpy() >= expected[0] - 1e-4)
    assert np.all(linear.flat[0].numpy() <= expected[1] + 1e-4)


@pytest.mark.parametrize("num_steps", [1, 23, 25])
def test_serves_days_of_any_length(num_steps: int) -> None:
    program = build(num_steps)
    assert program.solve(loads(4, num_steps)).require_optimal().flat.shape == (1, num_steps)


def test_limits_are_given_parameters() -> None:
    program = build(4, capacity=[5.0, 5.0, 2.0, 5.0])
    assert set(program.reader.defaults) == {"ramp_limit", "capacity"}
    tight = program.solve(loads(4, 4))
    assert tight.flat[0, 2] <= 2 + 1e-6
    wide = program.solve(loads(4, 4), given={"capacity": np.full(4, 9.0), "ramp_limit": 9.0})
    assert wide.flat[0, 2] > 2


def test_refuses_impossible_parameters() -> None:
    for parameters in (
        {"shortage_cost": -1.0}, {"ramp_limit": float("nan")}, {"num_steps": 0}, {"capacity": [1.0, 2.0]},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{next(iter(parameters))}"):
            build(**{"num_steps": 3, **parameters})
