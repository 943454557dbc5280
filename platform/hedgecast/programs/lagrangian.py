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


def moving_lagrangian(problem: BlockProblem, found: BlockSolution) -> Tensor:
    """(B,) terms of the Lagrangian at a solution whose numbers carry a gradient, differentiable in these.

    The others have no part in a derivative and are most of it: parameters mostly stand in right-hand sides.
    """
    x, w = found.x.detach()[:, None], found.w.detach()
    y, z = found.recourse_equality_dual, found.recourse_inequality_dual
    nu, mu = found.equality_dual[:, None], found.inequality_dual[:, None]
    p = found.weights.detach()[:, :, None]
    weighted_x, weighted_w = p * x, p * w
    total = x.new_zeros(x.shape[0])
    if problem.d.requires_grad:
        total = total + problem.d
    for matrix, left, right, factor in (
        (problem.P, x, x, 0.5), (problem.A, nu, x, 1.0), (problem.G, mu, x, 1.0),
        (problem.O, weighted_x, x, 0.5), (problem.Q, weighted_w, w, 0.5), (problem.R, weighted_w, x, 1.0),
        (problem.T, y, x, 1.0), (problem.W, y, w, 1.0), (problem.U, z, x, 1.0), (problem.V, z, w, 1.0),
    ):  # fmt: skip
        if matrix.values.requires_grad:
            total = total + factor * (matrix.times(right) * left).sum(dim=(1, 2))
    for vector, multiplier, sign in (
        (problem.q[:, None], x, 1.0), (problem.a[:, None], nu, -1.0), (problem.g[:, None], mu, -1.0),
        (problem.o, weighted_x, 1.0), (problem.c, weighted_w, 1.0), (problem.e[:, :, None], p, 1.0),
        (problem.h, y, -1.0), (problem.k, z, -1.0),
    ):  # fmt: skip
        if vector.requires_grad:
            total = total + sign * (vector * multiplier).sum(dim=(1, 2))
    return total


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
        problem = template.instantiate(uncertain.detach(), entries)
        value = moving_lagrangian(problem, found)
        solved = found.verdicts == Verdict.OPTIMAL
        total = value[solved].sum()
        slopes = None
        if total.requires_grad:
            (slopes,) = torch.autograd.grad(total, entries, allow_unused=True)
    # No member was solved, or no given parameter enters.
    slopes = torch.zeros_like(entries) if slopes is None else slopes
    return torch.where(solved[:, None], slopes, torch.nan).detach()
