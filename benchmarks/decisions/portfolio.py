"""Twenty stocks of the S&P 500, decided every five trading days: mean-CVaR after costs.

    min  10^4 ( (1 - b) E[-r'w] + b CVaR_a[-r'w] + c |w - w0|_1 ),    b = 1/2, a = 0.95, c = 0.001      (1)

on returns r of the next five days, w0 the weights before trading. Methods with scenarios learn to 2012,
validate to 2015 and are never fitted again; in training w0 is zero, a constant. The others look back 1,000
trading days at every decision, test days included once they are past, which the learned methods do not:

    equal weight          1/20 each, rebalanced
    minimum variance      skfolio, empirical covariance of 5-day returns
    skfolio mean-CVaR     skfolio with its historical prior, (1) with equal weights of mean and CVaR

All pay c for their turnover, and weights drift between decisions. Stocks are those that were large at the
end, so every figure is too good in the same way: differences count.

Source: Rockafellar and Uryasev (2000), https://doi.org/10.21314/JOR.2000.038; skfolio's documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from numpy.typing import NDArray
from small import CONFIG

from hedgecast.learning.methods import fit_methods
from hedgecast.learning.part import Part
from hedgecast.programs.catalog import portfolio
from hedgecast.programs.program import TwoStageProgram

STEP = 5
LOOK_BACK = 1000
BETA, ALPHA, COST = 0.5, 0.95, 0.001
NUM_SCENARIOS = 500
VALIDATION, TEST = np.datetime64("2013-01-01"), np.datetime64("2016-01-01")
METHODS = ("ridge-residual", "diffusion", "diffusion-dfl")
BLOCK_WEEKS, RESAMPLES = 8, 2000
WEEKS_PER_YEAR = 252 / STEP

Array = NDArray[np.float64]
Weigh = Callable[[int, Array], Array]
"""(test row, weights before) to weights."""


@dataclasses.dataclass(frozen=True, slots=True)
class Weeks:
    """Decisions every `STEP` trading days."""

    whole: Part
    daily: Array
    """(days, assets) simple returns."""
    starts: NDArray[np.int64]
    """(B,) row in ``daily`` of each decision's first return."""


def run(seeds: int) -> dict[str, Any]:
    """Realized mean-CVaR and Sharpe ratio of every method, and intervals of the differences."""
    weeks = _weeks()
    whole = weeks.whole
    edges = np.searchsorted(whole.days, np.array([VALIDATION, TEST]))
    train, validation = whole.select(slice(0, edges[0])), whole.select(slice(*edges))
    test = whole.select(slice(edges[1], None))
    returns = test.targets[:, 0].numpy()
    starts = weeks.starts[edges[1] :]
    paths: dict[str, list[Array]] = {
        "equal weight": [_held(_equal, returns)],
        "minimum variance": [_held(_skfolio(weeks, starts, cvar=False), returns)],
        "skfolio mean-CVaR": [_held(_skfolio(weeks, starts, cvar=True), returns)],
    }
    decide = program(1)
    for seed in range(seeds):
        config = dataclasses.replace(CONFIG, seed=seed, joint_learning_rate=3e-4)
        fitted = fit_methods(METHODS, train, validation, config, decide)
        for name, method in fitted.items():
            scenarios = method.scenarios(test, NUM_SCENARIOS, seed).values
            paths.setdefault(name, []).append(_held(_program(decide, scenarios), returns))
    return {
        "title": "portfolio of 20 stocks, mean-CVaR",
        "rows": [_row(name, found) for name, found in paths.items()],
        "pairs": _pairs(paths),
        "parts": {
            name: [len(part), str(part.days[0]), str(part.days[-1])]
            for name, part in (("train", train), ("validation", validation), ("test", test))
        },
        "scenarios": NUM_SCENARIOS,
        "seeds": seeds,
    }


def program(num_steps: int) -> TwoStageProgram:
    """Equation (1) with the threshold of the CVaR as one more decision."""
    plain = portfolio.build(num_steps, objective="mean-cvar", transaction_cost=COST)
    threshold = cp.Variable(1, name="threshold")
    loss = plain.recourse_cost
    return TwoStageProgram(
        name="portfolio_mean_cvar",
        decision=[*plain.decision, threshold],
        uncertain=plain.uncertain,
        given=plain.given,
        constraints=plain.constraints,
        cost=plain.cost + BETA * cp.sum(threshold),
        recourse_cost=(1.0 - BETA) * loss + BETA / (1.0 - ALPHA) * cp.sum(cp.pos(loss - threshold)),
    )


def _weeks() -> Weeks:
    from skfolio.datasets import load_sp500_dataset  # type: ignore[import-untyped]

    prices = load_sp500_dataset()
    dates = prices.index.to_numpy().astype("datetime64[D]")[1:]
    values = prices.to_numpy(dtype=np.float64)
    daily = values[1:] / values[:-1] - 1.0
    starts = np.arange(LOOK_BACK, len(daily) - STEP + 1, STEP)
    targets = np.stack([np.prod(1.0 + daily[s : s + STEP], axis=0) - 1.0 for s in starts])
    market = daily.mean(axis=1)
    context = np.stack([np.concatenate(_features(daily[:s], market[:s])) for s in starts])
    whole = Part.of_arrays(
        context,
        targets[:, None, :],
        days=dates[starts],
        names=[str(name) for name in prices.columns],
        units=["1"] * targets.shape[1],
        days_to_outcome=7,
    )
    return Weeks(whole, daily, starts)


