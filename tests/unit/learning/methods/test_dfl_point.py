from __future__ import annotations

import dataclasses

import pytest
import torch

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.methods.dfl_point import fit_dfl_point
from hedgecast.programs.catalog.generation_scheduling import build

from .conftest import LinearGaussian


def test_the_one_scenario_is_the_quantile_that_the_costs_ask_for(
    linear_gaussian: LinearGaussian, small: LearningConfig
) -> None:
    # Shortage 9, excess 1, slots apart: the best plan is the 90 % quantile, mean + 1.2816 deviations.
    program = build(3, shortage_cost=9.0, excess_cost=1.0, quadratic_cost=0.0, ramp_limit=1e3, capacity=1e3)
    longer = dataclasses.replace(small, epochs=40, learning_rate=1e-2)
    method = fit_dfl_point(linear_gaussian.train, linear_gaussian.validation, longer, program)
    one = method.scenarios(linear_gaussian.test, 25, 0)
    assert one.num_scenarios == 1
    above = (one.values[:, 0] - linear_gaussian.mean(linear_gaussian.test)).mean(dim=0)
    deviation = linear_gaussian.factor.square().sum(dim=1).sqrt()
    torch.testing.assert_close(above / deviation, torch.full((3,), 1.2816).double(), rtol=0, atol=0.25)
    # The ridge mean, from which it starts, costs E|y - m| (9 + 1) / 2; the quantile 10 phi(1.2816).
    size = float(deviation.mean())
    assert method.curve.scores[0] == pytest.approx(3 * size * 10 * 0.3989, rel=0.1)
    assert min(method.curve.scores) == pytest.approx(3 * size * 10 * 0.1755, rel=0.15)
