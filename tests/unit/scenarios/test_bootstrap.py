"""Block-bootstrap intervals against normal theory and their own promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.scenarios.bootstrap import block_bootstrap, resampled_rows


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rows_are_blocks_of_neighbors() -> None:
    rows = resampled_rows(30, seeded(), block_days=7, num_resamples=50).reshape(50, 30)
    assert rows.min() >= 0
    assert rows.max() < 30
    steps = rows.diff(dim=1)
    inside = torch.ones(29, dtype=torch.bool)
    inside[6::7] = False
    assert (steps[:, inside] == 1).all()
    assert (steps[:, ~inside] != 1).any()


def test_rows_of_one_block_are_the_days_themselves() -> None:
    assert (resampled_rows(5, seeded(), block_days=9, num_resamples=3) == torch.arange(5)).all()


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    interval = block_bootstrap(np.full(30, 2.5), seeded())
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2.5, 2.5, 2.5))
    assert interval.excludes_zero


def test_interval_has_the_width_of_the_normal_theory_for_independent_days() -> None:
    """For 400 independent days the half width is 1.96 sd / 20; blocks of one day resample it."""
    values = np.random.default_rng(1).normal(size=400)
    interval = block_bootstrap(values, seeded(), block_days=1, num_resamples=4000)
    half = (interval.high - interval.low) / 2
    # The quantile of 4000 resamples has a standard error of about 2.5 %: four of them.
    assert half == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low < interval.mean < interval.high


def test_blocks_widen_the_interval_of_days_that_last() -> None:
    rng = np.random.default_rng(2)
    lasting = np.repeat(rng.normal(size=60), 7)
    single = block_bootstrap(lasting, seeded(), block_days=1)
    weekly = block_bootstrap(lasting, seeded(), block_days=7)
    assert weekly.high - weekly.low > 1.7 * (single.high - single.low)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Over 200 series of 120 days, coverage of the 90 % interval within four standard errors (0.085)."""
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        interval = block_bootstrap(
            rng.normal(size=120), seeded(trial), level=0.9, block_days=3, num_resamples=400
        )
        hits += interval.low <= 0 <= interval.high
    assert 0.9 - 0.085 <= hits / 200 <= 0.9 + 0.085


def test_the_seed_decides_and_short_series_shorten_the_block() -> None:
    values = np.random.default_rng(4).normal(size=5)
    first, second = (block_bootstrap(values, seeded(9)) for _ in range(2))
    assert first == second
    assert first.block_days == 5
    assert block_bootstrap(values[:1], seeded()).low == pytest.approx(values[0])


def test_mistakes_are_named() -> None:
    with pytest.raises(ShapeError, match="finite, one a day"):
        block_bootstrap(np.array([1.0, np.nan]), seeded())
    with pytest.raises(ConfigError, match="level = "):
        block_bootstrap(np.ones(3), seeded(), level=1.5)
