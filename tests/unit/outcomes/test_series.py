"""Variances and bands against closed forms and scipy."""

import numpy as np
import pytest
from scipy import stats

from hedgecast.outcomes.series import binomial_band, long_run_variance, mean_of, num_lags


def test_without_lags_it_is_the_sample_variance() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert long_run_variance(values, lags=0) == pytest.approx(values.var(ddof=1))


def test_the_standard_error_of_few_values_is_the_usual_one() -> None:
    mean = mean_of(np.array([1.0, 2.0, 4.0, 9.0]))
    assert mean.mean == 4.0
    assert mean.standard_error == pytest.approx(np.sqrt(((9 + 4 + 0 + 25) / 3) / 4))
    assert mean.count == 4


def test_a_written_out_case_with_one_lag() -> None:
    # Centered -1, 1, -1, 1: (1 + 2 (1/2) (-3/4)) / (1 - 2/4).
    assert long_run_variance(np.array([0.0, 2.0, 0.0, 2.0]), lags=1) == pytest.approx(0.5)


@pytest.mark.parametrize(("memory", "lags"), [(0.0, 5), (0.5, 60), (-0.4, 60)])
def test_an_autoregressive_series_has_the_variance_of_its_closed_form(memory, lags) -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(60):
        noise = rng.normal(size=3100)
        values = np.zeros(3100)
        for i in range(1, 3100):
            values[i] = memory * values[i - 1] + noise[i]
        found.append(long_run_variance(values[100:], lags))
    exact = 1.0 / (1.0 - memory) ** 2
    error = np.std(found, ddof=1) / np.sqrt(60)
    # n = 60 series, 4 standard errors, and the kernel's bias: sum of |h| gamma(h) / (lags + 1) over all h.
    bias = 2 * abs(memory) / (1 - abs(memory)) ** 2 / (1 - memory**2) / (lags + 1)
    assert abs(np.mean(found) - exact) <= 4 * error + bias


def test_edge_cases() -> None:
    assert long_run_variance(np.ones(30)) == 0.0
    assert long_run_variance(np.array([1.0, 3.0])) == pytest.approx(2.0)
    assert np.isnan(mean_of(np.array([])).mean)
    assert mean_of(np.array([2.0])).mean == 2.0
    assert np.isnan(mean_of(np.array([2.0])).standard_error)
    assert (num_lags(9), num_lags(10), num_lags(100), num_lags(400)) == (0, 2, 4, 5)


@pytest.mark.parametrize("trials", [1, 30, 365, 8760])
@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95])
def test_the_band_is_that_of_scipy(trials, probability) -> None:
    low, high = binomial_band(trials, probability, 0.01)
    law = stats.binom(trials, probability)
    assert round(high * trials) == law.ppf(0.995)
    assert round(low * trials) == law.ppf(0.005)
    assert law.cdf(high * trials) - law.cdf(low * trials - 1) >= 0.99


def test_many_trials_are_normal() -> None:
    low, high = binomial_band(1e6, 0.05, 0.01)
    law = stats.binom(1_000_000, 0.05)
    assert low == pytest.approx(law.ppf(0.005) / 1e6, abs=2e-6)
    assert high == pytest.approx(law.ppf(0.995) / 1e6, abs=2e-6)
    assert binomial_band(10, 1.0, 0.01) == (1.0, 1.0)
    assert binomial_band(0.3, 0.5, 0.01) == (0.0, 1.0)
