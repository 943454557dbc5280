"""Coverage, ranks and their uniformity against binomials, scipy and laws known to be right or wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm, rankdata

from hedgecast.scenarios.calibration import coverage, covered, pit, rank_histogram, uniformity


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_central_band_covers_its_share() -> None:
    draws = np.random.default_rng(2)
    paths, realized = draws.normal(size=(4000, 199, 1)), draws.normal(size=(4000, 1))
    share = covered(paths, realized, level=0.9).mean()
    # Binomial standard error of 4,000 days is 0.0047; quantiles of 199 draws cover 0.896 on average.
    assert share == pytest.approx(0.896, abs=4 * 0.0047)


def test_outside_is_outside() -> None:
    paths = np.linspace(0.0, 1.0, 101)[None, :, None]
    assert not covered(paths, np.array([[0.01]]))[0, 0]
    assert covered(paths, np.array([[0.5]]))[0, 0]


def test_the_band_of_independent_days_has_the_binomial_width() -> None:
    draws = np.random.default_rng(3)
    paths, realized = draws.normal(size=(900, 99, 1)), draws.normal(size=(900, 1))
    found = coverage(paths, realized, seeded(), level=0.8, block_days=1)
    assert found.low < found.share < found.high
    half = 1.96 * np.sqrt(found.share * (1 - found.share) / 900)
    # The quantile of 2,000 resamples has a standard error of about 3 %: four of them.
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.12)


def test_weeks_that_hang_together_widen_the_band() -> None:
    draws = np.random.default_rng(4)
    paths, realized = draws.normal(size=(420, 99, 1)), np.repeat(draws.normal(size=(60, 1)), 7, axis=0)
    single = coverage(paths, realized, seeded(), level=0.8, block_days=1)
    weekly = coverage(paths, realized, seeded(), level=0.8, block_days=7)
    assert weekly.share == single.share
    assert weekly.high - weekly.low > 1.7 * (single.high - single.low)


def test_ranks_are_those_of_scipy() -> None:
    draws = np.random.default_rng(5)
    paths, realized = draws.normal(size=(40, 19, 3)), draws.normal(size=(40, 3))
    found = np.floor(pit(paths, realized, np.random.default_rng(0)) * 20)
    pooled = np.concatenate([realized[:, None], paths], axis=1)
    np.testing.assert_array_equal(found, rankdata(pooled, axis=1)[:, 0] - 1)


def test_ties_are_broken_evenly() -> None:
    # Everything tied: the transform is uniform all the same; 4,000 entries, p above 0.001.
    values = pit(np.zeros((400, 9, 10)), np.zeros((400, 10)), np.random.default_rng(6))
    assert kstest(values.ravel(), "uniform").pvalue > 1e-3
    assert values.min() > 0
    assert values.max() < 1


def test_the_transform_is_uniform_for_few_scenarios_too() -> None:
    draws = np.random.default_rng(7)
    values = pit(draws.normal(size=(5000, 3, 1)), draws.normal(size=(5000, 1)), draws)
    assert kstest(values.ravel(), "uniform").pvalue > 1e-3


def test_the_histogram_shows_what_is_wrong() -> None:
    draws = np.random.default_rng(8)
    paths, realized = draws.normal(size=(2000, 99, 1)), draws.normal(size=(2000, 1))
    flat = rank_histogram(pit(paths, realized, draws))
    assert flat.sum() == pytest.approx(1.0)
    # Binomial standard error of a bin of 0.05 is 0.0049.
    assert np.abs(flat - 0.05).max() < 4.5 * 0.0049
    horns = rank_histogram(pit(0.4 * paths, realized, draws))
    assert min(horns[0], horns[-1]) > 0.15 > 0.03 > horns[10]
    slope = rank_histogram(pit(paths - 1.0, realized, draws))
    assert slope[-1] > 3 * slope[0]


def test_uniformity_finds_the_distance_of_scipy() -> None:
    values = np.random.default_rng(9).beta(2.0, 2.0, size=(300, 1))
    found = uniformity(values, seeded(), block_days=1)
    # On a grid of hundredths the largest difference is missed by one cell at most.
    assert found.distance == pytest.approx(kstest(values.ravel(), "uniform").statistic, abs=0.011)
    assert found.p_value < 0.005


def test_uniformity_refuses_uniform_ranks_about_as_seldom_as_it_says() -> None:
    """p < 0.1 in 200 series of 140 linked days: share within four binomial errors (0.085) of 0.1."""
    draws = np.random.default_rng(10)
    refused, independent = 0, 0
    for trial in range(200):
        level = draws.normal(size=(140, 1))
        for day in range(1, 140):
            level[day] = 0.5 * level[day - 1] + np.sqrt(0.75) * level[day]
        values = norm.cdf(level)
        refused += uniformity(values, seeded(trial), num_resamples=200).p_value < 0.1
        independent += kstest(values.ravel(), "uniform").pvalue < 0.1
    assert refused / 200 < 0.1 + 0.085
    # A test that takes the days for independent refuses three times as many as it says.
    assert independent / 200 > 0.2
