"""Why a member has no solution: Farkas multipliers, or a ray along which the cost falls without limit.

A member that the interior-point method leaves unsolved is examined by two auxiliary programs, which
are always feasible and bounded and so are solved by the same method:

- elastic: the least tau such that every row holds up to tau. If it is positive, its multipliers prove
  that no decision exists; the same program of one scenario alone says whether that scenario is to blame.
- ray: the steepest direction of the recession cone in the unit box, curvature penalized. If its slope is
  negative, the cost is unbounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from hedgecast.decisions.block_factor import BlockIndex
from hedgecast.decisions.block_numbers import make_numbers
from hedgecast.decisions.central_path import Limits, follow_central_path
from hedgecast.decisions.iterates import Outcome
from hedgecast.programs.backend import MAX_ITERATIONS
from hedgecast.programs.blocks import BlockProblem, SparseMatrix
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict

# Violations below this, relative to the rows' right-hand sides, are rounding.
_INFEASIBLE = {torch.float64: 1e-6, torch.float32: 1e-3}
# Slopes above this, in scaled costs on the unit box, are rounding.
_UNBOUNDED = 1e-3
_CURVATURE_PENALTY = 1e6
# Scenarios examined one by one, largest joint multipliers first.
_MAX_SUSPECTS = 64

MakeIndex = Callable[[BlockProblem, bool], BlockIndex]


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """Verdict of every member, and what proves it."""

    verdicts: Tensor
    """(B,) int64."""
    scenarios: Tensor
    """(B,) int64: a scenario without recourse, -1 where none is known."""
    certificate: Tensor
    """(B, S, rows of W then V)."""


def explain_failures(
    make_index: MakeIndex,
    problem: BlockProblem,
    probabilities: Tensor,
    risk: Risk,
    valid: Tensor,
    outcome: Outcome,
) -> Findings:
    """Verdicts of all members of a solve.

    Parameters
    ----------
    make_index : callable
        (problem, has_risk) to the template's elimination.
    problem : BlockProblem
        The whole batch.
    probabilities : (B, S)
    risk : Risk
    valid : (members,)
        Indices of the members whose numbers are finite; the rest are invalid.
    outcome : Outcome
        Of the valid members.
    """
    B, S = problem.num_contexts, problem.num_scenarios
    verdicts = torch.full((B,), int(Verdict.INVALID), dtype=torch.int64, device=problem.device)
    scenarios = torch.full_like(verdicts, -1)
    rows = problem.W.shape[0] + problem.V.shape[0]
    if bool(outcome.converged.all()):
        verdicts[valid] = int(Verdict.OPTIMAL)
        return Findings(verdicts, scenarios, problem.q.new_zeros(1, 1, 1).expand(B, S, rows))
    certificate = problem.q.new_zeros(B, S, rows)
    verdicts[valid] = torch.where(outcome.converged, int(Verdict.OPTIMAL), int(Verdict.NOT_CONVERGED))
    suspects = valid[~outcome.converged]
    doubted = select_members(problem, suspects)
    infeasible, multipliers = _elastic(make_index, doubted)
    bad = infeasible.nonzero()[:, 0]
    if bad.numel():
        verdicts[suspects[bad]] = int(Verdict.INFEASIBLE)
        certificate[suspects[bad]] = multipliers[bad]
        for member in bad.tolist():
            found = _lone_scenario(
                make_index, select_members(doubted, bad.new_tensor([member])), multipliers[member]
            )
            if found is not None:
                place = int(suspects[member])
                scenarios[place] = found[0]
                certificate[place] = 0.0
                certificate[place, found[0]] = found[1]
    rest = (~infeasible).nonzero()[:, 0]
    if rest.numel():
        falling = _has_ray(make_index, select_members(doubted, rest), probabilities[suspects[rest]], risk)
        verdicts[suspects[rest[falling]]] = int(Verdict.UNBOUNDED)
    return Findings(verdicts, scenarios, certificate)


def select_members(problem: BlockProblem, members: Tensor) -> BlockProblem:
    """Some members of a batch."""
    changes: dict[str, object] = {"num_contexts": int(members.numel())}
    for field in dataclasses.fields(BlockProblem):
        value = getattr(problem, field.name)
        if isinstance(value, SparseMatrix):
            if value.values.shape[0] > 1:
                changes[field.name] = dataclasses.replace(value, values=value.values[members])
        elif isinstance(value, Tensor) and value.shape[0] > 1:
            changes[field.name] = value[members]
    return dataclasses.replace(problem, **changes)  # type: ignore[arg-type]


def _select_scenarios(problem: BlockProblem, scenarios: Tensor) -> BlockProblem:
    """One context's scenarios as contexts of one scenario each; the first stage is shared."""
    changes: dict[str, object] = {"num_contexts": int(scenarios.numel()), "num_scenarios": 1}
    for field in dataclasses.fields(BlockProblem):
        value = getattr(problem, field.name)
        values = value.values if isinstance(value, SparseMatrix) else value
        if (
            isinstance(values, Tensor)
            and values.ndim >= 2
            and field.name in "QROTWUVocehk"
            and values.shape[1] > 1
        ):
            values = values[0, scenarios][:, None]
            changes[field.name] = (
                dataclasses.replace(value, values=values) if isinstance(value, SparseMatrix) else values
            )
    return dataclasses.replace(problem, **changes)  # type: ignore[arg-type]


