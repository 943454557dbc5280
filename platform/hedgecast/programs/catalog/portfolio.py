"""Weights of a portfolio under uncertain returns.

With weights w (shares of wealth), returns r (uncertain, simple, over the whole horizon), holdings w0
before trading and c the cost of turnover:

    mean-variance   min  10^4 (E[ -r'w ] + gamma/2 Var[ r'w ] + c |w - w0|_1)
    mean-cvar       min  10^4 (rho( -r'w ) + c |w - w0|_1)    rho: the risk measure of the solve
    both            s.t. sum w = 1,  low <= w <= high,  |w - w0|_1 <= turnover limit

Costs are basis points of wealth (10^-4), so that a solver's tolerance means the same as for money.

The variance is the recourse cost (r'w - m)^2 minimized over one more here-and-now variable m, whose
optimum is the mean return, so the program stays an expectation over scenarios. mean-cvar becomes
(1 - beta) E + beta CVaR_alpha with ``Risk(beta, alpha)``; ``risk="cvar:0.95"`` is pure CVaR.

    maximum-sharpe  max  (E[r'w] - rf - c |w - w0|_1) / sd[ r'w ]      s.t. sum w = 1, low <= w <= high

is solved in its convex (homogenized) form. With y = k w, k >= 0:

    min  E[ -(r - rf)'y ] + 1/2 Var[ r'y ] + c |y - k w0|_1   s.t. k = sum y, k low <= y <= k high

Along a ray with Sharpe ratio s the minimum over k is -s^2/2, so the best ray is the portfolio of the
largest ratio and sqrt(-2 optimum) is the ratio itself; w = y / k. Where no portfolio earns more than
rf, y = 0. The turnover limit does not apply to this form.

Over several steps r is the sum of the steps' returns: the amounts are held constant and profits are
taken out.

Source: Cornuejols and Tutuncu (2006), Optimization Methods in Finance, section 8.2;
Rockafellar and Uryasev (2000), https://doi.org/10.21314/JOR.2000.038.

Default data: ``history("portfolio")`` of `hedgecast.programs.catalog.history`.
"""

from __future__ import annotations

from collections.abc import Mapping

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError, SolveError
from hedgecast.programs.catalog import checks
from hedgecast.programs.program import TwoStageProgram

BASIS_POINTS = 1e4
"""Of wealth, in one: the unit of cost of mean-variance and mean-cvar."""

OBJECTIVES = ("mean-variance", "mean-cvar", "maximum-sharpe")


