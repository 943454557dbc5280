import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.programs.catalog import freight_routing
from hedgecast.programs.risk import Risk

DAYS, LANES = 4, 3
SETTINGS = {
    "num_lanes": LANES,
    "route_cost": [3.0, 4.0, 5.0],
    "truck_cost": 15.0,
    "idle_cost": 1.5,
    "spot_cost": [55.0, 60.0, 45.0],
    "storage_cost": 2.5,
    "lateness_cost": [9.0, 12.0, 7.0],
    "final_cost": 70.0,
    "planned_tonnes": [8.0, 6.0, 4.0],
    "max_route_tonnes": 12.0,
    "max_truck_tonnes": 25.0,
}
BACKLOG = np.array([[1.0, 0.0, 2.0]])


def _arrivals(contexts: int, scenarios: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    delays = (
        2.5 * torch.rand(contexts, scenarios, DAYS, LANES, generator=generator, dtype=torch.float64) - 0.5
    )
    planned = torch.tensor([8.0, 6.0, 4.0], dtype=torch.float64).expand(DAYS, LANES)
    return freight_routing.arrivals_from_delays(planned, delays)


def _extensive(arrivals: np.ndarray, alpha: float) -> float:
    """The optimum by HiGHS; storage is eliminated by cumulative sums, so the form differs."""
    count = arrivals.shape[0]
    route, truck = cp.Variable(LANES, nonneg=True), cp.Variable(DAYS, nonneg=True)
    constraints, costs = [route <= 12.0, truck <= 25.0], []
    due = np.cumsum(np.tile([8.0, 6.0, 4.0], (DAYS, 1)), axis=0)
    for s in range(count):
        booked, spot = cp.Variable((DAYS, LANES), nonneg=True), cp.Variable((DAYS, LANES), nonneg=True)
        shipped = cp.cumsum(booked + spot, axis=0)
        stored = BACKLOG + np.cumsum(arrivals[s], axis=0) - shipped
        constraints += [stored >= 0, cp.sum(booked, axis=1) <= truck]
        constraints += [booked[t] <= route for t in range(DAYS)]
        cost = 1.5 * cp.sum(truck - cp.sum(booked, axis=1)) + cp.sum(spot @ np.array([55.0, 60.0, 45.0]))
        cost += 2.5 * cp.sum(stored) + 70.0 * cp.sum(stored[DAYS - 1])
        costs.append(cost + cp.sum(cp.pos(due - shipped) @ np.array([9.0, 12.0, 7.0])))
    spread = cp.hstack(costs)
    eta = cp.Variable()
    tail = eta + cp.sum(cp.pos(spread - eta)) / (count * (1 - alpha)) if alpha else cp.sum(spread) / count
    known = DAYS * (np.array([3.0, 4.0, 5.0]) @ route) + 15.0 * cp.sum(truck)
    problem = cp.Problem(cp.Minimize(known + tail), constraints)
    problem.solve(solver=cp.HIGHS)
    return float(problem.value)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_the_optimum_is_that_of_the_extensive_form(alpha: float) -> None:
    program = freight_routing.build(DAYS, **SETTINGS)
    arrivals = _arrivals(2, 10)
    risk = Risk(beta=1.0, alpha=alpha)
    decision = program.solve(arrivals, given={"backlog": BACKLOG}, risk=risk).require_optimal()
    for member in range(2):
        optimum = _extensive(arrivals[member].numpy(), alpha)
        assert decision.objective[member].item() == pytest.approx(optimum, rel=1e-6)
    route, truck = decision.values["route_capacity"], decision.values["truck_capacity"]
    assert min(route.min().item(), truck.min().item()) > -1e-6
    assert route.max() < 12.0 + 1e-6
    assert truck.max() < 25.0 + 1e-6


def test_freight_on_time_needs_just_its_own_trucks() -> None:
    program = freight_routing.build(2, num_lanes=2, planned_tonnes=5.0)
    decision = program.solve(np.full((1, 1, 2, 2), 5.0)).require_optimal()
    np.testing.assert_allclose(decision.values["truck_capacity"][0], [10.0, 10.0], atol=1e-4)
    np.testing.assert_allclose(decision.values["route_capacity"][0], [5.0, 5.0], atol=1e-4)
    assert decision.objective.item() == pytest.approx(2 * 4.0 * 10.0 + 20.0 * 20.0, rel=1e-6)


def test_free_spot_trucks_make_booking_worthless() -> None:
    program = freight_routing.build(DAYS, **{**SETTINGS, "spot_cost": 0.0})
    decision = program.solve(_arrivals(1, 6)).require_optimal()
    np.testing.assert_allclose(decision.flat[0], np.zeros(LANES + DAYS), atol=1e-4)


def test_every_scenario_has_a_recourse() -> None:
    program = freight_routing.build(DAYS, **SETTINGS)
    nothing = torch.zeros(1, LANES + DAYS, dtype=torch.float64)
    costs = program.value(nothing, _arrivals(1, 6))
    assert torch.isfinite(costs).all()


def test_delays_move_freight_and_lose_none() -> None:
    planned = torch.tensor([[4.0], [2.0], [0.0]], dtype=torch.float64)
    delays = torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    arrivals = freight_routing.arrivals_from_delays(planned, delays)
    torch.testing.assert_close(arrivals, torch.tensor([[0.0], [5.0], [1.0]], dtype=torch.float64))
    late = freight_routing.arrivals_from_delays(planned, torch.full((7, 3, 1), 40.0, dtype=torch.float64))
    torch.testing.assert_close(late[:, 2, 0], torch.full((7,), 6.0, dtype=torch.float64))
    early = freight_routing.arrivals_from_delays(planned, torch.full((3, 1), -2.0, dtype=torch.float64))
    torch.testing.assert_close(early, planned)


def test_arrivals_are_differentiable_in_delays() -> None:
    generator = torch.Generator().manual_seed(4)
    planned = torch.rand(3, 2, generator=generator, dtype=torch.float64)
    delays = (0.1 + 0.8 * torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: freight_routing.arrivals_from_delays(planned, d), (delays,))


def test_delays_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"planned has shape \(3, 2\) and delays_days \(4, 2\)"):
        freight_routing.arrivals_from_delays(torch.ones(3, 2), torch.ones(4, 2))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_lanes": 0}, "num_lanes = 0: must be a whole number of at least 1"),
        ({"spot_cost": [1.0]}, r"spot_cost has shape \(1,\): give one number, or a list of 4"),
        ({"final_cost": 0.0}, "final_cost = 0: freight left in the hub would cost nothing"),
        ({"idle_cost": -1.0}, r"idle_cost = -1\.0: must be a finite number of at least 0"),
    ],
)
def test_a_parameter_outside_its_range_is_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freight_routing.build(3, **parameters)
