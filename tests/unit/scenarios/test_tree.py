"""Trees against every clustering of a tiny set, transport plans by HiGHS, and what a tree is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from hedgecast.core.errors import ConfigError, DataError, ShapeError
from hedgecast.scenarios.tree import ScenarioTree, scenario_tree

Array = NDArray[np.float64]


def walks(size: int, seed: int, *, steps: int = 6, series: int = 2) -> tuple[Array, Array]:
    draws = np.random.default_rng(seed)
    paths = draws.normal(size=(size, steps, series)).cumsum(axis=1) * np.array([1.0, 80.0])[:series]
    weights = draws.uniform(0.5, 1.5, size=size)
    return paths, weights / weights.sum()


def some_tree(method: Any = "k-means", size: int = 300) -> tuple[ScenarioTree, Array, Array]:
    paths, weights = walks(size, 0)
    tree = scenario_tree(paths, stages=[0, 1, 3], branching=[4, 3, 2], probabilities=weights, method=method)
    return tree, paths, weights


@pytest.mark.parametrize("method", ["k-means", "forward-selection"])
def test_a_tree_is_one(method: Any) -> None:
    tree, paths, weights = some_tree(method)
    assert tree.parents[0] == -1
    assert [int((tree.stage_of == k).sum()) for k in range(4)] == [1, 4, 12, 24]
    assert tree.num_nodes == 41
    np.testing.assert_array_equal(tree.stage_of[1:], tree.stage_of[tree.parents[1:]] + 1)
    for node in np.flatnonzero(tree.stage_of < 3):
        children = np.flatnonzero(tree.parents == node)
        np.testing.assert_array_equal(np.diff(children), 1)
        assert tree.probabilities[children].sum() == pytest.approx(tree.probabilities[node], rel=1e-12)
        assert tree.conditional_probabilities[children].sum() == pytest.approx(1.0, rel=1e-12)
    assert tree.probabilities[0] == 1.0
    assert tree.leaf_probabilities.min() > 0
    masses = np.bincount(tree.assignment, weights, minlength=24)
    np.testing.assert_allclose(tree.leaf_probabilities, masses, rtol=1e-9)
    assert tree.paths.shape == (24, *paths.shape[1:])
    assert [part.shape[1] for part in tree.values] == [1, 2, 3]


def test_what_shares_a_node_shares_its_history() -> None:
    tree, _, _ = some_tree()
    for a, b in itertools.combinations(range(24), 2):
        shared = tree.histories[a] == tree.histories[b]
        # Once apart, never together again.
        assert shared.tolist() == sorted(shared.tolist(), reverse=True)
        known = [0, 1, 3][int(shared.sum())]
        np.testing.assert_array_equal(tree.paths[a, :known], tree.paths[b, :known])
    names = tree.names
    assert names[:6] == ["ROOT", "ROOT_0", "ROOT_1", "ROOT_2", "ROOT_3", "ROOT_0_0"]
    assert len(set(names)) == 41
    for node in range(1, 41):
        assert names[node].rpartition("_")[0] == names[tree.parents[node]]


def test_a_scenario_goes_on_in_the_child_nearest_to_its_next_values() -> None:
    tree, paths, _ = some_tree()
    firsts = [int(np.flatnonzero(tree.stage_of == k + 1)[0]) for k in range(3)]
    for path, leaf in zip(paths, tree.assignment, strict=True):
        node = 0
        for k, (start, end) in enumerate(((0, 1), (1, 3), (3, 6))):
            children = np.flatnonzero(tree.parents == node)
            gaps = (tree.values[k][children - firsts[k]] - path[start:end]) / tree.scale[start:end]
            node = int(children[np.sum(gaps**2, axis=(1, 2)).argmin()])
            assert node == tree.histories[leaf, k]


def test_means_keep_conditional_means() -> None:
    tree, paths, weights = some_tree()
    mean = np.tensordot(tree.leaf_probabilities, tree.paths, axes=1)
    np.testing.assert_allclose(mean, np.tensordot(weights, paths, axes=1), rtol=1e-9, atol=1e-9)
    for node in np.unique(tree.histories[:, 1]):
        under = np.flatnonzero(tree.histories[:, 1] == node)
        own = np.isin(tree.assignment, under)
        expected = np.average(paths[own, 3:], axis=0, weights=weights[own])
        found = np.average(tree.paths[under, 3:], axis=0, weights=tree.leaf_probabilities[under])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_selected_values_are_values_of_the_nodes_own_scenarios() -> None:
    tree, paths, _ = some_tree("forward-selection")
    for leaf, path in enumerate(tree.paths):
        own = paths[tree.assignment == leaf]
        assert (own[:, 3:] == path[3:]).all(axis=(1, 2)).any()
        # Earlier values are those of another scenario that shared the node.
        before = paths[
            np.isin(tree.assignment, np.flatnonzero(tree.histories[:, 0] == tree.histories[leaf, 0]))
        ]
        assert (before[:, 0] == path[0]).all(axis=1).any()


def best_split(points: Array, weights: Array, count: int) -> float:
    """The least within-cluster cost over every clustering."""
    best = np.inf
    for labels in itertools.product(range(count), repeat=len(points)):
        cost = 0.0
        for j in set(labels):
            own = np.array(labels) == j
            mean = np.average(points[own], axis=0, weights=weights[own])
            cost += weights[own] @ np.sum((points[own] - mean) ** 2, axis=1)
        best = min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_every_node_of_a_tiny_set_is_split_as_brute_force_does(seed: int) -> None:
    paths, weights = walks(8, seed, steps=2, series=1)
    tree = scenario_tree(paths, stages=[0, 1], branching=[2, 2], probabilities=weights, seed=seed)
    points = (paths / tree.scale)[:, :, 0]
    total = best_split(points[:, :1], weights, 2)
    first = tree.histories[tree.assignment, 0]
    for node in (1, 2):
        own = first == node
        total += best_split(points[own, 1:], weights[own], 2)
    assert tree.distance**2 == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("method", ["k-means", "forward-selection"])
def test_the_distance_is_a_plans_cost_and_not_below_the_best_plans(method: Any) -> None:
    tree, paths, weights = some_tree(method, size=60)
    table = np.array([[np.sum(((x - z) / tree.scale) ** 2) for z in tree.paths] for x in paths])
    plan = np.zeros_like(table)
    plan[np.arange(60), tree.assignment] = weights
    np.testing.assert_allclose(plan.sum(axis=0), tree.leaf_probabilities, rtol=1e-9)
    assert tree.distance**2 == pytest.approx((plan * table).sum(), rel=1e-12)
    L = len(tree.leaf_probabilities)
    rows = np.vstack([np.kron(np.eye(60), np.ones(L)), np.kron(np.ones(60), np.eye(L))])
    best = linprog(table.ravel(), A_eq=rows, b_eq=np.concatenate([weights, tree.leaf_probabilities]))
    assert best.status == 0
    assert 0 < best.fun <= tree.distance**2 * (1 + 1e-9)
    assert 0 < tree.relative_distance < 1


def test_limits_are_the_mean_and_the_scenarios_themselves() -> None:
    paths, weights = walks(20, 3)
    mean = scenario_tree(paths, stages=[0, 2, 4], branching=[1, 1, 1], probabilities=weights)
    np.testing.assert_allclose(mean.paths[0], np.tensordot(weights, paths, axes=1), rtol=1e-12)
    assert mean.distance == pytest.approx(mean.spread, rel=1e-12)
    fan = scenario_tree(paths, stages=[0, 2, 4], branching=[20, 1, 1], probabilities=weights)
    assert fan.distance == 0.0
    np.testing.assert_array_equal(fan.paths[fan.assignment], paths)
    np.testing.assert_allclose(fan.leaf_probabilities[fan.assignment], weights, rtol=1e-12)


def test_more_branches_are_nearer_and_units_and_seeds_change_nothing() -> None:
    paths, weights = walks(200, 4)
    options: dict[str, Any] = {"stages": [0, 3], "probabilities": weights}
    trees = [scenario_tree(paths, branching=[n, n], **options) for n in (1, 2, 4, 8)]
    distances = [tree.distance for tree in trees]
    assert distances == sorted(distances, reverse=True)
    again = scenario_tree(paths, branching=[4, 4], **options)
    np.testing.assert_array_equal(again.paths, trees[2].paths)
    other = scenario_tree(paths * np.array([1e3, 1e-3]), branching=[4, 4], **options)
    np.testing.assert_array_equal(other.assignment, trees[2].assignment)
    assert other.distance == pytest.approx(trees[2].distance, rel=1e-9)


def test_scenarios_without_probability_are_in_no_leaf_of_their_own() -> None:
    paths = np.array([[0.0, 0.0], [0.0, 1.0], [5.0, 5.0], [9.0, 9.0]])[:, :, None]
    tree = scenario_tree(paths, stages=[0, 1], branching=[4, 4], probabilities=[0.25, 0.25, 0.5, 0.0])
    assert sorted(tree.leaf_probabilities.tolist()) == [0.25, 0.25, 0.5]
    assert tree.distance == 0.0
    assert tree.paths[tree.assignment[3], 0] == 5.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"stages": [1, 2]}, ConfigError, "must be first steps, from 0 on"),
        ({"stages": [0, 0]}, ConfigError, r"stages \[0, 0\] of 3 steps"),
        ({"stages": [0, 3]}, ConfigError, "rising below 3"),
        ({"stages": [], "branching": []}, ConfigError, "must be first steps"),
        ({"branching": [2]}, ConfigError, r"branching \[2\] for 2 stages"),
        ({"branching": [2, 0]}, ConfigError, "at least 1"),
        ({"probabilities": [1.0]}, ShapeError, r"must be \(4,\)"),
        ({"paths": np.full((4, 3, 1), np.inf)}, DataError, "not finite"),
        ({"method": "by hand"}, ConfigError, "method 'by hand'"),
    ],
)
def test_wrong_use_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "paths": np.arange(12.0).reshape(4, 3, 1), "stages": [0, 1], "branching": [2, 2], **change,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        scenario_tree(arguments.pop("paths"), **arguments)