def build(
    num_steps: int = 1,
    *,
    num_assets: int = 20,
    objective: str = "mean-variance",
    risk_aversion: float = 5.0,
    transaction_cost: float = 0.001,
    min_weight: float = 0.0,
    max_weight: float = 1.0,
    max_turnover: float = 2.0,
    risk_free_rate: float = 0.0,
) -> TwoStageProgram:
    """The portfolio's program over ``num_steps`` returns of ``num_assets`` assets.

    Decision variable ``weights`` (num_assets,) and, for mean-variance, ``mean_return`` (1,); for
    maximum-sharpe ``scaled_weights`` (num_assets,) instead, see `sharpe_weights`. Uncertain ``returns``
    (num_steps, num_assets), simple returns per step; given ``holdings`` (num_assets,), the weights before
    trading, zero unless a caller gives them (then the whole portfolio is bought).

    Parameters
    ----------
    num_steps : int
        Steps of the horizon.
    num_assets : int
        Assets to choose from.
    objective : {"mean-variance", "mean-cvar", "maximum-sharpe"}
        What is optimized; see the formulas above.
    risk_aversion : float
        gamma, of mean-variance alone.
    transaction_cost : float
        c, cost of one unit of turnover, as a share of wealth.
    min_weight, max_weight : float
        Limits of each weight; a negative ``min_weight`` allows short positions.
    max_turnover : float
        Largest sum of bought and sold weights; 2 exchanges a whole long portfolio.
    risk_free_rate : float
        rf over the whole horizon, of maximum-sharpe alone.

    Raises
    ------
    ConfigError
        A parameter outside its range, or weight limits that no portfolio meets.
    """
    checks.whole(1, num_steps=num_steps, num_assets=num_assets)
    checks.one_of("objective", objective, OBJECTIVES)
    checks.at_least(
        0.0, risk_aversion=risk_aversion, transaction_cost=transaction_cost, max_turnover=max_turnover
    )
    checks.at_least(-1e6, min_weight=min_weight, max_weight=max_weight, risk_free_rate=risk_free_rate)
    _check_limits(num_assets, min_weight, max_weight)

    returns = cp.Parameter((num_steps, num_assets), name="returns")
    holdings = cp.Parameter(num_assets, name="holdings", value=np.zeros(num_assets))
    total = cp.sum(returns, axis=0)
    if objective == "maximum-sharpe":
        scaled = cp.Variable(num_assets, name="scaled_weights")
        mean_return = cp.Variable(1, name="mean_return")
        size = cp.sum(scaled)
        return TwoStageProgram(
            name="portfolio",
            decision=[scaled, mean_return],
            uncertain=returns,
            given=[holdings],
            constraints=[scaled >= min_weight * size, scaled <= max_weight * size, size >= 0],
            cost=transaction_cost * cp.norm1(scaled - cp.multiply(holdings, size)) + risk_free_rate * size,
            recourse_cost=-(total @ scaled) + 0.5 * cp.sum_squares(total @ scaled - mean_return),
        )

    weights = cp.Variable(num_assets, name="weights")
    turnover = cp.norm1(weights - holdings)
    decision = [weights]
    recourse_cost = -BASIS_POINTS * (total @ weights)
    if objective == "mean-variance":
        mean_return = cp.Variable(1, name="mean_return")
        decision.append(mean_return)
        recourse_cost += BASIS_POINTS * risk_aversion / 2 * cp.sum_squares(total @ weights - mean_return)
    return TwoStageProgram(
        name="portfolio",
        decision=decision,
        uncertain=returns,
        given=[holdings],
        constraints=[
            cp.sum(weights) == 1,
            weights >= min_weight,
            weights <= max_weight,
            turnover <= max_turnover,
        ],
        cost=BASIS_POINTS * transaction_cost * turnover,
        recourse_cost=recourse_cost,
    )


def sharpe_weights(values: Mapping[str, Tensor]) -> Tensor:
    """(B, num_assets) weights that sum to 1, from the decision of a maximum-sharpe program.

    Raises
    ------
    SolveError
        In some context no portfolio earns more than the risk-free rate, so there is no largest ratio.
    """
    scaled = values["scaled_weights"]
    size = scaled.sum(dim=-1, keepdim=True)
    # An optimum of zero comes back as solver noise around 1e-6; a real one has k = mean / variance.
    empty = (size <= 1e-4).flatten()
    if bool(empty.any()):
        member = int(torch.nonzero(empty)[0])
        raise SolveError(
            f"context {member}: no portfolio within the weight limits earns more than the risk-free rate "
            "and its transaction cost; lower risk_free_rate or use mean-variance",
            member=member,
        )
    return scaled / size


def _check_limits(num_assets: int, min_weight: float, max_weight: float) -> None:
    if min_weight > max_weight:
        raise ConfigError(
            f"min_weight = {min_weight!r} is above max_weight = {max_weight!r}: exchange them",
            key="min_weight",
        )
    for key, value, reached in (
        ("max_weight", max_weight, num_assets * max_weight >= 1.0 - 1e-12),
        ("min_weight", min_weight, num_assets * min_weight <= 1.0 + 1e-12),
    ):
        if not reached:
            raise ConfigError(
                f"{key} = {value!r}: {num_assets} weights cannot sum to 1; {key} = {1 / num_assets:g} is the "
                "limit",
                key=key,
            )