def _lone_scenario(
    make_index: MakeIndex, problem: BlockProblem, multipliers: Tensor
) -> tuple[int, Tensor] | None:
    """A scenario that is infeasible by itself, with its multipliers (rows,)."""
    mass = multipliers.abs().sum(dim=1)
    order = mass.argsort(descending=True, stable=True)[:_MAX_SUSPECTS]
    infeasible, proof = _elastic(make_index, _select_scenarios(problem, order))
    alone = infeasible.nonzero()[:, 0]
    if not alone.numel():
        return None
    first = int(alone[0])
    return int(order[first]), proof[first, 0]


def _elastic(make_index: MakeIndex, problem: BlockProblem) -> tuple[Tensor, Tensor]:
    """Whether each member is infeasible, and the multipliers (B, S, rows of W then V) that prove it."""
    n, S = problem.num_first, problem.num_scenarios
    empty = problem.q.new_zeros
    num_w, num_v = problem.W.shape[0], problem.V.shape[0]
    relaxed = dataclasses.replace(
        problem,
        P=SparseMatrix.empty(n + 1, n + 1, problem.q),
        q=torch.cat([empty(1, n), empty(1, 1) + 1.0], dim=1),
        A=SparseMatrix.empty(0, n + 1, problem.q),
        a=empty(1, 0),
        G=_nonnegative_last(_stack_rows([problem.G, problem.A, _negated(problem.A)], n, relax=True)),
        g=torch.cat([*_aligned([problem.g, problem.a, -problem.a]), empty(1, 1).expand(
            max(problem.g.shape[0], problem.a.shape[0]), 1)], dim=1),
        Q=SparseMatrix.empty(*problem.Q.shape, problem.q),
        R=SparseMatrix.empty(problem.num_recourse, n + 1, problem.q),
        O=SparseMatrix.empty(n + 1, n + 1, problem.q),
        o=empty(1, 1, n + 1),
        c=torch.zeros_like(problem.c[:1, :1]),
        T=SparseMatrix.empty(0, n + 1, problem.q),
        W=SparseMatrix.empty(0, problem.num_recourse, problem.q),
        h=empty(1, 1, 0),
        U=_stack_rows([problem.T, _negated(problem.T), problem.U], n, relax=True),
        V=_stack_rows([problem.W, _negated(problem.W), problem.V], problem.num_recourse, relax=False),
        k=torch.cat(_aligned([problem.h, -problem.h, problem.k]), dim=2),
    )  # fmt: skip
    outcome, scale = _solve(make_index, relaxed, EXPECTATION, None)
    tau = outcome.iterate.x[:, n]
    largest = empty(problem.num_contexts)
    for value in (problem.a, problem.g, problem.h, problem.k):
        if value.numel():
            largest = torch.maximum(largest, value.abs().amax(dim=tuple(range(1, value.ndim))))
    infeasible = outcome.converged & (tau > _INFEASIBLE[problem.dtype] * (1.0 + largest))
    z = (outcome.iterate.z * scale).permute(1, 2, 0)
    equality = z[:, :, :num_w] - z[:, :, num_w : 2 * num_w]
    assert z.shape[1:] == (S, 2 * num_w + num_v)
    return infeasible, torch.cat([equality, z[:, :, 2 * num_w :]], dim=2)


