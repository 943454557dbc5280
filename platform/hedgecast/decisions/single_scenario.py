"""Deterministic programs (one scenario each) as blocks without a first stage, and the way back.

With one scenario there is nothing to couple: x joins w, the whole program becomes one scenario block,
and its elimination order follows the template's sparsity. A schedule with ramp limits is then banded, and
no dense first-stage system is ever built.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hedgecast.decisions.objective import first_cost_and_objective, first_stage_cost, recourse_costs
from hedgecast.decisions.structured_solution import MergedDetails, StructuredSolution
from hedgecast.programs.blocks import BlockProblem, SparseMatrix
from hedgecast.programs.risk import Risk


def merge_stages(problem: BlockProblem) -> BlockProblem:
    """The same program with first-stage columns before the recourse columns of its one scenario.

    Differentiable in every tensor. The probability of the one scenario must be one.
    """
    n, m = problem.num_first, problem.num_recourse
    total, shift = n + m, (problem.A.shape[0], problem.G.shape[0])
    return BlockProblem.of_block(
        problem.num_contexts,
        Q=_place(
            (total, total),
            [
                (problem.P, 0, 0),
                (problem.O, 0, 0),
                (problem.R, n, 0),
                (_transpose(problem.R), 0, n),
                (problem.Q, n, n),
            ],
        ),
        c=_join([(problem.q[:, None] + problem.o), problem.c]),
        e=problem.e,
        W=_place(
            (shift[0] + problem.T.shape[0], total),
            [(problem.A, 0, 0), (problem.T, shift[0], 0), (problem.W, shift[0], n)],
        ),
        h=_join([problem.a[:, None], problem.h]),
        V=_place(
            (shift[1] + problem.U.shape[0], total),
            [(problem.G, 0, 0), (problem.U, shift[1], 0), (problem.V, shift[1], n)],
        ),
        k=_join([problem.g[:, None], problem.k]),
        d=problem.d,
    )


def split_stages(problem: BlockProblem, merged: StructuredSolution) -> StructuredSolution:
    """The solution of a merged deterministic program in the terms of the two-stage one."""
    n = problem.num_first
    num_equalities, num_inequalities = problem.A.shape[0], problem.G.shape[0]
    # A merged solution's x holds the columns of both stages.
    missing = torch.isnan(merged.x).any(dim=1)
    safe = torch.where(missing[:, None], 0.0, merged.x) if bool(missing.any()) else merged.x
    first_cost = first_stage_cost(problem, safe[:, :n])
    costs = recourse_costs(problem, safe[:, :n], safe[:, None, n:])
    if bool(missing.any()):
        first_cost = torch.where(missing, torch.nan, first_cost)
        costs = torch.where(missing[:, None], torch.nan, costs)
    rows = merged.certificate.shape[2] - (num_equalities + num_inequalities)
    start = num_equalities
    stop = start + problem.W.shape[0]
    certificate = torch.cat(
        [merged.certificate[:, :, start:stop], merged.certificate[:, :, stop + num_inequalities :]], dim=2
    )
    assert certificate.shape[2] == rows
    return dataclasses.replace(
        merged,
        x=merged.x[:, :n],
        scenario_costs=costs,
        first_cost=first_cost,
        objective=first_cost + costs[:, 0],
        details=MergedDetails(merged, problem),
        certificate=certificate,
    )


def mean_scenario(problem: BlockProblem, probabilities: Tensor) -> BlockProblem:
    """A program without recourse columns and rows, with its scenarios' costs averaged into one.

    Differentiable in every tensor and in the probabilities (B, S).
    """

    def average(values: Tensor) -> Tensor:
        if values.shape[1] == 1:
            return values * probabilities.sum(dim=1)[:, None, None]
        return probabilities[:, None] @ values.expand(probabilities.shape[0], -1, -1)

    return dataclasses.replace(
        problem,
        num_scenarios=1,
        O=dataclasses.replace(problem.O, values=average(problem.O.values)),
        o=average(problem.o),
        e=average(problem.e[:, :, None])[:, :, 0],
        h=problem.h[:, :1],
        k=problem.k[:, :1],
        c=problem.c[:, :1],
    )


def spread_over_scenarios(
    problem: BlockProblem, probabilities: Tensor, benchmarks: Tensor, risk: Risk, mean: StructuredSolution
) -> StructuredSolution:
    """The solution of a program without recourse from that of its mean scenario."""
    B, S = problem.num_contexts, problem.num_scenarios
    missing = torch.isnan(mean.x).any(dim=1)
    x = torch.where(missing[:, None], 0.0, mean.x)
    costs = recourse_costs(problem, x, x.new_zeros(B, S, 0)).expand(B, S)
    costs = torch.where(missing[:, None], torch.nan, costs)
    first_cost, objective = first_cost_and_objective(
        problem, probabilities, benchmarks, risk, mean.x, costs, probabilities.detach(), None
    )
    return dataclasses.replace(
        mean,
        scenario_costs=costs,
        first_cost=first_cost,
        objective=objective,
        weights=probabilities.detach(),
        certificate=mean.certificate.expand(B, S, 0),
    )


def _transpose(matrix: SparseMatrix) -> SparseMatrix:
    return SparseMatrix(matrix.cols, matrix.rows, (matrix.shape[1], matrix.shape[0]), matrix.values)


def _join(parts: list[Tensor]) -> Tensor:
    """Concatenation along the last axis, members spread only where they differ."""
    members = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(members, 1, -1) for part in parts], dim=2)


def _place(shape: tuple[int, int], parts: list[tuple[SparseMatrix, int, int]]) -> SparseMatrix:
    """One matrix from several at row and column offsets; entries at the same place are added."""
    rows = torch.cat([matrix.rows + offset for matrix, offset, _ in parts])
    cols = torch.cat([matrix.cols + offset for matrix, _, offset in parts])
    values = _join([matrix.values for matrix, _, _ in parts])
    unique, place = torch.unique(rows * max(1, shape[1]) + cols, return_inverse=True)
    merged = values.new_zeros(*values.shape[:2], unique.numel()).index_add(2, place, values)
    return SparseMatrix(unique // max(1, shape[1]), unique % max(1, shape[1]), shape, merged)
