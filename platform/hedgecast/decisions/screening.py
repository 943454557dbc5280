"""Very many scenarios: those that a change of the decision can turn, and one quadratic for all others.

Near its optimum a decision moves by a few parts in a thousand, and hardly any scenario notices: the active
rows of its recourse stay the same, and so its cost is a quadratic function of the decision. Thirty to forty
iterations over 100,000 scenarios run through a gigabyte each to find the few for which that is not so.
Instead: a sample is solved; all scenarios follow their central paths at its decision, in the cache; each
part of a scenario that stands alone (an hour of a schedule) and lies near a change of its active rows is
kept, the others enter the first stage by their gradient and second derivative; that small program is
solved; and a few iterations over all scenarios, from its solution, finish and check.

What is left out is a guess that the last step corrects: the answer is that of the plain solve, to its
tolerance, whatever was kept. Parts of different scenarios share a row of the small program, which is
possible where all have the same probability.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hedgecast.decisions.block_factor import BlockIndex
from hedgecast.decisions.block_numbers import Numbers, make_numbers
from hedgecast.decisions.central_path import Limits
from hedgecast.decisions.compiled import CompiledSolver
from hedgecast.decisions.compiled_point import CompiledPoint, FirstPoint
from hedgecast.decisions.iterates import Outcome
from hedgecast.decisions.kernels_components import Component, components
from hedgecast.decisions.kernels_context import Results
from hedgecast.decisions.kernels_first import expected_costs
from hedgecast.decisions.kernels_pattern import Pattern
from hedgecast.decisions.kernels_settle import Settled
from hedgecast.programs.blocks import BlockProblem, SparseMatrix

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST_ROWS = 900_000
"""Rows of all scenarios from which on it pays: fewer run from the cache (schedules of 96 rows each:
5,000 scenarios 0.115 s both ways, 10,000 0.21 and 0.31 s, 20,000 0.37 and 1.08 s)."""
_SAMPLE = 2_000
_KEPT = 1 / 16
_MOST_ITERATIONS = 15
_BARRIER = 1e-7
"""Of the points at which derivatives are taken, in scaled costs: a rounding of kinks that the kept parts are
far wider than."""


def screened_solve(
    solver: CompiledSolver, problem: BlockProblem, index: BlockIndex, numbers: Numbers, limits: Limits
) -> Outcome | None:
    """The solution of every member; None where the way by a small program does not apply or fails."""
    if not _applies(solver, problem, numbers, limits):
        return None
    start = _sample_solution(problem, index)
    if start is None:
        return None
    small = _Small(solver, problem, index, numbers, start)
    point = small.solution(limits.tolerance)
    if point is None:
        return None
    # From a good guess one or two steps are left; many mean that it was none.
    few = dataclasses.replace(limits, max_iterations=min(limits.max_iterations, _MOST_ITERATIONS))
    outcome = solver.attempt(few, point)
    outcome.iterations.add_(small.iterations)
    return outcome if bool(outcome.converged.all()) else None


def _applies(solver: CompiledSolver, problem: BlockProblem, numbers: Numbers, limits: Limits) -> bool:
    probability = numbers.probability
    return (
        problem.num_scenarios * problem.V.shape[0] >= LEAST_ROWS
        and problem.num_scenarios >= 2 * _SAMPLE
        and problem.num_recourse > 0
        and limits.smoothing is None
        and not solver.deterministic
        and bool(solver.code[0])
        and bool((probability == probability[:, :1]).all())
    )


def _sample_solution(problem: BlockProblem, index: BlockIndex) -> FloatArray | None:
    """(B, n) decision of some evenly spaced scenarios."""
    chosen = torch.linspace(0, problem.num_scenarios - 1, _SAMPLE).round().long()
    everywhere = chosen[None, :, None].expand(problem.num_contexts, -1, 1)
    part = _rearranged(problem, dict.fromkeys((*_MATRICES, *_VECTORS), everywhere))
    probability = torch.full((problem.num_contexts, _SAMPLE), 1.0 / _SAMPLE, dtype=torch.float64)
    few = make_numbers(part, probability, torch.zeros_like(probability))
    found = CompiledSolver(part, index, few).attempt(Limits(tolerance=1e-6, max_iterations=100))
    return found.iterate.x.numpy() if bool(found.converged.all()) else None


class _Small:
    """The program of the kept parts around one decision.

    Parameters
    ----------
    solver, problem, index, numbers
        Of all scenarios.
    x : (B, n)
        The decision.
    """

    def __init__(
        self,
        solver: CompiledSolver,
        problem: BlockProblem,
        index: BlockIndex,
        numbers: Numbers,
        x: FloatArray,
    ) -> None:
        self.solver, self.problem, self.index, self.numbers, self.x = solver, problem, index, numbers, x
        self.count = int(_KEPT * problem.num_scenarios)
        self.parts = components(solver.pattern)
        self.iterations = torch.zeros(problem.num_contexts, dtype=torch.int64)
        """(B,): of the small program."""

    def solution(self, tolerance: float) -> FirstPoint | None:
        """The first stage at the small program's solution, and its barrier; None where something fails."""
        B = self.problem.num_contexts
        barrier = np.full(B, _BARRIER)
        whole, arrays = self.solver.settle(self.x, barrier)
        if whole.unsettled.any():
            return None
        kept = np.stack([self._kept(arrays, member) for member in range(B)])
        solver = self._solver(torch.from_numpy(kept))
        own, _ = solver.settle(self.x, barrier)
        if own.unsettled.any():
            return None
        hessian, gradient = self._costs(whole, own)
        solver.first = solver.first._replace(cost_hessian=hessian, cost_gradient=gradient)
        # The same barrier on all scenarios comes to as many times the gap as there are more of them.
        found = solver.attempt(Limits(tolerance=max(0.5 * _KEPT * tolerance, 1e-9), max_iterations=100))
        self.iterations, point = found.iterations, found.iterate
        if not bool(found.converged.all()) or not isinstance(point, CompiledPoint):
            return None
        measure = solver.numbers.measure
        products = ((point.z * point.s).sum(dim=0) * measure).sum(dim=1)
        products = products + (point.slack * point.multiplier).sum(dim=1)
        count = point.z.shape[0] * measure.sum(dim=1) + point.slack.shape[1]
        return FirstPoint(point.arrays, (products / count).numpy())

    def _kept(self, arrays: Results, member: int) -> IntArray:
        """(parts, count): the scenarios whose part comes first to a change of its active rows."""
        out = np.zeros((len(self.parts), self.count), dtype=np.int64)
        slack, multiplier = arrays.s[member], arrays.z[member]
        for i, part in enumerate(self.parts):
            rows = list(part.rows)
            if not rows:
                continue
            s, z = slack[:, rows], multiplier[:, rows]
            margin = _margin(s / s.mean(), z / z.mean(), self._freedom(part))
            margin = margin.reshape(-1)[: self.problem.num_scenarios]
            out[i] = np.sort(np.argpartition(margin, self.count)[: self.count])
        return out

    def _freedom(self, part: Component) -> int:
        """Columns of a part less its equality rows."""
        p = self.solver.pattern
        columns = int(np.isin(p.position[: p.num_recourse], part.nodes).sum())
        return 2 * columns - len(part.nodes)

    def _solver(self, kept: Tensor) -> CompiledSolver:
        part = _rearranged(self.problem, _places(self.solver.pattern, self.problem, self.parts, kept))
        probability = self.numbers.probability[:, : self.count]
        few = make_numbers(part, probability, torch.zeros_like(probability))
        few = dataclasses.replace(few, cost_scale=self.numbers.cost_scale)
        return CompiledSolver(part, self.index, few)

    def _costs(self, whole: Settled, own: Settled) -> tuple[FloatArray, FloatArray]:
        """(B, n, n) and (B, n): costs of the decision itself and of all parts that are not kept, at zero."""
        hessian, gradient = _positive(whole.hessian - own.hessian), whole.gradient - own.gradient
        gradient = gradient - (hessian @ self.x[:, :, None])[:, :, 0]
        weighted = self.solver.weight * self.solver.measure
        for member in range(len(hessian)):
            matrix, slope = np.empty_like(hessian[member]), np.empty_like(gradient[member])
            expected_costs(self.solver.first, member, weighted[member], matrix, slope)
            hessian[member] += matrix
            gradient[member] += slope
        return hessian, gradient


