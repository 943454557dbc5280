"""Lagrangians of block problems, and what they say about the optimal value's slopes.

With multipliers nu, mu of the first stage's rows and y_s, z_s of a scenario's, and weights p_s of the
scenario costs f_s at the optimum (the probabilities, or what a risk measure makes of them):

    L = f(x) + sum_s p_s f_s(x, w_s) + nu'(A x - a) + mu'(G x - g)
        + sum_s [ y_s'(T x + W w_s - h_s) + z_s'(U x + V w_s - k_s) ]

By the envelope theorem the optimal value moves with a parameter as L does at the solution, everything else
held: no derivative of the solution is needed.

Source: Bonnans and Shapiro (2000), Perturbation Analysis of Optimization Problems, theorem 4.24.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hedgecast.programs.backend import BlockSolution
from hedgecast.programs.blocks import BlockProblem
from hedgecast.programs.solution import Verdict
from hedgecast.programs.template import Template


def recourse_lagrangian(problem: BlockProblem, w: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """(M,) Lagrangian of the recourse at multipliers y of W w = h and z of V w <= k, no first stage."""
    curvature = (problem.Q.times(w) * w).sum(dim=2)
    cost = problem.e + 0.5 * curvature + (problem.c * w).sum(dim=2)
    cost = cost + (y * (problem.W.times(w) - problem.h)).sum(dim=2)
    return (cost + (z * (problem.V.times(w) - problem.k)).sum(dim=2)).sum(dim=1)


def lagrangian(problem: BlockProblem, found: BlockSolution) -> Tensor:
    """(B,) Lagrangian at a solution, differentiable in the problem's numbers alone."""
    x, w = found.x.detach()[:, None], found.w.detach()
    first = 0.5 * (problem.P.times(x) * x).sum(dim=(1, 2)) + (problem.q * x[:, 0]).sum(dim=1) + problem.d
    known = (found.equality_dual[:, None] * (problem.A.times(x) - problem.a[:, None])).sum(dim=(1, 2))
    known = known + (found.inequality_dual[:, None] * (problem.G.times(x) - problem.g[:, None])).sum(
        dim=(1, 2)
    )
    costs = problem.e + ((0.5 * problem.O.times(x) + problem.o) * x).sum(dim=2)
    costs = costs + ((0.5 * problem.Q.times(w) + problem.R.times(x) + problem.c) * w).sum(dim=2)
    y, z = found.recourse_equality_dual, found.recourse_inequality_dual
    rows = (y * (problem.T.times(x) + problem.W.times(w) - problem.h)).sum(dim=2)
    rows = rows + (z * (problem.U.times(x) + problem.V.times(w) - problem.k)).sum(dim=2)
    return first + known + (found.weights.detach() * costs).sum(dim=1) + rows.sum(dim=1)


def value_slopes(template: Template, uncertain: Tensor, given: Tensor, found: BlockSolution) -> Tensor:
    """(B, K) derivative of the optimal value with respect to the given entries.

    At a kink, where several multipliers are right, it is one of the one-sided slopes or between them.

    Parameters
    ----------
    template : Template
    uncertain, given : Tensor
        (B, S, D) and (1 or B, K): what was solved.
    found : BlockSolution
        The solution; members without an optimum get NaN.
    """
    with torch.enable_grad():
        entries = given.detach().expand(uncertain.shape[0], -1).clone().requires_grad_()
        value = lagrangian(template.instantiate(uncertain.detach(), entries), found)
        solved = found.verdicts == Verdict.OPTIMAL
        (slopes,) = torch.autograd.grad(value[solved].sum(), entries, allow_unused=True)
    # No member was solved, or no given parameter enters.
    slopes = torch.zeros_like(entries) if slopes is None else slopes
    return torch.where(solved[:, None], slopes, torch.nan).detach()
