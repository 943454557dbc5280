"""A classifier that must not see what is not there, and must see what is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from hedgecast.scenarios.two_sample import two_sample_auc


def days(
    seed: int, num_days: int = 240, num_scenarios: int = 40, num_steps: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Scenarios and what came true, one law."""
    draws = np.random.default_rng(seed)
    pooled = draws.normal(size=(num_days, num_scenarios + 1, num_steps, 1)).cumsum(axis=2)
    return pooled[:, 1:], pooled[:, 0]


def auc(paths: np.ndarray, realized: np.ndarray) -> float:
    return two_sample_auc(paths, realized, np.random.default_rng(0))


def test_one_law_cannot_be_told_apart() -> None:
    # 240 real days against 960 scenarios: standard error 0.021 each; five seeds average to 0.0094.
    found = [auc(*days(seed)) for seed in range(5)]
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.0094)


def test_far_apart_is_always_told() -> None:
    paths, realized = days(5)
    assert auc(paths, realized + 20.0) == pytest.approx(1.0)
    assert auc(np.zeros_like(paths), realized) == pytest.approx(1.0)


def test_a_shift_has_the_area_of_the_best_classifier() -> None:
    # One step, N(0, 1) against N(1.5, 1): the area is Phi(1.5 / sqrt 2); spread of 200 scenarios adds little.
    draws = np.random.default_rng(6)
    paths, realized = draws.normal(size=(600, 200, 1, 1)), 1.5 + draws.normal(size=(600, 1, 1))
    # Standard error of the area for 600 against 2,400 is 0.009.
    assert auc(paths, realized) == pytest.approx(norm.cdf(1.5 / math.sqrt(2)), abs=0.04)


@pytest.mark.parametrize("change", ["narrow", "wide", "unlinked"])
def test_each_kind_of_falsehood_is_seen(change: str) -> None:
    paths, realized = days(7)
    center = paths.mean(axis=1, keepdims=True)
    if change == "unlinked":
        draws = np.random.default_rng(8)
        paths = draws.permuted(paths, axis=1)  # each step's margin kept, its links lost
    else:
        paths = center + {"narrow": 0.5, "wide": 2.0}[change] * (paths - center)
    # Five standard errors above one half.
    assert auc(paths, realized) > 0.5 + 5 * 0.021


def test_units_and_level_do_not_matter() -> None:
    paths, realized = days(9)
    assert auc(1000 * paths + 77, 1000 * realized + 77) == pytest.approx(auc(paths, realized), abs=1e-3)


def test_too_few_days_or_scenarios_say_nothing() -> None:
    paths, realized = days(10)
    assert math.isnan(auc(paths[:19], realized[:19]))
    assert math.isnan(auc(paths[:, :15], realized))
