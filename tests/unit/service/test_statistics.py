"""Weighted quantiles and standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hedgecast.service.statistics import quantiles, standard_error

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)


def test_equal_weights_give_the_inverse_distribution_function() -> None:
    values = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.full((40,), 1 / 40, dtype=torch.float64)
    expected = np.quantile(values.numpy(), LEVELS, method="inverted_cdf")
    np.testing.assert_array_equal(quantiles(values, weights, LEVELS), expected)


def test_splitting_a_scenario_and_permuting_change_nothing() -> None:
    values = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    split = torch.tensor([2.0, 3.0, 1.0, 3.0], dtype=torch.float64)
    split_weights = torch.tensor([0.2, 0.25, 0.3, 0.25], dtype=torch.float64)
    assert torch.equal(quantiles(values, weights, LEVELS), quantiles(split, split_weights, LEVELS))
    assert quantiles(values, weights, (0.3, 0.31, 0.51)).tolist() == [1.0, 2.0, 3.0]


def test_zero_probability_never_counts() -> None:
    values = torch.tensor([math.inf, 1.0], dtype=torch.float64)
    weights = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert quantiles(values, weights, (0.0, 1.0)).tolist() == [1.0, 1.0]
    values = torch.tensor([1.0, math.inf, 3.0, math.nan], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    assert float(standard_error(values, weights)) == pytest.approx(1.0)


def test_one_value_is_every_quantile_and_has_no_error() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert quantiles(7 * one, one, LEVELS).tolist() == [7.0] * len(LEVELS)
    assert standard_error(7 * one, one) == 0.0


def test_figures_of_a_batch_are_those_of_each_member_alone() -> None:
    draws = torch.Generator().manual_seed(4)
    values = torch.randn(2, 3, 30, generator=draws, dtype=torch.float64)
    raw = torch.rand(2, 3, 30, generator=draws, dtype=torch.float64)
    # Members differ in how many of their scenarios count.
    weights = torch.where(raw < torch.tensor([0.0, 0.3, 0.9])[:, None], 0.0, raw)
    weights[1, 2] = torch.eye(30, dtype=torch.float64)[7]
    weights = weights / weights.sum(dim=-1, keepdim=True)
    levels, errors = quantiles(values, weights, LEVELS), standard_error(values, weights)
    assert levels.shape == (2, 3, len(LEVELS))
    for row in range(2):
        for member in range(3):
            alone = (values[row, member], weights[row, member])
            assert torch.equal(levels[row, member], quantiles(*alone, LEVELS))
            assert float(errors[row, member]) == pytest.approx(float(standard_error(*alone)), rel=1e-12)


def test_the_error_of_equal_weights_is_the_textbook_one() -> None:
    values = torch.randn(25, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.full((25,), 1 / 25, dtype=torch.float64)
    assert float(standard_error(values, weights)) == pytest.approx(float(values.std()) / 5)
    assert float(standard_error(3 * values + 1, weights)) == pytest.approx(
        3 * float(standard_error(values, weights))
    )


def test_the_error_tells_how_far_weighted_means_scatter() -> None:
    """2,000 importance samples of 200: the stated error within 10 % of the scatter (about 3 s.e. of it)."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(2000, 200, generator=generator, dtype=torch.float64)
    raw = torch.exp(0.3 * torch.randn(2000, 200, generator=generator, dtype=torch.float64))
    weights = raw / raw.sum(dim=1, keepdim=True)
    scatter = float((weights * values).sum(dim=1).std())
    stated = float(standard_error(values[:200], weights[:200]).mean())
    assert stated == pytest.approx(scatter, rel=0.1)