def _has_ray(make_index: MakeIndex, problem: BlockProblem, probabilities: Tensor, risk: Risk) -> Tensor:
    """Whether each member's cost falls along a direction that never leaves its constraints."""
    n, m = problem.num_first, problem.num_recourse

    def cone(rhs: Tensor) -> Tensor:
        return torch.zeros_like(rhs[:1])

    def stiff(matrix: SparseMatrix) -> SparseMatrix:
        return dataclasses.replace(matrix, values=matrix.values * _CURVATURE_PENALTY)

    boxed = dataclasses.replace(
        problem,
        P=stiff(problem.P),
        a=cone(problem.a),
        d=cone(problem.d),
        G=_stack_rows([problem.G, _identity(problem, n, 1.0), _identity(problem, n, -1.0)], n, relax=False),
        g=torch.cat([cone(problem.g), problem.q.new_ones(1, 2 * n)], dim=1),
        Q=stiff(problem.Q),
        R=stiff(problem.R),
        O=stiff(problem.O),
        e=problem.e.new_zeros(1, 1),
        h=problem.h.new_zeros(1, 1, problem.h.shape[2]),
        U=_stack_rows([problem.U, SparseMatrix.empty(2 * m, n, problem.q)], n, relax=False),
        V=_stack_rows([problem.V, _identity(problem, m, 1.0), _identity(problem, m, -1.0)], m, relax=False),
        k=torch.cat([problem.k.new_zeros(1, 1, problem.k.shape[2]), problem.k.new_ones(1, 1, 2 * m)], dim=2),
    )
    outcome, _ = _solve(make_index, boxed, risk, probabilities)
    largest = problem.q.new_zeros(problem.num_contexts)
    for value in (problem.q, problem.o, problem.c):
        if value.numel():
            largest = torch.maximum(largest, value.abs().amax(dim=tuple(range(1, value.ndim))))
    return outcome.converged & (outcome.quality.objective < -_UNBOUNDED * largest)


def _solve(
    make_index: MakeIndex, problem: BlockProblem, risk: Risk, probabilities: Tensor | None
) -> tuple[Outcome, Tensor]:
    """The solution, and the factor (B, S) from scaled to plain scenario multipliers."""
    shape = (problem.num_contexts, problem.num_scenarios)
    if probabilities is None:
        probabilities = problem.q.new_full(shape, 1.0 / shape[1])
    numbers = make_numbers(problem, probabilities, torch.zeros_like(probabilities))
    tolerance = 1e-8 if problem.dtype == torch.float64 else 2e-5
    limits = Limits(tolerance=tolerance, max_iterations=MAX_ITERATIONS)
    outcome = follow_central_path(make_index(problem, not risk.neutral), numbers, risk, limits)
    return outcome, numbers.measure / numbers.cost_scale[:, None]


def _identity(problem: BlockProblem, size: int, value: float) -> SparseMatrix:
    index = torch.arange(size, device=problem.device)
    return SparseMatrix(index, index, (size, size), problem.q.new_full((1, 1, size), value))


def _negated(matrix: SparseMatrix) -> SparseMatrix:
    return dataclasses.replace(matrix, values=-matrix.values)


def _aligned(parts: list[Tensor]) -> list[Tensor]:
    """Tensors spread to one another along all but the last axis."""
    # The longest size of each axis: the others are one.
    shape = [max(sizes) for sizes in zip(*(part.shape[:-1] for part in parts), strict=True)]
    return [part.expand(*shape, part.shape[-1]) for part in parts]


def _stack_rows(matrices: list[SparseMatrix], num_cols: int, *, relax: bool) -> SparseMatrix:
    """Matrices on top of each other; with ``relax`` one more column holds -1 in every row."""
    offsets = [0]
    for matrix in matrices:
        offsets.append(offsets[-1] + matrix.shape[0])
    rows = torch.cat([matrix.rows + offset for matrix, offset in zip(matrices, offsets, strict=False)])
    cols = torch.cat([matrix.cols for matrix in matrices])
    values = torch.cat(_aligned([matrix.values for matrix in matrices]), dim=2)
    if relax:
        every = torch.arange(offsets[-1], device=rows.device)
        rows, cols = torch.cat([rows, every]), torch.cat([cols, torch.full_like(every, num_cols)])
        values = torch.cat([values, -values.new_ones(*values.shape[:2], every.numel())], dim=2)
        num_cols += 1
    order = (rows * max(1, num_cols) + cols).argsort()
    return SparseMatrix(rows[order], cols[order], (offsets[-1], num_cols), values[:, :, order])


def _nonnegative_last(matrix: SparseMatrix) -> SparseMatrix:
    """The rows, then one that keeps the last column nonnegative."""
    num_rows, num_cols = matrix.shape
    rows = torch.cat([matrix.rows, matrix.rows.new_tensor([num_rows])])
    cols = torch.cat([matrix.cols, matrix.cols.new_tensor([num_cols - 1])])
    values = torch.cat([matrix.values, -matrix.values.new_ones(*matrix.values.shape[:2], 1)], dim=2)
    return SparseMatrix(rows, cols, (num_rows + 1, num_cols), values)
