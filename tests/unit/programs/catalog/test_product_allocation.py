import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog import product_allocation
from hedgecast.programs.risk import Risk

COSTS, PRICES = np.array([2.0, 1.5, 1.0]), np.array([5.0, 4.0, 3.5])
SETTINGS = {
    "num_products": 3,
    "unit_cost": [2.0, 1.5, 1.0],
    "price": [5.0, 4.0, 3.5],
    "shortage_cost": 0.4,
    "salvage_value": 0.3,
    "capacity": 45.0,
    "capacity_use": [1.0, 1.2, 0.8],
    "substitution_cost": 0.6,
}


def _demand(contexts: int, scenarios: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return 30.0 * torch.rand(contexts, scenarios, 2, 3, generator=generator, dtype=torch.float64)


def _extensive(demand: np.ndarray, allowed: np.ndarray, alpha: float) -> float:
    """The optimum by HiGHS; sales are a full matrix per scenario and step, so the form differs."""
    count, steps = demand.shape[:2]
    stock = cp.Variable((steps, 3), nonneg=True)
    margin = PRICES[None, :] - 0.6 * (1 - np.eye(3))
    constraints, costs = [stock @ np.array([1.0, 1.2, 0.8]) <= 45.0], []
    for s in range(count):
        cost = 0
        for t in range(steps):
            sales = cp.Variable((3, 3), nonneg=True)
            used, served = cp.sum(sales, axis=1), cp.sum(sales, axis=0)
            constraints += [used <= stock[t], served <= demand[s, t], sales[~allowed] == 0]
            cost += 0.4 * cp.sum(demand[s, t] - served) - cp.sum(cp.multiply(margin, sales))
            cost -= 0.3 * cp.sum(stock[t] - used)
        costs.append(cost)
    spread = cp.hstack(costs)
    eta = cp.Variable()
    tail = eta + cp.sum(cp.pos(spread - eta)) / (count * (1 - alpha)) if alpha else cp.sum(spread) / count
    problem = cp.Problem(cp.Minimize(cp.sum(stock @ COSTS) + tail), constraints)
    problem.solve(solver=cp.HIGHS)
    return float(problem.value)


@pytest.mark.parametrize(
    ("substitution", "allowed", "alpha"),
    [
        ("none", np.eye(3, dtype=bool), 0.0),
        ("downward", np.triu(np.ones((3, 3), dtype=bool)), 0.75),
        ("full", np.ones((3, 3), dtype=bool), 0.0),
    ],
)
def test_the_optimum_is_that_of_the_extensive_form(
    substitution: str, allowed: np.ndarray, alpha: float
) -> None:
    program = product_allocation.build(2, substitution=substitution, **SETTINGS)
    demand = _demand(2, 12)
    decision = program.solve(demand, risk=Risk(beta=1.0, alpha=alpha)).require_optimal()
    for member in range(2):
        optimum = _extensive(demand[member].numpy(), allowed, alpha)
        assert decision.objective[member].item() == pytest.approx(optimum, rel=1e-6)
    stock = decision.values["stock"]
    assert stock.min() > -1e-7
    assert (stock @ torch.tensor([1.0, 1.2, 0.8], dtype=torch.float64)).max() < 45.0 + 1e-6


def test_one_product_is_the_newsvendor() -> None:
    # Critical ratio (3 + 0 - 1) / (3 - 0.2): the optimum is that quantile of the sample.
    program = product_allocation.build(1, num_products=1, substitution="none")
    demand = np.arange(1.0, 101.0)
    decision = program.solve(demand.reshape(1, 100, 1, 1)).require_optimal()
    assert decision.values["stock"].item() == pytest.approx(np.ceil(100 * 2 / 2.8), abs=1e-3)


def test_known_demand_is_met_exactly() -> None:
    program = product_allocation.build(1, num_products=3)
    decision = program.solve(np.array([[[[4.0, 7.0, 2.0]]]])).require_optimal()
    np.testing.assert_allclose(decision.values["stock"][0, 0], [4.0, 7.0, 2.0], atol=1e-5)
    assert decision.objective.item() == pytest.approx(-2.0 * 13.0, rel=1e-6)


def test_substitution_never_costs() -> None:
    demand = _demand(1, 15)
    costs = [
        product_allocation.build(2, substitution=s, **SETTINGS)
        .solve(demand)
        .require_optimal()
        .objective.item()
        for s in ("none", "downward", "full")
    ]
    assert costs[0] >= costs[1] - 1e-6 >= costs[2] - 2e-6


def test_exponential_utility_is_the_minimum_of_the_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    profits = product_allocation.exponential_profits(60, num_products=4, generator=generator)
    program = product_allocation.build(1, num_products=4, utility="exponential", capacity=2.0)
    decision = program.solve(profits.reshape(1, 60, 1, 4), backend="reference").require_optimal()
    y = profits.numpy()

    def mean_cost(z: np.ndarray) -> tuple[float, np.ndarray]:
        costs = np.exp(-y @ z)
        return costs.mean(), -(costs[:, None] * y).mean(axis=0)

    found = minimize(
        mean_cost, np.ones(4), jac=True, bounds=[(0, 2)] * 4, options={"ftol": 1e-15, "gtol": 1e-12}
    )
    assert decision.objective.item() == pytest.approx(found.fun, rel=1e-6)
    np.testing.assert_allclose(decision.values["amounts"][0, 0], found.x, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_exponential_utility_has_gradients_through_cvxpylayers() -> None:
    # E exp(-y z) has slope -E y exp(-y z) = 0 and curvature E y^2 exp(-y z) at z: dz/dy follows.
    generator = torch.Generator().manual_seed(2)
    profits = 0.4 + torch.randn(1, 12, 1, 1, generator=generator, dtype=torch.float64)
    program = product_allocation.build(1, num_products=1, utility="exponential", capacity=2.0)
    layer = program.layer(backend="cvxpylayers", tolerance=1e-9)
    leaf = profits.clone().requires_grad_()
    amount = layer(leaf)
    reference = program.solve(profits, backend="reference").require_optimal()
    torch.testing.assert_close(amount.detach(), reference.flat, rtol=0, atol=1e-5)
    assert 0.0 < amount.item() < 2.0
    (slope,) = torch.autograd.grad(amount.sum(), leaf)
    y, z = profits.flatten(), amount.detach().item()
    weight = torch.exp(-y * z)
    expected = (1.0 - y * z) * weight / (y.square() * weight).sum()
    torch.testing.assert_close(slope.flatten(), expected, rtol=1e-3, atol=1e-4)


def test_the_published_exponential_task_has_population_optimum_0_4006() -> None:
    generator = torch.Generator().manual_seed(1)
    profits = product_allocation.exponential_profits(400_000, generator=generator)
    costs = torch.exp(-profits.sum(dim=1) * 0.54521)
    standard_error = costs.std() / 400_000**0.5
    assert abs(costs.mean() - 0.40056) < 3 * standard_error
    assert standard_error < 0.002


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"substitution": "some"}, "substitution = 'some': must be one of 'none', 'downward', 'full'"),
        (
            {"num_products": 3, "price": [1.0, 2.0]},
            r"price has shape \(2,\): give one number, or a list of 3",
        ),
        ({"salvage_value": 1.0}, "salvage_value = 1 of product 0 is not below its unit_cost 1"),
        ({"unit_cost": "dear"}, "unit_cost = 'dear': must be a number"),
        ({"capacity": -1.0}, r"capacity = -1\.0: must be a finite number of at least 0"),
        ({"utility": "exponential", "capacity": 0.0}, r"capacity = 0\.0: must be a finite number above 0"),
    ],
)
def test_a_parameter_outside_its_range_is_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        product_allocation.build(1, **parameters)
