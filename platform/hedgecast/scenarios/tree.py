"""Scenario trees: what may be known at each stage, for programs that decide more than once.

The horizon is cut into stages of consecutive steps. At the root nothing has been seen; a node of stage k
holds the values of that stage's steps and has the history of its ancestors. Scenarios are clustered from
the root on: those of a node by the values of the next stage alone, so that two scenarios share a node
exactly as long as their histories fell into the same clusters. A decision taken at a node can then know
nothing else (non-anticipativity).

The distance that a tree states is a plain one, between the laws of whole paths: the cost of the plan that
sends every scenario to its own leaf,

    (sum_s p_s |(x_s - leaf(x_s)) / scale|^2)^(1/2)  >=  W_2

It is not the nested distance, which also compares what is known when. Between a tree and single scenarios
that one mostly says that a single scenario is known to the end once its first values are.

Source: Heitsch and Roemisch (2009), forward construction, https://doi.org/10.1007/s10107-007-0197-2;
Pflug and Pichler (2012) on the nested distance, https://doi.org/10.1137/110825054.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgecast.core.errors import ConfigError
from hedgecast.scenarios.reduction import checked_paths, difference_scales, reduce_scenarios

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenarioTree:
    """A tree of V nodes, stage by stage, the children of a node side by side; node 0 is the root."""

    parents: Integers
    """(V,) number of the parent; -1 for the root."""
    stage_of: Integers
    """(V,) 0 for the root, 1 to K for the others."""
    probabilities: Floats
    """(V,) of passing through the node: 1 at the root, those of children sum to their parent's."""
    values: tuple[Floats, ...]
    """K arrays (nodes of the stage, its steps, F) in the units of the data."""
    starts: tuple[int, ...]
    """K first steps of the stages."""
    assignment: Integers
    """(S,) leaf, from 0, that stands for each scenario of the full set."""
    distance: float
    """Plain distance, see above, in units of ``scale``."""
    spread: float
    """The same between the full set and its mean alone."""
    scale: Floats
    """(T, F) what differences were divided by."""

    @property
    def num_nodes(self) -> int:
        """Nodes, V."""
        return int(self.parents.size)

    @property
    def num_stages(self) -> int:
        """Stages after the root, K."""
        return len(self.starts)

    @property
    def leaves(self) -> Integers:
        """(L,) numbers of the nodes of the last stage."""
        return np.flatnonzero(self.stage_of == self.num_stages)

    @functools.cached_property
    def histories(self) -> Integers:
        """(L, K) the node of every stage on the way to each leaf; as long as two rows agree, so do paths."""
        columns = [self.leaves]
        for _ in range(self.num_stages - 1):
            columns.append(self.parents[columns[-1]])
        return np.stack(columns[::-1], axis=1)

    @property
    def leaf_probabilities(self) -> Floats:
        """(L,) sum 1."""
        return self.probabilities[self.leaves]

    @functools.cached_property
    def paths(self) -> Floats:
        """(L, T, F) the whole path to each leaf."""
        firsts = [int(np.flatnonzero(self.stage_of == k + 1)[0]) for k in range(self.num_stages)]
        parts = [self.values[k][self.histories[:, k] - firsts[k]] for k in range(self.num_stages)]
        return np.concatenate(parts, axis=1)

    @property
    def conditional_probabilities(self) -> Floats:
        """(V,) of the node once its parent has been reached; 1 at the root."""
        before = np.where(self.parents < 0, 1.0, self.probabilities[self.parents])
        return self.probabilities / before

    @property
    def names(self) -> list[str]:
        """V names as mpi-sppy has them: ROOT, its children ROOT_0, ROOT_1, ..., theirs ROOT_0_0, ..."""
        found = ["ROOT"]
        for node in range(1, self.num_nodes):
            parent = int(self.parents[node])
            first = int(np.flatnonzero(self.parents == parent)[0])
            found.append(f"{found[parent]}_{node - first}")
        return found

    @property
    def relative_distance(self) -> float:
        """``distance`` over ``spread``; 0 where all scenarios are the same."""
        return self.distance / self.spread if self.spread > 0.0 else 0.0


