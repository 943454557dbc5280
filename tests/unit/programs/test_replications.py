"""Gaps of single decisions: closed form, coverage, risk measures against a huge sample."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

from hedgecast.core.errors import ConfigError, HedgecastError, ShapeError
from hedgecast.programs.information import interval_of
from hedgecast.programs.measures import risk_value
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.replications import replicated_gaps, tail_threshold
from hedgecast.programs.risk import Risk


@pytest.fixture(scope="module")
def newsvendor() -> TwoStageProgram:
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    return TwoStageProgram(
        name="newsvendor",
        decision=order,
        uncertain=demand,
        recourse_cost=3 * cp.pos(demand - order) + cp.pos(order - demand),
    )


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 1, generator=generator, dtype=torch.float64)


def true_gap(order: float) -> float:
    """Of demand uniform on [0, 1]: cost 3 (1 - z)^2 / 2 + z^2 / 2, least at z = 3/4."""

    def cost(z: float) -> float:
        return 1.5 * (1 - z) ** 2 + 0.5 * z**2

    return cost(order) - cost(0.75)


def test_the_mean_gap_is_above_the_true_one_and_near_it(newsvendor: TwoStageProgram) -> None:
    decision = torch.tensor([[0.6]], dtype=torch.float64)
    gaps = replicated_gaps(newsvendor, decision, uniform(1, 200, 100), None, risk=Risk(), threshold=0.0)
    interval = interval_of(gaps, 0.95)
    assert bool((gaps >= -1e-7).all())
    error = float(interval.standard_error)
    # The bias of a sample optimum of 100 is near 1 / 100 of the cost's curvature: 4/2 var(z) = 0.004.
    assert true_gap(0.6) - 3 * error < float(interval.gap) < true_gap(0.6) + 0.008 + 3 * error


def test_the_bound_covers(newsvendor: TwoStageProgram) -> None:
    decision = torch.tensor([[0.7]], dtype=torch.float64)
    gaps = replicated_gaps(
        newsvendor, decision, uniform(1, 400 * 5, 50, seed=1), None, risk=Risk(), threshold=0.0
    )
    upper = interval_of(gaps.reshape(400, 5), 0.9).upper
    # 400 intervals: a coverage of 0.9 has a standard error of 0.015; the estimate's bias only adds to it.
    assert float((upper >= true_gap(0.7)).double().mean()) > 0.9 - 3 * 0.015


@pytest.mark.parametrize(
    "risk",
    [Risk(beta=0.5, alpha=0.8), Risk(beta=1.0, alpha=0.8), Risk(beta=0.5, alpha=0.8, on_regret=True)],
    ids=str,
)
def test_tail_measures(newsvendor: TwoStageProgram, risk: Risk) -> None:
    order = torch.tensor([[0.6]], dtype=torch.float64)
    many = uniform(1, 2_000, seed=2)
    costs = newsvendor.value(order, many)
    benchmarks = torch.zeros_like(costs)
    weights = torch.full_like(costs, 1 / costs.shape[1])
    at_order = risk_value(risk, costs, weights, benchmarks)
    # Nobody knows the future here: with demand known the cost is zero, so regret is the cost.
    best = newsvendor.solve(many, risk=risk).objective
    threshold = tail_threshold(costs[0], weights[0], risk)
    gaps = replicated_gaps(
        newsvendor, order, uniform(1, 40, 100, seed=3), None, risk=risk, threshold=threshold
    )
    error = float(gaps.std()) / 40**0.5
    assert float(gaps.mean()) == pytest.approx(float(at_order - best), abs=0.02 + 3 * error)


def test_batches_do_not_change_the_gaps(newsvendor: TwoStageProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = torch.tensor([[0.6]], dtype=torch.float64)
    whole = replicated_gaps(newsvendor, decision, uniform(1, 5, 20), None, risk=Risk(), threshold=0.0)
    monkeypatch.setattr("hedgecast.programs.replications._MOST_SCENARIOS", 40)
    calls = []
    parts = replicated_gaps(
        newsvendor,
        decision,
        uniform(1, 5, 20),
        None,
        risk=Risk(),
        threshold=0.0,
        check=lambda: calls.append(1),
    )
    assert torch.allclose(whole, parts, atol=1e-7)
    assert len(calls) == 6


def test_contexts_together_have_the_gaps_of_each_alone() -> None:
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    price, short = cp.Parameter(nonneg=True, name="price", value=3.0), cp.Variable(nonneg=True, name="short")
    program = TwoStageProgram(
        name="newsvendor",
        decision=order,
        uncertain=demand,
        given=price,
        recourse_cost=price * short + cp.pos(order - demand),
        recourse_constraints=[order + short >= demand],
    )
    orders = torch.tensor([[0.6], [0.8], [0.7]], dtype=torch.float64)
    fresh = uniform(3, 4, 30, seed=4)
    prices = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    risk, thresholds = Risk(beta=0.5, alpha=0.8), torch.tensor([0.5, 0.4, 0.6], dtype=torch.float64)
    together = replicated_gaps(program, orders, fresh, {"price": prices}, risk=risk, threshold=thresholds)
    for member in range(3):
        alone = replicated_gaps(
            program, orders[[member]], fresh[[member]], {"price": prices[member]}, risk=risk,
            threshold=float(thresholds[member]),
        )  # fmt: skip
        torch.testing.assert_close(together[[member]], alone, rtol=1e-6, atol=1e-6)
    with pytest.raises(ShapeError, match="2 decisions for 3 contexts"):
        replicated_gaps(program, orders[:2], fresh, None, risk=risk, threshold=0.0)


def test_the_worst_case_and_too_few_are_refused(newsvendor: TwoStageProgram) -> None:
    decision = torch.tensor([[0.6]], dtype=torch.float64)
    worst = Risk(beta=1.0, alpha=1.0)
    with pytest.raises(ConfigError, match="never drawn"):
        replicated_gaps(newsvendor, decision, uniform(1, 2, 4), None, risk=worst, threshold=0.0)
    for gaps, confidence in ((torch.zeros(1, 1), 0.9), (torch.zeros(1, 2), 1.0)):
        with pytest.raises(HedgecastError, match=r"at least two|between 0 and 1"):
            interval_of(gaps, confidence)
