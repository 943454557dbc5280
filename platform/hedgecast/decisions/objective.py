"""First-stage cost, recourse costs and risk measure of solutions, on plain tensors and differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from hedgecast.programs.blocks import BlockProblem
from hedgecast.programs.measures import conditional_value_at_risk, expectation
from hedgecast.programs.risk import Risk


def first_stage_cost(problem: BlockProblem, x: Tensor) -> Tensor:
    """(B,): 1/2 x'P x + q'x + d, differentiable."""
    quadratic = (problem.P.values[:, 0] * x[:, problem.P.rows] * x[:, problem.P.cols]).sum(dim=1)
    return 0.5 * quadratic + (problem.q * x).sum(dim=1) + problem.d


def recourse_costs(problem: BlockProblem, x: Tensor, w: Tensor) -> Tensor:
    """(B, S): recourse costs of x (B, n) and w (B, S, m), differentiable."""
    total = problem.e + (problem.c * w).sum(dim=2) + (problem.o * x[:, None]).sum(dim=2)
    for matrix, left, right, factor in (
        (problem.Q, w, w, 0.5), (problem.R, w, x[:, None], 1.0), (problem.O, x[:, None], x[:, None], 0.5),
    ):  # fmt: skip
        products = matrix.values * left[:, :, matrix.rows] * right[:, :, matrix.cols]
        total = total + factor * products.sum(dim=2)
    return total


def measure_costs(costs: Tensor, probabilities: Tensor, benchmarks: Tensor, risk: Risk) -> Tensor:
    """(B,): the risk measure of scenario costs (B, S), without gradient.

    On regret the mean benchmark is part of it, as in the formula of `hedgecast.programs.risk`.
    """
    expected = expectation(costs, probabilities)
    if risk.neutral:
        return expected
    tail = conditional_value_at_risk(costs - benchmarks, probabilities, risk.alpha)
    if risk.on_regret:
        tail = tail + expectation(benchmarks, probabilities)
    return (1.0 - risk.beta) * expected + risk.beta * tail


def measure_at_optimum(
    costs: Tensor, probabilities: Tensor, benchmarks: Tensor, risk: Risk, weights: Tensor, eta: Tensor | None
) -> Tensor:
    """(B,): the same with the gradient that the solution's multipliers give.

    Optimal scenario costs tie as a rule, and a tie has many subgradients; the scenario weights (B, S) of
    the solution are the one that belongs to the optimal value.
    """
    if risk.neutral:
        return (probabilities * costs).sum(dim=1)
    c, p, v = costs.detach(), probabilities.detach(), benchmarks.detach()
    tail = weights - (1.0 - risk.beta) * p
    in_p = (1.0 - risk.beta) * c
    if risk.alpha < 1.0:
        assert eta is not None
        in_p = in_p + risk.beta / (1.0 - risk.alpha) * (c - v - eta[:, None]).clamp(min=0.0)
    in_v = -tail
    if risk.on_regret:
        in_p, in_v = in_p + risk.beta * v, in_v + risk.beta * p
    change = weights * (costs - c) + in_p * (probabilities - p) + in_v * (benchmarks - v)
    return measure_costs(c, p, v, risk) + change.sum(dim=1)


def first_cost_and_objective(
    problem: BlockProblem,
    probabilities: Tensor,
    benchmarks: Tensor,
    risk: Risk,
    x: Tensor,
    costs: Tensor,
    weights: Tensor,
    eta: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """First-stage cost and objective; NaN of members without a solution reaches no gradient of others."""
    missing = torch.isnan(x).any(dim=1) | torch.isnan(costs).any(dim=1)
    if not bool(missing.any()):
        first = first_stage_cost(problem, x)
        return first, first + measure_at_optimum(costs, probabilities, benchmarks, risk, weights, eta)
    gone = missing[:, None]
    first = first_stage_cost(problem, torch.where(gone, 0.0, x))
    risky = measure_at_optimum(
        torch.where(gone, 0.0, costs),
        probabilities,
        benchmarks,
        risk,
        torch.where(gone, 0.0, weights),
        None if eta is None else torch.where(missing, 0.0, eta),
    )
    return torch.where(missing, torch.nan, first), torch.where(missing, torch.nan, first + risky)
