import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError, SolveError
from hedgecast.programs.catalog import portfolio
from hedgecast.programs.risk import Risk

ASSETS = 5
TIGHT = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
HELD = np.array([0.5, 0.0, 0.2, 0.3, 0.0])


def _returns(scenarios: int, *, steps: int = 1) -> np.ndarray:
    rng = np.random.default_rng(5)
    mean = np.array([0.010, 0.004, 0.007, 0.002, 0.012])
    mixing = 0.02 * np.eye(ASSETS) + 0.004 * rng.normal(size=(ASSETS, ASSETS))
    return mean / steps + rng.normal(size=(scenarios, steps, ASSETS)) @ mixing


def test_mean_variance_is_that_of_the_sample_moments() -> None:
    returns = _returns(400)
    program = portfolio.build(num_assets=ASSETS, risk_aversion=4.0, transaction_cost=0.002, max_weight=0.6)
    decision = program.solve(returns[None], given={"holdings": HELD}, tolerance=1e-9).require_optimal()
    weights = cp.Variable(ASSETS)
    flat = returns[:, 0]
    variance = cp.quad_form(weights, cp.psd_wrap(np.cov(flat.T, bias=True)))
    cost = -flat.mean(axis=0) @ weights + 2.0 * variance
    constraints = [cp.sum(weights) == 1, weights >= 0, weights <= 0.6]
    problem = cp.Problem(cp.Minimize(cost + 0.002 * cp.norm1(weights - HELD)), constraints)
    problem.solve(solver=cp.CLARABEL, **TIGHT)
    assert decision.objective.item() == pytest.approx(1e4 * problem.value, rel=1e-6)
    np.testing.assert_allclose(decision.values["weights"][0], weights.value, atol=1e-4)
    expected = flat.mean(axis=0) @ decision.values["weights"][0].numpy()
    assert decision.values["mean_return"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("text", ["cvar:0.9", "mixture:0.3:0.95"])
def test_mean_cvar_is_that_of_the_rockafellar_uryasev_program(text: str) -> None:
    returns = _returns(300)
    risk = Risk.parse(text)
    program = portfolio.build(num_assets=ASSETS, objective="mean-cvar", max_weight=0.5, max_turnover=0.8)
    decision = program.solve(returns[None], given={"holdings": HELD}, risk=risk).require_optimal()
    weights, eta, excess = cp.Variable(ASSETS), cp.Variable(), cp.Variable(300, nonneg=True)
    loss = -returns[:, 0] @ weights
    tail = eta + cp.sum(excess) / (300 * (1 - risk.alpha))
    turnover = cp.norm1(weights - HELD)
    constraints = [cp.sum(weights) == 1, weights >= 0, weights <= 0.5, turnover <= 0.8, excess >= loss - eta]
    cost = (1 - risk.beta) * cp.sum(loss) / 300 + risk.beta * tail + 0.001 * turnover
    problem = cp.Problem(cp.Minimize(cost), constraints)
    problem.solve(solver=cp.HIGHS)
    assert decision.objective.item() == pytest.approx(1e4 * problem.value, rel=1e-6)
    chosen = decision.values["weights"][0]
    assert chosen.sum().item() == pytest.approx(1.0, abs=1e-7)
    assert np.abs(chosen.numpy() - HELD).sum() <= 0.8 + 1e-7


def test_thousands_of_scenarios_have_the_linear_programs_optimum() -> None:
    returns = _returns(3000)
    risk = Risk.parse("cvar:0.95")
    program = portfolio.build(num_assets=ASSETS, objective="mean-cvar")
    decision = program.solve(returns[None], risk=risk).require_optimal()
    weights, eta, excess = cp.Variable(ASSETS, nonneg=True), cp.Variable(), cp.Variable(3000, nonneg=True)
    constraints = [cp.sum(weights) == 1, excess >= -returns[:, 0] @ weights - eta]
    tail = eta + cp.sum(excess) / (3000 * 0.05)
    problem = cp.Problem(cp.Minimize(tail + 0.001 * cp.sum(weights)), constraints)
    problem.solve(solver=cp.HIGHS)
    assert decision.objective.item() == pytest.approx(1e4 * problem.value, rel=1e-6)


def test_maximum_sharpe_is_the_tangency_portfolio() -> None:
    # Closed form without limits and costs: weights in proportion to inverse covariance times excess mean.
    returns = _returns(500)[:, 0]
    program = portfolio.build(
        num_assets=ASSETS,
        objective="maximum-sharpe",
        transaction_cost=0.0,
        risk_free_rate=0.001,
        min_weight=-50.0,
        max_weight=50.0,
    )
    decision = program.solve(returns[None, :, None]).require_optimal()
    excess, covariance = returns.mean(axis=0) - 0.001, np.cov(returns.T, bias=True)
    direction = np.linalg.solve(covariance, excess)
    weights = portfolio.sharpe_weights(decision.values)[0]
    np.testing.assert_allclose(weights, direction / direction.sum(), rtol=1e-4)
    ratio = np.sqrt(excess @ direction)
    assert np.sqrt(-2 * decision.objective.item()) == pytest.approx(ratio, rel=1e-6)


def test_maximum_sharpe_with_limits_and_costs_beats_a_fine_search() -> None:
    returns = _returns(200)[:, 0]
    program = portfolio.build(
        num_assets=ASSETS, objective="maximum-sharpe", transaction_cost=0.002, max_weight=0.5
    )
    decision = program.solve(returns[None, :, None], given={"holdings": HELD}).require_optimal()
    weights = portfolio.sharpe_weights(decision.values)[0].numpy()
    assert weights.sum() == pytest.approx(1.0)
    assert weights.max() <= 0.5 + 1e-7
    mean, covariance = returns.mean(axis=0), np.cov(returns.T, bias=True)

    def ratio(w: np.ndarray) -> float:
        return float((w @ mean - 0.002 * np.abs(w - HELD).sum()) / np.sqrt(w @ covariance @ w))

    best = ratio(weights)
    assert np.sqrt(-2 * decision.objective.item()) == pytest.approx(best, rel=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        other = rng.dirichlet(np.ones(ASSETS) * 0.7)
        if other.max() <= 0.5:
            assert ratio(other) <= best + 1e-9


def test_no_excess_return_has_no_largest_ratio() -> None:
    program = portfolio.build(num_assets=ASSETS, objective="maximum-sharpe", risk_free_rate=0.5)
    decision = program.solve(_returns(100)[None]).require_optimal()
    with pytest.raises(SolveError, match="no portfolio within the weight limits earns more"):
        portfolio.sharpe_weights(decision.values)


def test_a_riskless_best_asset_takes_everything() -> None:
    returns = _returns(100)
    returns[:, :, 2] = 0.05
    decision = portfolio.build(num_assets=ASSETS, risk_aversion=100.0).solve(returns[None]).require_optimal()
    np.testing.assert_allclose(decision.values["weights"][0], [0, 0, 1, 0, 0], atol=1e-5)


def test_returns_of_several_steps_add_up() -> None:
    returns = _returns(80, steps=4)
    program = portfolio.build(4, num_assets=ASSETS)
    single = portfolio.build(1, num_assets=ASSETS)
    by_step = program.solve(returns[None]).require_optimal()
    at_once = single.solve(returns.sum(axis=1, keepdims=True)[None]).require_optimal()
    torch.testing.assert_close(by_step.objective, at_once.objective, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objective": "sharpe"}, "objective = 'sharpe': must be one of 'mean-variance'"),
        (
            {"num_assets": 5, "max_weight": 0.1},
            r"max_weight = 0\.1: 5 weights cannot sum to 1; max_weight = 0\.2",
        ),
        ({"num_assets": 5, "min_weight": 0.3}, r"min_weight = 0\.3: 5 weights cannot sum to 1"),
        ({"min_weight": 0.5, "max_weight": 0.2}, r"min_weight = 0\.5 is above max_weight"),
        ({"risk_aversion": -1.0}, r"risk_aversion = -1\.0: must be a finite number of at least 0"),
    ],
)
def test_a_parameter_outside_its_range_is_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        portfolio.build(**parameters)
