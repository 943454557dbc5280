"""Scores against closed forms, quadrature and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import norm

from hedgecast.scenarios.scores import (
    LARGEST_PAIRED,
    crps,
    diversity,
    energy_score,
    tail_crps,
    variogram_score,
)


def within_four_errors(difference: np.ndarray) -> bool:
    """Whether a mean of independent differences lies within four standard errors of zero."""
    return bool(abs(difference.mean()) < 4 * difference.std() / math.sqrt(difference.size))


def test_crps_of_a_normal_law_is_its_closed_form() -> None:
    # Gneiting and Raftery (2007), eq. 21, for the standard normal; 200 days of 400 scenarios.
    draws = np.random.default_rng(0)
    realized = draws.normal(size=(200, 1))
    exact = realized * (2 * norm.cdf(realized) - 1) + 2 * norm.pdf(realized) - 1 / math.sqrt(math.pi)
    assert within_four_errors(crps(draws.normal(size=(200, 400, 1)), realized) - exact)


def test_crps_is_fair_in_the_number_of_scenarios() -> None:
    # Three scenarios have the same mean score as a thousand: 20,000 and 200 days.
    draws = np.random.default_rng(1)
    few = crps(draws.normal(size=(20_000, 3, 1)), draws.normal(size=(20_000, 1)))
    expected = 1 / math.sqrt(math.pi)  # E CRPS of the right standard normal
    assert within_four_errors(few - expected)


def test_crps_of_one_and_of_two_scenarios_by_hand() -> None:
    assert crps(np.array([[[3.0]]]), np.array([[5.0]])) == pytest.approx(2.0)
    # mean |x - y| - |x1 - x2| / 2, fair: (3 + 1) / 2 - 2 / 2
    assert crps(np.array([[[1.0], [3.0]]]), np.array([[4.0]]))[0, 0] == pytest.approx(1.0)


def test_tail_crps_of_a_normal_law_is_the_integral_over_the_tails() -> None:
    draws = np.random.default_rng(2)
    realized = draws.normal(size=(200, 1))
    low, high = -1.0, 0.5

    def exact(value: float) -> float:
        def gap(x: float) -> float:
            return float((norm.cdf(x) - (value <= x)) ** 2)

        below = quad(gap, -9.0, low, points=[min(value, low)], limit=200)[0]
        return float(below + quad(gap, high, 9.0, points=[max(value, high)], limit=200)[0])

    found = tail_crps(draws.normal(size=(200, 400, 1)), realized, low, high)
    assert within_four_errors(found - np.array([[exact(float(y))] for y in realized[:, 0]]))


def test_tails_and_middle_add_up() -> None:
    draws = np.random.default_rng(3)
    paths, realized = draws.normal(size=(5, 30, 4)), draws.normal(size=(5, 4))
    whole = crps(paths, realized)
    threshold = np.full((5, 4), 0.2)
    # Tails that meet are the whole line, and tails that nothing reaches are nothing.
    np.testing.assert_allclose(tail_crps(paths, realized, threshold, threshold), whole, rtol=1e-12)
    np.testing.assert_allclose(tail_crps(paths, realized, -50.0, 50.0), 0.0, atol=1e-12)
    one = tail_crps(paths[:, :1], realized, threshold, threshold)
    np.testing.assert_allclose(one, np.abs(paths[:, 0] - realized), rtol=1e-12)


def test_energy_score_of_a_normal_law_is_its_closed_form() -> None:
    # X, y ~ N(0, I) in d dimensions: E|X - y| = 2 G((d + 1)/2) / G(d/2), and half of it is the mean score.
    d = 6
    draws = np.random.default_rng(4)
    expected = math.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    found = energy_score(draws.normal(size=(600, 20, d)), draws.normal(size=(600, d)))
    assert within_four_errors(found - expected)


def test_energy_score_is_the_loop() -> None:
    draws = np.random.default_rng(5)
    paths, realized = draws.normal(size=(3, 7, 4)), draws.normal(size=(3, 4))
    for day in range(3):
        to_real = np.mean([np.linalg.norm(path - realized[day]) for path in paths[day]])
        between = [np.linalg.norm(a - b) for a in paths[day] for b in paths[day] if a is not b]
        pairs = np.sum(between) / (7 * 6)
        assert energy_score(paths, realized)[day] == pytest.approx(to_real - pairs / 2)
    assert energy_score(paths[:, :1], realized) == pytest.approx(
        np.linalg.norm(paths[:, 0] - realized, axis=1)
    )


def test_energy_score_takes_the_first_scenarios() -> None:
    draws = np.random.default_rng(6)
    paths, realized = draws.normal(size=(2, LARGEST_PAIRED + 9, 3)), draws.normal(size=(2, 3))
    np.testing.assert_array_equal(
        energy_score(paths, realized), energy_score(paths[:, :LARGEST_PAIRED], realized)
    )


@pytest.mark.parametrize(
    ("spread", "expected"), [(1.0, 1.0), (0.5, 2 * 0.5 / math.sqrt(1.25) / 1.0 * 0.70711)]
)
def test_diversity_of_normal_laws(spread: float, expected: float) -> None:
    # X ~ N(0, s^2 I), y ~ N(0, I): sqrt(2) s / sqrt(1 + s^2) in any dimension. 4,000 days of 30 scenarios.
    draws = np.random.default_rng(7)
    paths, realized = spread * draws.normal(size=(4000, 30, 3)), draws.normal(size=(4000, 3))
    exact = math.sqrt(2) * spread / math.sqrt(1 + spread**2)
    assert exact == pytest.approx(expected, rel=1e-4)
    assert diversity(paths, realized, energy_score(paths, realized)) == pytest.approx(exact, abs=0.02)


def test_diversity_at_its_limits() -> None:
    realized = np.ones((4, 3))
    alike = np.zeros((4, 5, 3))
    assert diversity(alike, realized, energy_score(alike, realized)) == pytest.approx(0.0)
    assert math.isnan(diversity(alike[:, :1], realized, energy_score(alike[:, :1], realized)))
    same = np.ones((4, 5, 3))
    assert math.isnan(diversity(same, realized, energy_score(same, realized)))


def test_variogram_score_is_the_loop() -> None:
    draws = np.random.default_rng(8)
    paths, realized = draws.normal(size=(2, 6, 4, 3)), draws.normal(size=(2, 4, 3))
    for day in range(2):
        total, weights = 0.0, 0.0
        for t in range(4):
            for f in range(3):
                for u in range(4):
                    for g in range(3):
                        if (t, f) == (u, g) or (t != u and f != g):
                            continue
                        weight = 1.0 / abs(t - u) if t != u else 1.0
                        real = abs(realized[day, t, f] - realized[day, u, g]) ** 0.5
                        drawn = np.mean(np.abs(paths[day, :, t, f] - paths[day, :, u, g]) ** 0.5)
                        total += weight * (real - drawn) ** 2
                        weights += weight
        assert variogram_score(paths, realized)[day] == pytest.approx(total / weights)


def test_variogram_score_sees_dependence_that_the_crps_does_not() -> None:
    # AR(1) days against scenarios with the same margins and no dependence: 300 days of 50 scenarios.
    draws = np.random.default_rng(9)

    def walk(shape: tuple[int, ...]) -> np.ndarray:
        values = draws.normal(size=shape)
        for t in range(1, shape[-1]):
            values[..., t] = 0.9 * values[..., t - 1] + math.sqrt(1 - 0.81) * values[..., t]
        return values

    realized, right, white = walk((300, 12)), walk((300, 50, 12)), draws.normal(size=(300, 50, 12))
    gap = crps(white, realized).mean(axis=1) - crps(right, realized).mean(axis=1)
    assert within_four_errors(gap)
    difference = variogram_score(white[..., None], realized[..., None]) - variogram_score(
        right[..., None], realized[..., None]
    )
    assert difference.mean() > 8 * difference.std() / math.sqrt(300)


def test_variogram_score_of_one_entry_is_zero_and_a_shift_changes_nothing() -> None:
    draws = np.random.default_rng(10)
    assert not variogram_score(draws.normal(size=(3, 5, 1, 1)), draws.normal(size=(3, 1, 1))).any()
    paths, realized = draws.normal(size=(3, 5, 6, 2)), draws.normal(size=(3, 6, 2))
    np.testing.assert_allclose(
        variogram_score(paths + 7.0, realized), variogram_score(paths, realized), rtol=1e-9
    )


def test_scaling_the_unit_scales_the_scores() -> None:
    draws = np.random.default_rng(11)
    paths, realized = draws.normal(size=(5, 30, 4)), draws.normal(size=(5, 4))
    for score in (crps, energy_score):
        np.testing.assert_allclose(
            score(1000 * paths, 1000 * realized), 1000 * score(paths, realized), rtol=1e-9
        )
    np.testing.assert_allclose(
        variogram_score(1000 * paths[..., None], 1000 * realized[..., None]),
        1000 * variogram_score(paths[..., None], realized[..., None]),
        rtol=1e-9,
    )


def test_the_order_of_scenarios_changes_nothing() -> None:
    draws = np.random.default_rng(12)
    paths, realized = draws.normal(size=(5, 30, 4)), draws.normal(size=(5, 4))
    turned = paths[:, draws.permutation(30)]
    for score in (crps, energy_score):
        np.testing.assert_allclose(score(turned, realized), score(paths, realized), rtol=1e-9)
