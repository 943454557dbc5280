"""Numbers about costs over scenarios: risk measures, robust to ties."""

from __future__ import annotations

import torch
from torch import Tensor

from hedgecast.programs.risk import Risk


def conditional_value_at_risk(costs: Tensor, probabilities: Tensor, alpha: float) -> Tensor:
    """(...,) mean of the worst ``1 - alpha`` probability of ``costs`` (..., S).

    An atom that straddles the tail's edge counts by the part inside, so that ties and splitting a
    scenario change nothing. ``alpha = 0`` is the mean, ``alpha = 1`` the largest cost of positive
    probability. Scenarios of probability zero never count, even where their cost is infinite.

    Notes
    -----
    Source: Rockafellar and Uryasev (2002), eq. 9 and Proposition 8,
    https://doi.org/10.1016/S0378-4266(02)00271-6.
    """
    positive = probabilities > 0
    probabilities = probabilities.expand_as(costs)
    if alpha >= 1.0:
        return torch.where(positive, costs, costs.new_tensor(-torch.inf)).amax(dim=-1)
    ranked = torch.where(positive, costs, costs.new_tensor(-torch.inf)).argsort(dim=-1, descending=True)
    weights = probabilities.gather(-1, ranked)
    # Filled before the product: 0 * inf would spoil the gradient of the scenarios that do count.
    ordered = torch.where(weights > 0, costs.gather(-1, ranked), 0.0)
    before = weights.cumsum(dim=-1) - weights
    inside = torch.minimum(weights, (1.0 - alpha - before).clamp(min=0.0))
    return (inside * ordered).sum(dim=-1) / inside.sum(dim=-1)


def expectation(costs: Tensor, probabilities: Tensor) -> Tensor:
    """(...,) mean of ``costs`` (..., S); scenarios of probability zero never count."""
    return (probabilities * torch.where(probabilities > 0, costs, 0.0)).sum(dim=-1)


def risk_value(risk: Risk, costs: Tensor, probabilities: Tensor, benchmarks: Tensor | None = None) -> Tensor:
    """(...,) the measure ``risk`` of ``costs`` (..., S); see `hedgecast.programs.risk`.

    Parameters
    ----------
    risk : Risk
    costs, probabilities : Tensor
    benchmarks : Tensor, optional
        (..., S) wait-and-see costs; required when the measure is on regret. The CVaR part is then the
        CVaR of regret itself, without the mean benchmark that no decision changes.
    """
    mean = expectation(costs, probabilities)
    if risk.beta == 0.0:
        return mean
    tail = costs if benchmarks is None or not risk.on_regret else costs - benchmarks
    if risk.beta == 1.0:
        # Not zero times the mean: where that is infinite it would make NaN of an infinite tail.
        return conditional_value_at_risk(tail, probabilities, risk.alpha)
    return (1.0 - risk.beta) * mean + risk.beta * conditional_value_at_risk(tail, probabilities, risk.alpha)
