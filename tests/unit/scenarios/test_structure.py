"""Ramps and dependence against scipy, closed forms and laws known to be right or wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hedgecast.scenarios.structure import autocorrelation, autocorrelation_distance, increment_distance


def walk(draws: np.random.Generator, shape: tuple[int, ...], rho: float = 0.9) -> np.ndarray:
    """Stationary AR(1) of unit variance along the last axis, one series."""
    values = draws.normal(size=shape)
    for t in range(1, shape[-1]):
        values[..., t] = rho * values[..., t - 1] + math.sqrt(1 - rho**2) * values[..., t]
    return values[..., None]


def test_a_shift_of_ramps_is_the_distance() -> None:
    # One scenario a day, the day itself plus a slope of 0.7 a step: every ramp is moved by 0.7.
    realized = np.random.default_rng(0).normal(size=(50, 5, 2))
    slope = 0.7 * np.arange(5.0)[:, None]
    spread = np.diff(realized, axis=1).std(axis=0)
    assert increment_distance((realized + slope)[:, None], realized) == pytest.approx(np.mean(0.7 / spread))
    assert increment_distance(realized[:, None], realized) == 0.0


def test_ramps_of_another_size_of_a_normal_law() -> None:
    # W1 of N(0, s^2) and N(0, 1) is |s - 1| sqrt(2 / pi): 4,000 days, chance adds about 0.8 / sqrt(4,000).
    draws = np.random.default_rng(1)
    realized = draws.normal(size=(4000, 2, 1)).cumsum(axis=1)
    paths = 1.5 * draws.normal(size=(4000, 20, 2, 1)).cumsum(axis=2)
    assert increment_distance(paths, realized) == pytest.approx(0.5 * math.sqrt(2 / math.pi), abs=0.04)


def test_ramps_that_do_not_exist_or_vary_say_nothing() -> None:
    assert math.isnan(increment_distance(np.zeros((4, 3, 1, 1)), np.zeros((4, 1, 1))))
    assert math.isnan(increment_distance(np.zeros((4, 3, 5, 1)), np.zeros((4, 5, 1))))


def test_autocorrelation_of_an_ar_process_is_its_power() -> None:
    values = walk(np.random.default_rng(2), (40_000, 6), rho=0.8)[..., 0]
    # Standard error of a correlation of 40,000 pairs is at most 0.005.
    np.testing.assert_allclose(autocorrelation(values), 0.8 ** np.arange(6), atol=0.02)


def test_autocorrelation_does_not_see_the_size_of_steps() -> None:
    values = walk(np.random.default_rng(3), (200, 6))[..., 0]
    scaled = values * np.array([1.0, 9.0, 0.1, 3.0, 2.0, 50.0])
    np.testing.assert_allclose(autocorrelation(scaled), autocorrelation(values), rtol=1e-12)


def test_a_step_that_never_deviates_is_left_out() -> None:
    values = walk(np.random.default_rng(4), (200, 5))[..., 0]
    with_night = np.insert(values, 5, 0.0, axis=1)
    found = autocorrelation(with_night)
    np.testing.assert_allclose(found[:5], autocorrelation(values), rtol=1e-12)
    assert math.isnan(found[5])


def test_equal_dependence_is_near_and_none_is_far() -> None:
    draws = np.random.default_rng(5)
    realized, right = walk(draws, (400, 12)), walk(draws, (400, 40, 12))
    white = draws.normal(size=right.shape)
    near, far = autocorrelation_distance(right, realized), autocorrelation_distance(white, realized)
    # Each correlation of 400 days has a standard error of about 0.05, less over the pairs of a lag.
    assert near < 0.08
    # The exact distance to white noise: the weighted root mean square of 0.9^lag.
    lags = np.arange(1, 12)
    assert far == pytest.approx(math.sqrt(np.average(0.81**lags, weights=12 - lags)), abs=0.06)
    assert autocorrelation_distance(0.3 * right, realized) == pytest.approx(near, abs=0.02)


def test_one_scenario_or_one_step_says_nothing() -> None:
    draws = np.random.default_rng(6)
    assert math.isnan(autocorrelation_distance(draws.normal(size=(9, 1, 4, 1)), draws.normal(size=(9, 4, 1))))
    assert math.isnan(autocorrelation_distance(draws.normal(size=(9, 5, 1, 1)), draws.normal(size=(9, 1, 1))))
