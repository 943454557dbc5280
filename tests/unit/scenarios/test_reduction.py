"""Reduction against Algorithm 2.4 to the letter, brute force, and transport plans by HiGHS."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from hedgecast.core.errors import ConfigError, DataError, ShapeError
from hedgecast.scenarios.quantile_set import quantile_set
from hedgecast.scenarios.reduction import FORWARD_LIMIT, Reduced, reduce_scenarios, reduce_set
from hedgecast.scenarios.scenario_set import ScenarioSet

Array = NDArray[np.float64]
CASES = [("forward-selection", 1), ("forward-selection", 2), ("k-means", 2)]


def cloud(size: int, seed: int, *, steps: int = 3, series: int = 2) -> tuple[Array, Array]:
    """Paths (S, T, F) with series of very different size, and unequal probabilities."""
    draws = np.random.default_rng(seed)
    paths = draws.normal(size=(size, steps, series)).cumsum(axis=1) * np.array([1.0, 250.0])[:series]
    weights = draws.uniform(0.2, 1.0, size=size)
    return paths, weights / weights.sum()


def costs(paths: Array, others: Array, order: int, scale: Array) -> Array:
    """(S, K) cost of moving each scenario to each kept one, one pair after the other."""
    return np.array([[np.linalg.norm((x - z) / scale) ** order for z in others] for x in paths])


def transport(cost: Array, weights: Array, masses: Array | None) -> float:
    """The least cost of moving ``weights`` to ``masses``, to any masses where they are None, by HiGHS."""
    S, K = cost.shape
    rows = np.kron(np.eye(S), np.ones(K))
    right = weights
    if masses is not None:
        rows, right = np.vstack([rows, np.kron(np.ones(S), np.eye(K))]), np.concatenate([weights, masses])
    found = linprog(cost.ravel(), A_eq=rows, b_eq=right, method="highs")
    assert found.status == 0
    return float(found.fun)


def naive_selection(cost: Array, weights: Array, count: int) -> list[int]:
    """Algorithm 2.4 as printed, with the matrix of all pairs; ties to the first."""
    left, picks, current = list(range(len(weights))), [], cost.copy()
    for _ in range(count):
        totals = {u: sum(weights[k] * current[k, u] for k in left if k != u) for u in left}
        pick = min(totals, key=totals.__getitem__)
        left.remove(pick)
        picks.append(pick)
        current = np.minimum(current, current[:, [pick]])
    return picks


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_selection_is_that_of_the_printed_algorithm(order: int, seed: int) -> None:
    paths, weights = cloud(60, seed)
    found = reduce_scenarios(paths, 25, probabilities=weights, method="forward-selection", order=order)
    assert found.indices is not None
    assert found.indices.tolist() == naive_selection(costs(paths, paths, order, found.scale), weights, 25)
    np.testing.assert_array_equal(found.paths, paths[found.indices])


@pytest.mark.parametrize("candidates", [1, 2, 32])
def test_bounds_of_earlier_steps_lose_no_winner(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgecast.scenarios.selection._CANDIDATES", candidates)
    paths, weights = cloud(300, 12)
    found = reduce_scenarios(paths, 60, probabilities=weights, method="forward-selection")
    points = (paths / found.scale).reshape(300, -1)
    current = np.sum((points[:, None] - points[None]) ** 2, axis=2)
    picks: list[int] = []
    for _ in range(60):
        picks.append(int((weights @ current + 1e9 * np.isin(np.arange(300), picks)).argmin()))
        current = np.minimum(current, current[:, [picks[-1]]])
    assert found.indices is not None
    assert found.indices.tolist() == picks


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_selection_is_no_better_than_brute_force_and_best_for_one(order: int, count: int) -> None:
    for seed in range(5):
        paths, weights = cloud(9, seed)
        found = reduce_scenarios(paths, count, probabilities=weights, method="forward-selection", order=order)
        table = costs(paths, paths, order, found.scale)
        best = min(
            weights @ table[:, list(kept)].min(axis=1) for kept in itertools.combinations(range(9), count)
        )
        assert found.distance**order >= best * (1 - 1e-12)
        if count == 1:
            assert found.distance**order == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_means_are_no_better_than_every_partition_and_best_for_one(count: int) -> None:
    equal = 0
    for seed in range(5):
        paths, weights = cloud(7, seed)
        found = reduce_scenarios(paths, count, probabilities=weights, method="k-means", seed=seed)
        points = (paths / found.scale).reshape(7, -1)
        best = np.inf
        for rest in itertools.product(range(count), repeat=6):
            labels = np.array([0, *rest])
            groups = [g for j in range(count) if (g := np.flatnonzero(labels == j)).size]
            means = [np.average(points[g], axis=0, weights=weights[g]) for g in groups]
            parts = zip(groups, means, strict=True)
            best = min(best, sum(np.sum((points[g] - m) ** 2, axis=1) @ weights[g] for g, m in parts))
        assert found.distance**2 >= best * (1 - 1e-12)
        equal += found.distance**2 <= best * (1 + 1e-9)
        if count == 1:
            assert found.distance == pytest.approx(found.spread, rel=1e-12)
    # Four starts find the best partition of seven points nearly always.
    assert equal >= 4


@pytest.mark.parametrize(("method", "order"), CASES)
def test_the_distance_is_that_of_a_transport_plan_and_no_probabilities_are_nearer(
    method: Any, order: int
) -> None:
    for seed in range(3):
        paths, weights = cloud(40, seed)
        found = reduce_scenarios(paths, 6, probabilities=weights, method=method, order=order)
        table = costs(paths, found.paths, order, found.scale)
        assert found.distance**order == pytest.approx(
            transport(table, weights, found.probabilities), rel=1e-8
        )
        assert found.distance**order == pytest.approx(transport(table, weights, None), rel=1e-8)
        mean = np.tensordot(weights, paths, axes=1)[None]
        spread = transport(costs(paths, mean, order, found.scale), weights, None)
        assert found.spread**order == pytest.approx(spread, rel=1e-8)
        assert 0 < found.relative_distance < 1


@pytest.mark.parametrize(("method", "order"), CASES)
def test_probabilities_are_those_of_the_nearest(method: Any, order: int) -> None:
    paths, weights = cloud(80, 1)
    found = reduce_scenarios(paths, 9, probabilities=weights, method=method, order=order)
    assert found.count == 9
    assert found.probabilities.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.probabilities.min() > 0
    np.testing.assert_array_equal(
        found.assignment, costs(paths, found.paths, order, found.scale).argmin(axis=1)
    )
    masses = [weights[found.assignment == j].sum() for j in range(9)]
    np.testing.assert_allclose(found.probabilities, masses, rtol=1e-12)


def test_means_keep_the_mean_and_stand_by_probability() -> None:
    paths, weights = cloud(200, 2)
    found = reduce_scenarios(paths, 12, probabilities=weights, method="k-means")
    assert found.indices is None
    assert (np.diff(found.probabilities) <= 0).all()
    # Where Lloyd's iteration has ended, every mean is that of the scenarios it stands for.
    for j in range(12):
        own = found.assignment == j
        np.testing.assert_allclose(
            found.paths[j], np.average(paths[own], axis=0, weights=weights[own]), rtol=1e-9, atol=1e-9
        )
    kept = np.tensordot(found.probabilities, found.paths, axes=1)
    np.testing.assert_allclose(kept, np.tensordot(weights, paths, axes=1), rtol=1e-9, atol=1e-9)


def same(one: Reduced, other: Reduced) -> None:
    np.testing.assert_allclose(one.paths, other.paths, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-9)
    assert one.distance == pytest.approx(other.distance, rel=1e-9)


@pytest.mark.parametrize(("method", "order"), CASES)
def test_order_units_and_origin_change_nothing(method: Any, order: int) -> None:
    paths, weights = cloud(50, 3)
    options: dict[str, Any] = {"method": method, "order": order, "seed": 4}
    plain = reduce_scenarios(paths, 7, probabilities=weights, **options)
    again = reduce_scenarios(paths, 7, probabilities=weights, **options)
    np.testing.assert_array_equal(plain.paths, again.paths)
    units = np.array([1e3, 1e-3])
    other = reduce_scenarios(paths * units + 5.0, 7, probabilities=weights, **options)
    assert other.distance == pytest.approx(plain.distance, rel=1e-9)
    np.testing.assert_array_equal(plain.assignment, other.assignment)
    if method == "forward-selection":
        shuffle = np.random.default_rng(0).permutation(50)
        moved = reduce_scenarios(paths[shuffle], 7, probabilities=weights[shuffle], **options)
        same(plain, moved)
        assert moved.indices is not None
        np.testing.assert_array_equal(shuffle[moved.indices], plain.indices)


@pytest.mark.parametrize(("method", "order"), CASES)
def test_splitting_a_scenario_changes_nothing(method: Any, order: int) -> None:
    paths, weights = cloud(30, 5)
    plain = reduce_scenarios(paths, 5, probabilities=weights, method=method, order=order)
    halves = np.concatenate([weights, weights[:10] / 2])
    halves[:10] /= 2
    twice = np.concatenate([paths, paths[:10]])
    split = reduce_scenarios(twice, 5, probabilities=halves, method=method, order=order)
    same(plain, split)
    np.testing.assert_array_equal(split.assignment[30:], split.assignment[:10])


@pytest.mark.parametrize(("method", "order"), CASES)
def test_all_scenarios_are_at_distance_zero(method: Any, order: int) -> None:
    paths, weights = cloud(12, 6)
    found = reduce_scenarios(paths, 12, probabilities=weights, method=method, order=order)
    assert found.distance == 0.0
    assert found.indices is not None
    np.testing.assert_array_equal(found.probabilities, weights[found.indices])
    assert sorted(found.indices.tolist()) == list(range(12))


@pytest.mark.parametrize("method", ["forward-selection", "k-means", "quantiles"])
def test_fewer_that_differ_than_asked_for_come_alone(method: Any) -> None:
    paths = np.array([[[1.0]], [[2.0]], [[1.0]], [[7.0]], [[2.0]], [[9.0]]])
    weights = np.array([0.1, 0.2, 0.3, 0.2, 0.2, 0.0])
    found = reduce_scenarios(paths, 5, probabilities=weights, method=method)
    assert found.indices is not None
    kept = dict(zip(found.indices.tolist(), found.probabilities.tolist(), strict=True))
    assert kept == pytest.approx({0: 0.4, 1: 0.4, 3: 0.2})
    assert found.distance == 0.0
    # What has no probability has a nearest scenario all the same.
    assert found.paths[found.assignment[5]].item() == 7.0


@pytest.mark.parametrize("seed", range(3))
def test_no_equally_likely_values_are_nearer_to_the_law_of_a_step_than_quantiles(seed: int) -> None:
    paths, weights = cloud(25, seed)
    few = reduce_scenarios(paths, 4, probabilities=weights, method="quantiles").paths
    values, equal, scale = paths[:, 2:, 1:], np.full(4, 0.25), np.ones((1, 1))
    best = transport(costs(values, few[:, 2:, 1:], 2, scale), weights, equal)
    draws = np.random.default_rng(seed)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            moved = few[:, 2:, 1:] + size * values.std() * draws.normal(size=(4, 1, 1))
            assert transport(costs(values, moved, 2, scale), weights, equal) > best


def test_quantiles_have_equal_probabilities_and_bound_the_distance_from_below() -> None:
    paths, weights = cloud(40, 7)
    found = reduce_scenarios(paths, 6, probabilities=weights, method="quantiles")
    assert (found.count, found.method, found.indices) == (6, "quantiles", None)
    np.testing.assert_array_equal(found.probabilities, np.full(6, 1 / 6))
    np.testing.assert_array_equal(found.paths, quantile_set(paths, weights, 6))
    table = costs(paths, found.paths, 2, found.scale)
    np.testing.assert_array_equal(found.assignment, table.argmin(axis=1))
    assert 0.0 < found.distance**2 <= transport(table, weights, found.probabilities)


def test_ties_go_to_the_first() -> None:
    corners = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[:, :, None]
    found = reduce_scenarios(corners, 2, method="forward-selection")
    assert found.indices is not None
    table = costs(corners, corners, 2, found.scale)
    assert found.indices.tolist() == naive_selection(table, np.full(4, 0.25), 2)
    assert found.indices[0] == 0


def test_the_first_of_a_selection_are_a_selection() -> None:
    paths, weights = cloud(70, 7)
    ten = reduce_scenarios(paths, 10, probabilities=weights, method="forward-selection")
    four = reduce_scenarios(paths, 4, probabilities=weights, method="forward-selection")
    assert ten.indices is not None
    assert four.indices is not None
    assert ten.indices[:4].tolist() == four.indices.tolist()
    assert ten.distance < four.distance


def test_a_scale_of_one_gives_the_distance_in_units_of_the_data() -> None:
    paths, _ = cloud(20, 8, series=1)
    plain, scaled = reduce_scenarios(paths, 3, scale=1.0), reduce_scenarios(paths, 3)
    size = np.sqrt(paths.var(axis=0).mean())
    np.testing.assert_allclose(scaled.scale, size, rtol=1e-12)
    assert plain.distance == pytest.approx(scaled.distance * size, rel=1e-12)
    np.testing.assert_array_equal(plain.paths, scaled.paths)


def test_series_that_never_vary_have_no_say() -> None:
    paths, weights = cloud(20, 9, series=1)
    flat = np.concatenate([paths, np.full_like(paths, 0.1)], axis=2)
    same_indices = reduce_scenarios(paths, 4, probabilities=weights).indices
    found = reduce_scenarios(flat, 4, probabilities=weights)
    np.testing.assert_array_equal(found.indices, same_indices)
    np.testing.assert_array_equal(found.scale[:, 1], 1.0)
    nothing = reduce_scenarios(np.ones((5, 2, 1)), 3)
    assert (nothing.count, nothing.distance, nothing.relative_distance) == (1, 0.0, 0.0)


def test_auto_takes_k_means_for_large_sets_and_selection_for_order_one() -> None:
    paths = np.random.default_rng(0).normal(size=(FORWARD_LIMIT + 1, 2, 1))
    assert reduce_scenarios(paths[1:], 2).method == "forward-selection"
    assert reduce_scenarios(paths, 2).method == "k-means"
    assert reduce_scenarios(paths, 2, order=1).method == "forward-selection"


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    paths, weights = cloud(60, 10)
    whole = reduce_scenarios(paths, 8, probabilities=weights)
    monkeypatch.setattr("hedgecast.scenarios.selection._BLOCK_BYTES", 8 * 60 * 7)
    blocks = reduce_scenarios(paths, 8, probabilities=weights)
    np.testing.assert_array_equal(whole.indices, blocks.indices)
    np.testing.assert_array_equal(whole.assignment, blocks.assignment)
    assert whole.distance == blocks.distance


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"paths": np.zeros((3, 2))}, ShapeError, r"must be \(scenarios, steps, series\)"),
        ({"paths": np.full((3, 2, 1), np.nan)}, DataError, r"scenario 0 has a value .* \(3 such scenarios\)"),
        ({"count": 0}, ConfigError, "asked for 0 of 3 scenarios"),
        ({"count": 4}, ConfigError, "asked for 4 of 3 scenarios"),
        ({"probabilities": [0.5, 0.5]}, ShapeError, r"must be \(3,\)"),
        ({"probabilities": [0.5, 0.5, 0.5]}, DataError, "sum 1.5"),
        ({"probabilities": [1.5, -0.5, 0.0]}, DataError, "minimum -0.5"),
        ({"probabilities": [np.nan, 0.5, 0.5]}, DataError, "sum nan"),
        ({"method": "backward"}, ConfigError, "method 'backward': must be one of auto"),
        ({"order": 3}, ConfigError, "order 3"),
        ({"method": "k-means", "order": 1}, ConfigError, "k-means is for order 2"),
        ({"scale": [1.0, 0.0]}, ConfigError, "scale has an entry"),
        ({"scale": [1.0, 1.0, 1.0]}, ShapeError, r"must broadcast to \(steps, series\) = \(2, 2\)"),
    ],
)
def test_wrong_use_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"paths": np.arange(12.0).reshape(3, 2, 2), "count": 2, **change}
    with pytest.raises(error, match=message):
        reduce_scenarios(arguments.pop("paths"), arguments.pop("count"), **arguments)


def test_a_set_is_reduced_context_by_context() -> None:
    first, _ = cloud(20, 11)
    second = np.repeat(first[:2], 10, axis=0)
    full = ScenarioSet(
        paths=torch.from_numpy(np.stack([first, second])).float(),
        names=("load", "price"),
        units=("GW", "EUR"),
        source="model:3",
        seed=5,
    )
    reduced, parts = reduce_set(full, 4)
    assert reduced.paths.shape == (2, 4, 3, 2)
    assert reduced.paths.dtype == torch.float32
    assert [part.count for part in parts] == [4, 2]
    assert reduced.probabilities is not None
    torch.testing.assert_close(reduced.probabilities.sum(dim=1), torch.ones(2))
    assert reduced.probabilities[1].tolist() == [0.5, 0.5, 0.0, 0.0]
    torch.testing.assert_close(reduced.paths[1, 3], reduced.paths[1, 1])
    assert (reduced.seed, reduced.names) == (5, full.names)
    assert reduced.source == "model:3, forward-selection from 20"
    alone, _ = reduce_set(full.contexts(0, 1), 4)
    torch.testing.assert_close(alone.paths[0], reduced.paths[0])