def _positive(matrices: FloatArray) -> FloatArray:
    """The nearest positive semidefinite matrices: costs are convex, differences of sums are rounded."""
    values, vectors = np.linalg.eigh(matrices)
    found: FloatArray = (vectors * np.maximum(values, 0.0)[:, None]) @ vectors.transpose(0, 2, 1)
    return found


def _margin(slack: FloatArray, multiplier: FloatArray, freedom: int) -> FloatArray:
    """(tiles, lanes): how far a part is from a change of its active rows, for (tiles, rows, lanes).

    The smallest slack of a row that is not active, or multiplier of one that is; none where more rows are
    active than there are columns to be free: there the recourse cost has its kink.
    """
    active = multiplier > slack
    margin: FloatArray = np.maximum(slack, multiplier).min(axis=1)
    margin[active.sum(axis=1) > freedom] = 0.0
    return margin


_MATRICES = ("Q", "R", "O", "T", "W", "U", "V")
_VECTORS = ("o", "c", "e", "h", "k")


def _places(p: Pattern, problem: BlockProblem, parts: list[Component], kept: Tensor) -> dict[str, Tensor]:
    """(B, count, entries) by tensor: the scenario from which each entry is taken."""
    of_node = np.zeros(max(p.num_nodes, 1), dtype=np.int64)
    of_row = np.zeros(p.num_inequalities, dtype=np.int64)
    for i, part in enumerate(parts):
        of_node[list(part.nodes)] = i
        of_row[list(part.rows)] = i
    columns = of_node[p.position[: p.num_recourse]]
    equalities = of_node[p.position[p.num_recourse : p.num_recourse + p.num_equalities]]
    by_row = {"Q": columns, "R": columns, "T": equalities, "W": equalities, "U": of_row, "V": of_row}
    places = {}
    for name, owner in by_row.items():
        matrix: SparseMatrix = getattr(problem, name)
        places[name] = kept[:, torch.from_numpy(owner)[matrix.rows]].transpose(1, 2)
    for name, owner in (("c", columns), ("h", equalities), ("k", of_row)):
        places[name] = kept[:, torch.from_numpy(owner)].transpose(1, 2)
    # What concerns the decision alone is in the first stage's costs.
    first = kept[:, :1].transpose(1, 2)
    return places | dict.fromkeys(("O", "o", "e"), first)


def _rearranged(problem: BlockProblem, places: dict[str, Tensor]) -> BlockProblem:
    """The contexts with entries taken from the scenarios at ``places`` (B, count, entries or 1)."""
    B = problem.num_contexts
    changes: dict[str, object] = {"num_scenarios": int(places["V"].shape[1])}
    for name in _MATRICES:
        matrix: SparseMatrix = getattr(problem, name)
        if matrix.values.shape[1] > 1:
            changes[name] = dataclasses.replace(matrix, values=_taken(matrix.values, places[name], B))
    for name in _VECTORS:
        values: Tensor = getattr(problem, name)
        if values.shape[1] > 1:
            column = values[:, :, None] if values.ndim == 2 else values
            taken = _taken(column, places[name], B)
            changes[name] = taken[:, :, 0] if values.ndim == 2 else taken
    return dataclasses.replace(problem, **changes)  # type: ignore[arg-type]


def _taken(values: Tensor, places: Tensor, num_contexts: int) -> Tensor:
    everywhere = values.detach().expand(num_contexts, -1, -1)
    return torch.gather(everywhere, 1, places.expand(-1, -1, values.shape[2])).contiguous()
