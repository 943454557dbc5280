from __future__ import annotations

import numpy as np
import pytest

from hedgecast.core.errors import ShapeError
from hedgecast.diffusion.noise import day_numbers, scenario_noise


@pytest.mark.parametrize("dim", [1, 7, 8, 24, 50])
def test_the_first_100_of_1000_are_the_100(dim: int) -> None:
    many = scenario_noise(3, [17_000, -5], 1000, dim)
    few = scenario_noise(3, [17_000, -5], 100, dim)
    assert np.array_equal(many[:, :100], few)


def test_a_chunk_may_start_anywhere() -> None:
    whole = scenario_noise(1, [42], 50, 24)
    assert np.array_equal(whole[:, 13:31], scenario_noise(1, [42], 18, 24, start=13))


def test_a_context_does_not_depend_on_its_batch() -> None:
    batch = scenario_noise(0, [3, 1, 2], 20, 5)
    for row, context in enumerate([3, 1, 2]):
        assert np.array_equal(batch[row], scenario_noise(0, [context], 20, 5)[0])


def test_seeds_and_contexts_give_different_noise() -> None:
    draws = [scenario_noise(seed, [context], 1, 8) for seed in (0, 1, -1) for context in (0, 1, -1)]
    assert len({draw.tobytes() for draw in draws}) == 9


def test_the_stream_is_the_same_in_every_release() -> None:
    # Written down once: a served model must give tomorrow what it gave yesterday.
    expected = [1.3419191, 0.62468529, -1.7371241, 1.7827849]
    np.testing.assert_allclose(scenario_noise(7, [18_262], 1, 4)[0, 0], expected, rtol=1e-6)


def test_moments_are_those_of_a_standard_normal() -> None:
    count = 200_000
    values = scenario_noise(11, [0], count, 4)[0].astype(np.float64)
    # Standard errors of mean, variance and fourth moment of n normals: sqrt of 1/n, 2/n and 96/n.
    assert np.all(np.abs(values.mean(axis=0)) < 5 / count**0.5)
    assert np.all(np.abs((values**2).mean(axis=0) - 1) < 5 * (2 / count) ** 0.5)
    assert np.all(np.abs((values**4).mean(axis=0) - 3) < 5 * (96 / count) ** 0.5)
    correlation = values.T @ values / count - np.eye(4)
    assert np.abs(correlation - np.diag(np.diag(correlation))).max() < 5 / count**0.5


def test_no_word_is_shared_by_neighboring_scenarios() -> None:
    values = scenario_noise(0, [9], 500, 3)[0]
    assert len(np.unique(values)) == values.size


@pytest.mark.parametrize(("count", "dim", "start"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_impossible_sizes_are_refused(count: int, dim: int, start: int) -> None:
    with pytest.raises(ShapeError, match="at least"):
        scenario_noise(0, [0], count, dim, start=start)


def test_day_numbers_count_from_1970() -> None:
    days = np.array(["1970-01-02", "1969-12-31", "2020-01-01"], dtype="datetime64[D]")
    assert day_numbers(days).tolist() == [1, -1, 18_262]
