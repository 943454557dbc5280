from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hedgecast.learning.methods.ridge import fit_baselines
from hedgecast.learning.methods.ridge_scaled import RecentSize, ScaledRidgeResidual, fit_scaled
from hedgecast.learning.part import Part

NUM_TRAIN = 600


def errors_of_changing_size(rows: int = 800) -> Part:
    """Size doubles and halves by turns of forty days."""
    draws = np.random.default_rng(0)
    context = draws.normal(size=(rows, 2))
    size = np.where((np.arange(rows) // 40) % 2 == 0, 1.0, 4.0)[:, None]
    targets = 10 + context[:, :1] + size * draws.normal(size=(rows, 6)) * np.array([1, 1, 1, 5, 5, 5])
    return Part.of_arrays(context, targets)


@pytest.fixture(scope="module")
def whole() -> Part:
    return errors_of_changing_size()


@pytest.fixture(scope="module")
def scaled(whole: Part) -> ScaledRidgeResidual:
    train = whole.select(slice(NUM_TRAIN))
    return fit_scaled(train, fit_baselines(train)[1])


def test_the_size_is_the_weighted_mean_of_what_was_known() -> None:
    days = np.arange(10).astype("datetime64[D]")
    squares = np.random.default_rng(0).uniform(0.5, 3, size=10)
    found = RecentSize(2.0, 3.0)(days, days, squares, 2)
    for day in range(10):
        known = [(0.5 ** ((day - 2 - past) / 2.0), squares[past]) for past in range(day - 1)]
        total = 3.0 + sum(weight for weight, _ in known)
        by_hand = (3.0 + sum(weight * square for weight, square in known)) / total
        assert found[day] == pytest.approx(by_hand**0.5)


def test_an_unknown_past_gives_size_one() -> None:
    size = RecentSize(5.0, 1.0)
    days = np.array(["2020-06-01"], dtype="datetime64[D]")
    assert size(days, days, np.array([9.0]), 1) == 1.0
    # A year away: the prior is all that is left.
    later = days + np.timedelta64(365, "D")
    assert size(later, days, np.array([9.0]), 1) == pytest.approx(1.0)


def test_sizes_follow_errors_of_changing_size(scaled: ScaledRidgeResidual, whole: Part) -> None:
    sizes = scaled.sizes(whole.select(slice(NUM_TRAIN, None)))
    wide = (np.arange(NUM_TRAIN, len(whole)) // 40) % 2 == 1
    # Days well inside a turn.
    inside = np.arange(len(sizes)) % 40 > 15
    # The prior draws both towards one, so less than the true factor of four.
    assert 2.5 < sizes[wide & inside].mean() / sizes[~wide & inside].mean() < 4.0
    assert scaled.size.half_life <= 14


def test_the_scaled_residuals_are_of_one_size(scaled: ScaledRidgeResidual) -> None:
    squares = (scaled.scaled / scaled.entry_size).square().mean(dim=1)
    assert float(squares.mean()) == pytest.approx(1.0, abs=0.15)
    turns = (torch.arange(NUM_TRAIN) // 40) % 2
    raw = torch.from_numpy(scaled.squares)
    assert float(raw[turns == 1].mean() / raw[turns == 0].mean()) > 12
    assert float(squares[turns == 1].mean() / squares[turns == 0].mean()) < 4


def test_nothing_of_a_day_or_after_it_is_read(scaled: ScaledRidgeResidual, whole: Part) -> None:
    row = NUM_TRAIN + 50
    later = whole.targets.clone()
    later[row:] *= 100
    changed = dataclasses.replace(whole, targets=later)
    chosen = np.array([NUM_TRAIN + 10, row])
    before, after = (scaled.scenarios(part.select(chosen), 7, 0).paths for part in (whole, changed))
    assert torch.equal(before, after)
    # And the days before it are read.
    earlier = whole.targets.clone()
    earlier[row - 1] += 100
    read = scaled.scenarios(dataclasses.replace(whole, targets=earlier).select(chosen), 7, 0).paths
    assert not torch.equal(read[1], before[1])
    assert torch.equal(read[0], before[0])


def test_days_whose_outcome_comes_late_are_not_read_before(scaled: ScaledRidgeResidual, whole: Part) -> None:
    row = NUM_TRAIN + 50
    earlier = whole.targets.clone()
    earlier[row - 1] += 100
    slow = [dataclasses.replace(whole, targets=t, days_to_outcome=2) for t in (whole.targets, earlier)]
    first, second = (scaled.scenarios(part.select(np.array([row])), 7, 0).paths for part in slow)
    assert torch.equal(first, second)


def test_equal_sizes_give_the_plain_residuals(whole: Part) -> None:
    train = whole.select(slice(NUM_TRAIN))
    plain = fit_baselines(train)[1]
    # A prior that outweighs all days: every size is one.
    flat = dataclasses.replace(fit_scaled(train, plain), size=RecentSize(1.0, 1e15), scaled=plain.residuals)
    test = whole.select(slice(NUM_TRAIN, None))
    torch.testing.assert_close(flat.scenarios(test, 9, 2).paths, plain.scenarios(test, 9, 2).paths)
