"""Scenarios that keep the law of each step: slices by another way, ranks, and what a newsvendor gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from hedgecast.core.errors import ShapeError
from hedgecast.scenarios.quantile_set import quantile_set, quantile_sets

Array = NDArray[np.float64]


def walks(size: int, seed: int) -> tuple[Array, Array]:
    """Walks (S, 4, 2) of two series, and unequal probabilities."""
    draws = np.random.default_rng(seed)
    weights = draws.uniform(0.2, 1.0, size=size)
    return draws.normal(size=(size, 4, 2)).cumsum(axis=1) * np.array([1.0, 250.0]), weights / weights.sum()


def equal(size: int) -> Array:
    return np.full(size, 1.0 / size)


def test_each_slice_of_equal_draws_is_its_mean() -> None:
    paths, _ = walks(60, 0)
    few = quantile_set(paths, equal(60), 12)
    slices = np.sort(paths, axis=0).reshape(12, 5, 4, 2).mean(axis=1)
    np.testing.assert_allclose(np.sort(few, axis=0), slices, rtol=1e-12, atol=1e-12)


def test_means_of_all_steps_are_kept_whatever_the_probabilities() -> None:
    paths, weights = walks(50, 1)
    few = quantile_set(paths, weights, 7)
    np.testing.assert_allclose(few.mean(axis=0), np.tensordot(weights, paths, axes=1), rtol=1e-9, atol=1e-9)
    assert (few.min(axis=0) >= paths.min(axis=0)).all()
    assert (few.max(axis=0) <= paths.max(axis=0)).all()


def test_splitting_a_scenario_keeps_the_law_of_each_step() -> None:
    paths, weights = walks(30, 2)
    halves = np.concatenate([weights, weights[:10] / 2])
    halves[:10] /= 2
    split = quantile_set(np.concatenate([paths, paths[:10]]), halves, 6)
    plain = quantile_set(paths, weights, 6)
    np.testing.assert_allclose(np.sort(split, axis=0), np.sort(plain, axis=0), rtol=1e-9, atol=1e-9)


def test_ranks_are_those_of_scenarios_at_equal_distances() -> None:
    paths, _ = walks(40, 3)
    few = quantile_set(paths, equal(40), 8)
    followed = paths[2::5]
    np.testing.assert_array_equal(rankdata(few, axis=0), rankdata(followed, axis=0))


def test_what_has_no_probability_is_neither_followed_nor_in_a_slice() -> None:
    paths, _ = walks(40, 4)
    weights = np.where(np.arange(40) % 2, 0.0, 1.0 / 20)
    far = paths + 1e6 * (weights == 0.0)[:, None, None]
    np.testing.assert_allclose(
        quantile_set(far, weights, 5), quantile_set(paths[::2], equal(20), 5), rtol=1e-9, atol=1e-9
    )


def test_a_value_that_never_varies_stays_to_the_last_digit() -> None:
    paths = np.concatenate(
        [np.full((30, 1, 1), 0.1), np.zeros((30, 1, 1)), walks(30, 5)[0][:, :1, :1]], axis=1
    )
    few = quantile_set(paths, walks(30, 5)[1], 4)
    assert (few[:, 0] == 0.1).all()
    assert (few[:, 1] == 0.0).all()


def test_ties_follow_the_order_of_the_set() -> None:
    demand = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 8.0])[:, None, None] * np.ones((1, 2, 1))
    few = quantile_set(demand, equal(8), 4)
    np.testing.assert_array_equal(few[:, 0, 0], [0.0, 0.0, 0.0, 6.0])
    np.testing.assert_array_equal(few[:, 0], few[:, 1])


def test_a_quantile_of_few_is_nearer_than_that_of_as_many_draws() -> None:
    # Of 25 draws the largest stands for the 0.99 quantile; of slices the mean of the upper 4 % does.
    draws = np.random.default_rng(6).normal(size=(200, 1000, 1, 1))
    exact = 2.3263
    drawn = draws[:, :25].max(axis=1).ravel()
    kept = np.array([quantile_set(one, equal(1000), 25).max() for one in draws])
    assert np.sqrt(np.mean((kept - exact) ** 2)) < 0.4 * np.sqrt(np.mean((drawn - exact) ** 2))


@pytest.mark.parametrize("count", [1, 5, 10, 20, 60])
def test_sets_of_a_batch_are_those_of_each(count: int) -> None:
    contexts = [walks(60, seed)[0] for seed in (8, 9)]
    found = quantile_sets(torch.from_numpy(np.stack(contexts)), count)
    for one, paths in zip(found.numpy(), contexts, strict=True):
        np.testing.assert_allclose(one, quantile_set(paths, equal(60), count), rtol=1e-10, atol=1e-9)


def test_the_slope_of_a_batch_is_that_of_finite_differences() -> None:
    paths = torch.from_numpy(walks(12, 10)[0][None]).requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: quantile_sets(moved, 4), paths)


def test_slices_of_unequal_size_are_refused() -> None:
    with pytest.raises(ShapeError, match="60 scenarios have no 7 slices of equal size"):
        quantile_sets(torch.zeros(1, 60, 2, 1), 7)
