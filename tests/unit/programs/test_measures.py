"""Risk measures of costs against sorting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgecast.programs.measures import conditional_value_at_risk, expectation, risk_value
from hedgecast.programs.risk import Risk


def weights(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_closed_forms_and_limits() -> None:
    costs, equal = weights([4.0, 1.0, 3.0, 2.0]), torch.full((4,), 0.25, dtype=torch.float64)
    assert conditional_value_at_risk(costs, equal, 0.0).item() == pytest.approx(2.5)
    assert conditional_value_at_risk(costs, equal, 0.5).item() == pytest.approx(3.5)
    assert conditional_value_at_risk(costs, equal, 0.75).item() == pytest.approx(4.0)
    assert conditional_value_at_risk(costs, equal, 1.0).item() == 4.0
    # The tail of 0.4 holds all of 4 and 0.15 of the quarter at 3.
    assert conditional_value_at_risk(costs, equal, 0.6).item() == pytest.approx((0.25 * 4 + 0.15 * 3) / 0.4)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.0, 0.99))
def test_equals_the_minimum_of_rockafellar_and_uryasev(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    costs = np.round(rng.normal(size=8), 1)
    probability = rng.dirichlet(np.ones(8))
    candidates = [eta + (probability * np.maximum(costs - eta, 0)).sum() / (1 - alpha) for eta in costs]
    found = conditional_value_at_risk(torch.as_tensor(costs), torch.as_tensor(probability), alpha)
    assert found.item() == pytest.approx(min(candidates), rel=1e-9, abs=1e-9)


def test_splitting_an_atom_changes_nothing() -> None:
    whole = conditional_value_at_risk(weights([1.0, 5.0]), weights([0.4, 0.6]), 0.7)
    split = conditional_value_at_risk(weights([5.0, 1.0, 5.0]), weights([0.1, 0.4, 0.5]), 0.7)
    assert whole.item() == pytest.approx(split.item())


def test_scenarios_of_probability_zero_never_count() -> None:
    costs = weights([1.0, float("inf"), 2.0]).requires_grad_()
    probability = weights([0.5, 0.0, 0.5])
    assert expectation(costs, probability).item() == 1.5
    for alpha in (0.0, 0.5, 1.0):
        tail = conditional_value_at_risk(costs, probability, alpha)
        assert np.isfinite(tail.item())
        (slope,) = torch.autograd.grad(tail, costs)
        assert torch.isfinite(slope).all()
        assert slope[1] == 0


def test_gradients_pass_gradcheck() -> None:
    costs = weights([1.0, 4.0, 2.0, 8.0]).requires_grad_()
    probability = weights([0.1, 0.2, 0.3, 0.4]).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: conditional_value_at_risk(c, probability, 0.45), (costs,))
    assert torch.autograd.gradcheck(expectation, (costs, probability))


def test_measures_on_regret_and_mixtures() -> None:
    costs, best = weights([3.0, 10.0]), weights([1.0, 9.5])
    half = weights([0.5, 0.5])
    assert risk_value(Risk.parse("regret-worst"), costs, half, best).item() == pytest.approx(2.0)
    assert risk_value(Risk.parse("worst"), costs, half).item() == pytest.approx(10.0)
    mixed = risk_value(Risk.parse("regret-mixture:0.25:0.5"), costs, half, best)
    assert mixed.item() == pytest.approx(0.75 * 6.5 + 0.25 * 2.0)


@pytest.mark.parametrize("risk", ["expectation", "cvar:0.5", "mixture:0.5:0.5", "worst", "regret-worst"])
def test_a_scenario_without_recourse_makes_every_measure_infinite(risk: str) -> None:
    costs, best = weights([1.0, 2.0, math.inf]), weights([0.0, 0.0, 0.0])
    assert risk_value(Risk.parse(risk), costs, weights([0.5, 0.25, 0.25]), best).item() == math.inf
    assert math.isfinite(risk_value(Risk.parse(risk), costs, weights([0.5, 0.5, 0.0]), best).item())
