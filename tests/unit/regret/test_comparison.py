from __future__ import annotations

import numpy as np
import pytest

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.regret.comparison import Comparison

DAYS, SEEDS = 200, 3


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    draws = np.random.default_rng(0)
    world = 10 + 5 * draws.normal(size=DAYS)
    seeds = np.array([[-0.2], [0.0], [0.2]])
    return Comparison(
        world - 8,
        {
            "base": np.tile(world, (SEEDS, 1)),
            "better": world - 0.5 + seeds + 0.1 * draws.normal(size=(SEEDS, DAYS)),
            "alike": world + 0.5 * draws.normal(size=(SEEDS, DAYS)),
        },
        baseline="base",
    )


def test_days_are_paired(comparison: Comparison) -> None:
    base, better, alike = comparison.standings()
    # The world's spread, five a day, is in the cost's own interval and not in the difference's.
    assert better.cost.high - better.cost.low > 0.8
    assert better.difference.high - better.difference.low < 0.1
    assert better.difference.mean == pytest.approx(-0.5, abs=0.05)
    assert better.difference.high < 0 < alike.difference.high
    assert alike.difference.low < 0
    assert (base.difference.mean, base.difference.low, base.difference.high) == (0.0, 0.0, 0.0)
    assert [standing.is_baseline for standing in (base, better, alike)] == [True, False, False]


def test_the_spread_of_seeds_stands_apart(comparison: Comparison) -> None:
    base, better, _ = comparison.standings()
    assert base.seed_deviation == 0.0
    assert better.seed_deviation == pytest.approx(0.2, abs=0.02)
    assert len(better.seed_costs) == SEEDS
    assert np.mean(better.seed_costs) == pytest.approx(better.cost.mean)


def test_one_seed_has_no_spread(comparison: Comparison) -> None:
    single = Comparison(comparison.best, {"base": comparison.costs["base"][:1]}, baseline="base")
    assert single.standings()[0].seed_deviation is None


def test_regret_is_against_the_known_day(comparison: Comparison) -> None:
    base = comparison.standings()[0]
    assert base.regret == pytest.approx(8.0)
    worst = np.sort(comparison.costs["base"][0])[-DAYS // 10 :]
    assert base.cost_cvar == pytest.approx(worst.mean())


def test_pairs_are_antisymmetric_and_add_up(comparison: Comparison) -> None:
    pairs = {(first, second): interval for first, second, interval in comparison.pairs()}
    assert set(pairs) == {("better", "base"), ("alike", "base"), ("alike", "better")}
    turned = comparison.difference("base", "better")
    assert turned.mean == pytest.approx(-pairs["better", "base"].mean)
    assert turned.low == pytest.approx(-pairs["better", "base"].high)
    assert pairs["alike", "better"].mean == pytest.approx(
        pairs["alike", "base"].mean - pairs["better", "base"].mean
    )


def test_wrong_costs_are_refused(comparison: Comparison) -> None:
    with pytest.raises(ConfigError, match="baseline 'none' is none of base"):
        Comparison(comparison.best, {"base": comparison.costs["base"]}, baseline="none")
    with pytest.raises(ShapeError, match=r"costs of 'base' have shape \(200,\)"):
        Comparison(comparison.best, {"base": comparison.costs["base"][0]}, baseline="base")