def _features(daily: Array, market: Array) -> list[Array]:
    """Last week's and month's returns, log volatility of each stock and of all over a month and a quarter."""
    volatility = np.log(daily[-20:].std(axis=0) + 1e-4)
    spans = [np.log(market[-length:].std() + 1e-4) for length in (5, 20, 60)]
    return [daily[-5:].sum(axis=0), daily[-20:].sum(axis=0), volatility, np.array(spans)]


def _held(weigh: Weigh, returns: Array) -> Array:
    """(B,) net returns of holding ``weigh``'s weights, which drift until the next decision."""
    before = np.full(returns.shape[1], 0.0)
    net = np.empty(len(returns))
    for row, now in enumerate(returns):
        weights = weigh(row, before)
        gain = float(weights @ now)
        net[row] = gain - COST * np.abs(weights - before).sum()
        before = weights * (1.0 + now) / (1.0 + gain)
    return net


def _equal(row: int, before: Array) -> Array:
    del row
    return np.full(len(before), 1.0 / len(before))


def _program(decide: TwoStageProgram, scenarios: torch.Tensor) -> Weigh:
    def weigh(row: int, before: Array) -> Array:
        decision = decide.solve(scenarios[row : row + 1], given={"holdings": before})
        decision.require_optimal()
        weights = np.maximum(decision.flat[0, : len(before)].numpy(), 0.0)
        return np.asarray(weights / weights.sum())

    return weigh


def _skfolio(weeks: Weeks, starts: NDArray[np.int64], *, cvar: bool) -> Weigh:
    from skfolio import RiskMeasure  # type: ignore[import-untyped]
    from skfolio.optimization import MeanRisk, ObjectiveFunction  # type: ignore[import-untyped]

    def weigh(row: int, before: Array) -> Array:
        past = weeks.daily[starts[row] - LOOK_BACK : starts[row]]
        blocks = np.prod(1.0 + past.reshape(-1, STEP, past.shape[1]), axis=1) - 1.0
        model = MeanRisk(
            objective_function=ObjectiveFunction.MAXIMIZE_UTILITY
            if cvar
            else ObjectiveFunction.MINIMIZE_RISK,
            risk_measure=RiskMeasure.CVAR if cvar else RiskMeasure.VARIANCE,
            risk_aversion=BETA / (1.0 - BETA),
            cvar_beta=ALPHA,
            # Utility is over twice (1): so is the cost.
            transaction_costs=COST / (1.0 - BETA) if cvar else 0.0,
            previous_weights=before,
        )
        return np.asarray(model.fit(blocks).weights_)

    return weigh


def _figures(net: Array) -> Array:
    """(mean-CVaR of losses in basis points a decision, Sharpe ratio a year) over the last axis."""
    losses = np.sort(-net, axis=-1)
    tail = losses[..., int(np.floor(ALPHA * net.shape[-1])) :].mean(axis=-1)
    mean = net.mean(axis=-1)
    risk = 1e4 * ((1.0 - BETA) * -mean + BETA * tail)
    return np.stack([risk, mean / net.std(axis=-1) * np.sqrt(WEEKS_PER_YEAR)], axis=-1)


def _resampled(found: list[Array]) -> Array:
    """(resamples, 2) figures of blocks of weeks, the same blocks for every method, mean over seeds."""
    draws = np.random.default_rng(0)
    num_weeks = len(found[0])
    starts = draws.integers(0, num_weeks - BLOCK_WEEKS + 1, (RESAMPLES, -(-num_weeks // BLOCK_WEEKS)))
    rows = (starts[:, :, None] + np.arange(BLOCK_WEEKS)).reshape(RESAMPLES, -1)[:, :num_weeks]
    return np.asarray(np.mean([_figures(net[rows]) for net in found], axis=0))


def _row(name: str, found: list[Array]) -> dict[str, Any]:
    each = np.stack([_figures(net) for net in found])
    low, high = np.quantile(_resampled(found), [0.025, 0.975], axis=0)
    return {
        "method": name,
        "mean_cvar": float(each[:, 0].mean()),
        "mean_cvar_interval": [float(low[0]), float(high[0])],
        "sharpe": float(each[:, 1].mean()),
        "sharpe_interval": [float(low[1]), float(high[1])],
        "return_per_year": float(np.mean([net.mean() for net in found]) * WEEKS_PER_YEAR),
        "seed_figures": each.tolist(),
    }


def _pairs(paths: dict[str, list[Array]]) -> list[dict[str, Any]]:
    """Differences of the last method, the joint one, to each other."""
    pairs = []
    joint = METHODS[-1]
    for other in paths:
        if other == joint:
            continue
        low, high = np.quantile(_resampled(paths[joint]) - _resampled(paths[other]), [0.025, 0.975], axis=0)
        mean = np.mean([_figures(net) for net in paths[joint]], axis=0) - np.mean(
            [_figures(net) for net in paths[other]], axis=0
        )
        pairs.append(
            {
                "method": joint,
                "other": other,
                "mean_cvar": float(mean[0]),
                "mean_cvar_interval": [float(low[0]), float(high[0])],
                "sharpe": float(mean[1]),
                "sharpe_interval": [float(low[1]), float(high[1])],
            }
        )
    return pairs
