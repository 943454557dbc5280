import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog import battery_storage
from hedgecast.programs.risk import Risk

STEPS = 6
SETTINGS = {
    "capacity_mwh": 2.0,
    "level_cost": 0.3,
    "power_cost": 0.2,
    "degradation_cost": 0.7,
    "step_hours": 0.5,
}


def _prices(contexts: int, scenarios: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    wave = 12.0 * torch.sin(torch.arange(STEPS, dtype=torch.float64))
    noise = torch.randn(contexts, scenarios, STEPS, generator=generator, dtype=torch.float64)
    return 40.0 + wave + 15.0 * noise


def _extensive(prices: np.ndarray, weights: np.ndarray, alpha: float) -> tuple[float, np.ndarray]:
    """The optimum by plain CVXPY; the state is eliminated, so the form differs from the program's."""
    steps = prices.shape[1]
    charge, discharge = cp.Variable(steps, nonneg=True), cp.Variable(steps, nonneg=True)
    state = 1.0 + np.tril(np.ones((steps, steps))) @ (0.9 * charge - discharge)
    known = (
        0.3 * cp.sum_squares(state - 1.0)
        + 0.2 * cp.sum_squares(charge)
        + 0.2 * cp.sum_squares(discharge)
        + 0.7 * cp.sum(charge + discharge)
    )
    costs = prices @ (charge - discharge)
    eta = cp.Variable()
    tail = eta + weights @ cp.pos(costs - eta) / (1 - alpha) if alpha > 0 else weights @ costs
    constraints = [state >= 0, state <= 2.0, charge <= 0.25, discharge <= 0.1]
    problem = cp.Problem(cp.Minimize(known + tail), constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return float(problem.value), np.concatenate([charge.value, discharge.value])


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_the_optimum_is_that_of_the_extensive_form(alpha: float) -> None:
    program = battery_storage.build(STEPS, **SETTINGS)
    prices = _prices(2, 30)
    risk = Risk(beta=1.0, alpha=alpha)
    decision = program.solve(prices, risk=risk).require_optimal()
    for member in range(2):
        optimum, plan = _extensive(prices[member].numpy(), np.full(30, 1 / 30), alpha)
        assert decision.objective[member].item() == pytest.approx(optimum, rel=1e-6)
        np.testing.assert_allclose(decision.flat[member, : 2 * STEPS], plan, atol=2e-4)


def test_the_plan_keeps_the_limits() -> None:
    plan = battery_storage.build(STEPS, **SETTINGS).solve(_prices(3, 20)).require_optimal().values
    charge, discharge, state = plan["charge"], plan["discharge"], plan["state"]
    before = torch.cat([torch.ones(3, 1, dtype=torch.float64), state[:, :-1]], dim=1)
    torch.testing.assert_close(state, before + 0.9 * charge - discharge, atol=1e-7, rtol=0.0)
    for value, high in ((charge, 0.25), (discharge, 0.1), (state, 2.0)):
        assert value.min() > -1e-7
        assert value.max() < high + 1e-7


def test_known_prices_are_bought_low_and_sold_high() -> None:
    # Without penalties: sell what the later fill needs no room for, fill at the low price, sell all.
    program = battery_storage.build(
        3, level_cost=0.0, power_cost=0.0, max_charge_mw=1.0, max_discharge_mw=1.0, efficiency=0.9
    )
    decision = program.solve(np.array([[[50.0, 10.0, 80.0]]])).require_optimal()
    np.testing.assert_allclose(decision.values["discharge"][0], [0.4, 0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(decision.values["charge"][0], [0.0, 1.0, 0.0], atol=1e-5)
    assert decision.objective.item() == pytest.approx(-0.4 * 50 + 10 - 80, rel=1e-6)


def test_wear_above_the_spread_stops_trade() -> None:
    program = battery_storage.build(
        3, level_cost=0.0, power_cost=0.0, degradation_cost=100.0, final_fraction=0.5
    )
    decision = program.solve(np.array([[[50.0, 10.0, 80.0]]])).require_optimal()
    np.testing.assert_allclose(decision.flat[0, :6], np.zeros(6), atol=1e-6)


def test_the_expected_cost_depends_on_the_mean_price_alone() -> None:
    program = battery_storage.build(STEPS, **SETTINGS)
    prices = _prices(1, 25)
    spread = program.solve(prices).require_optimal()
    mean = program.solve(prices.mean(dim=1, keepdim=True)).require_optimal()
    torch.testing.assert_close(spread.objective, mean.objective, rtol=1e-6, atol=0.0)


def test_a_given_initial_state_replaces_the_default() -> None:
    program = battery_storage.build(2, level_cost=0.0, power_cost=0.0, max_discharge_mw=1.0)
    decision = program.solve(
        np.full((1, 1, 2), 30.0), given={"initial_state": np.array([0.8])}
    ).require_optimal()
    assert decision.values["discharge"].sum().item() == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"efficiency": 1.2}, r"efficiency = 1\.2: must lie in \[0, 1\]"),
        ({"capacity_mwh": 0.0}, r"capacity_mwh = 0\.0: must be a finite number above 0"),
        ({"num_steps": 0}, "num_steps = 0: must be a whole number of at least 1"),
        ({"level_cost": float("nan")}, "level_cost = nan: must be a finite number"),
        (
            {"num_steps": 1, "final_fraction": 1.0, "max_charge_mw": 0.1},
            "final_fraction = 1.0: the state would",
        ),
    ],
)
def test_a_parameter_outside_its_range_is_refused(parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        battery_storage.build(**parameters)
