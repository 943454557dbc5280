"""A program that decides every six hours, on a scenario tree, in CVXPY.

    python examples/tree_cvxpy.py

Water is released from a reservoir against an uncertain load; what is missing is bought. Each node of the tree
has its own release: what cannot be told apart cannot be decided apart.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from hedgecast.scenarios.tree import ScenarioTree, scenario_tree

WATER = 20.0
PRICES = np.repeat([30.0, 60.0, 90.0, 40.0], 6)


def loads(count: int = 400, steps: int = 24) -> np.ndarray:
    """(S, T, 1) made-up loads in GW."""
    draws = np.random.default_rng(3)
    return np.maximum(2 + draws.normal(size=(count, steps)).cumsum(axis=1) * 0.2, 0.0)[:, :, None]


def least_cost(tree: ScenarioTree) -> float:
    """Least expected cost of meeting the load, water used at each node as its history allows."""
    cost, limits, stored = 0.0, [], {0: cp.Constant(WATER)}
    first = 1
    for number, values in enumerate(tree.values):
        start = tree.starts[number]
        for place, load in enumerate(values[:, :, 0]):
            node = first + place
            release = cp.Variable(load.size, nonneg=True)
            stored[node] = stored[int(tree.parents[node])] - cp.sum(release)
            limits += [stored[node] >= 0, release <= load]
            cost += tree.probabilities[node] * (PRICES[start : start + load.size] @ (load - release))
        first += len(values)
    problem = cp.Problem(cp.Minimize(cost), limits)
    problem.solve(solver=cp.HIGHS)
    return float(problem.value)


def main() -> dict[str, float]:
    """Costs by name, printed too."""
    stages = [0, 6, 12, 18]
    tree = scenario_tree(loads(), stages=stages, branching=[4, 3, 2, 2])
    one = [1] * len(stages)
    mean = np.tensordot(tree.leaf_probabilities, tree.paths, axes=1)
    ahead = [least_cost(scenario_tree(path[None], stages=stages, branching=one)) for path in tree.paths]
    found = {
        "mean path": least_cost(scenario_tree(mean[None], stages=stages, branching=one)),
        "known ahead": float(tree.leaf_probabilities @ ahead),
        "decided at nodes": least_cost(tree),
    }
    print(f"{tree.num_nodes} nodes, {len(tree.leaves)} leaves at {tree.relative_distance:.0%} of the spread")
    print(", ".join(f"{name}: {cost:.1f}" for name, cost in found.items()))
    return found


if __name__ == "__main__":
    main()