def scenario_tree(
    paths: NDArray[np.floating],
    *,
    stages: Sequence[int],
    branching: Sequence[int],
    probabilities: ArrayLike | None = None,
    method: Literal["forward-selection", "k-means"] = "k-means",
    scale: ArrayLike | None = None,
    seed: int = 0,
) -> ScenarioTree:
    """A tree that stands for ``paths`` (S, T, F); no leaf has probability zero.

    Parameters
    ----------
    paths : array
        (S, T, F) in the units of the data.
    stages : sequence of int
        K first steps, from 0 on and rising: ``[0, 6, 12]`` of 24 steps has stages of 6, 6 and 12 steps.
    branching : sequence of int
        K: the most children of a node of the stage before. Fewer where fewer scenarios differ.
    probabilities : array, optional
        (S,); equal where left out.
    method : str
        ``k-means``: a node's values are the means of its scenarios, which keeps every conditional mean;
        ``forward-selection``: those of one of its scenarios.
    scale, seed
        See `hedgecast.scenarios.reduction.reduce_scenarios`.

    Raises
    ------
    ShapeError, DataError, ConfigError
        As `reduce_scenarios`, and for stages or branching that do not fit.
    """
    values, weights = checked_paths(paths, probabilities)
    _check_stages(stages, branching, values.shape[1])
    scales = difference_scales(values, weights, scale)
    grown = _Growth(weights)
    for start, end, most in zip(stages, [*stages[1:], values.shape[1]], branching, strict=True):
        options = {"method": method, "scale": scales[start:end], "seed": seed}
        grown.add_stage(values[:, start:end], most, options)
    tree = ScenarioTree(
        parents=np.array(grown.parents),
        stage_of=np.array(grown.stage_of),
        probabilities=np.array(grown.masses),
        values=tuple(grown.values),
        starts=tuple(stages),
        assignment=grown.node_of - grown.last[0],
        distance=0.0,
        spread=_root_mean(values - np.tensordot(weights, values, axes=1), weights, scales),
        scale=scales,
    )
    gap = _root_mean(values - tree.paths[tree.assignment], weights, scales)
    return dataclasses.replace(tree, distance=gap)


class _Growth:
    """A tree while stages are added to it."""

    def __init__(self, weights: Floats) -> None:
        self.weights = weights
        self.parents, self.stage_of, self.masses = [-1], [0], [1.0]
        self.values: list[Floats] = []
        self.last = [0]
        """Nodes of the last stage."""
        self.node_of = np.zeros(weights.size, dtype=np.int64)
        """(S,) the one of them that each scenario is in."""

    def add_stage(self, values: Floats, most: int, options: dict[str, Any]) -> None:
        """Splits every node of the last stage by the next values (S, steps, F) into ``most`` children."""
        number, began = self.stage_of[-1] + 1, len(self.parents)
        following = np.empty_like(self.node_of)
        children: list[Floats] = []
        for node in self.last:
            members = np.flatnonzero(self.node_of == node)
            shares = self.weights[members] / self.weights[members].sum()
            count = min(most, members.size)
            part = reduce_scenarios(values[members], count, probabilities=shares, **options)
            following[members] = len(self.parents) + part.assignment
            self.parents += [node] * part.count
            self.stage_of += [number] * part.count
            self.masses += (self.masses[node] * part.probabilities).tolist()
            children.append(part.paths)
        self.node_of, self.last = following, list(range(began, len(self.parents)))
        self.values.append(np.concatenate(children))


def _check_stages(stages: Sequence[int], branching: Sequence[int], num_steps: int) -> None:
    rising = all(early < late for early, late in itertools.pairwise([*stages, num_steps]))
    if not stages or stages[0] != 0 or not rising:
        raise ConfigError(
            f"stages {list(stages)} of {num_steps} steps: must be first steps, from 0 on and rising below "
            f"{num_steps}",
            key="stages",
        )
    if len(branching) != len(stages) or min(branching) < 1:
        raise ConfigError(
            f"branching {list(branching)} for {len(stages)} stages: give one number for each, at least 1",
            key="branching",
        )


def _root_mean(differences: Floats, weights: Floats, scales: Floats) -> float:
    return float(np.sqrt(weights @ ((differences / scales) ** 2).sum(axis=(1, 2))))
