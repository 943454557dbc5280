"""Regret and costs over days."""

from __future__ import annotations

import numpy as np
import pytest

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.regret.metrics import cost_cvar, cost_quantiles, regret, relative_regret


def test_closed_forms() -> None:
    costs, best = np.array([3.0, 5.0, -1.0]), np.array([2.0, 5.0, -2.0])
    assert regret(costs, best).tolist() == [1.0, 0.0, 1.0]
    assert relative_regret(costs, best) == pytest.approx(2 / 9)
    assert cost_quantiles(costs, [0.0, 0.5, 1.0]).tolist() == [-1.0, 3.0, 5.0]
    assert cost_cvar(np.arange(10.0), 0.8) == pytest.approx(8.5)
    assert cost_cvar(np.arange(10.0), 0.0) == pytest.approx(4.5)


def test_scaling_money_leaves_relative_regret() -> None:
    costs, best = np.array([3.0, 5.0]), np.array([2.0, 4.5])
    assert relative_regret(7 * costs, 7 * best) == pytest.approx(relative_regret(costs, best))
    assert np.isnan(relative_regret(costs - costs, best - best))


def test_mistakes_are_named() -> None:
    with pytest.raises(ShapeError, match="differ"):
        regret(np.ones(3), np.ones(2))
    with pytest.raises(ConfigError, match="quantile levels"):
        cost_quantiles(np.ones(3), [2.0])
