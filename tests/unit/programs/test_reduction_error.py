"""The error of a reduction in units of cost, against the newsvendor's formulas."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hedgecast.core.errors import ShapeError
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.reduction_error import reduction_error
from hedgecast.programs.risk import Risk
from hedgecast.scenarios.reduction import reduce_scenarios, reduce_set
from hedgecast.scenarios.scenario_set import ScenarioSet

SHORT, LEFT = 3.0, 1.0
Array = NDArray[np.float64]


def newsvendor(most_short: float | None = None) -> TwoStageProgram:
    """Order z in [0, limit], then pay ``SHORT`` a unit short and ``LEFT`` a unit left."""
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    short, limit = cp.Variable(name="short", nonneg=True), cp.Parameter(name="limit", value=100.0)
    return TwoStageProgram(
        name="newsvendor",
        decision=order,
        uncertain=demand,
        given=limit,
        constraints=[order >= 0, order <= limit],
        recourse_cost=SHORT * short + LEFT * cp.pos(order - demand),
        recourse_constraints=[
            order + short >= demand,
            *([] if most_short is None else [short <= most_short]),
        ],
    )


def costs_of(order: float, demand: Array) -> Array:
    return SHORT * np.maximum(demand - order, 0) + LEFT * np.maximum(order - demand, 0)


def best_order(demand: Array, weights: Array) -> float:
    """The quantile SHORT / (SHORT + LEFT)."""
    ranked = np.argsort(demand)
    reached = np.searchsorted(np.cumsum(weights[ranked]), SHORT / (SHORT + LEFT))
    return float(demand[ranked[reached]])


def drawn(size: int, seed: int) -> tuple[Array, Array]:
    draws = np.random.default_rng(seed)
    weights = draws.uniform(0.5, 1.5, size=size)
    return draws.gamma(4.0, 2.5, size=size), weights / weights.sum()


@pytest.mark.parametrize("backend", ["reference", "structured"])
@pytest.mark.parametrize(("method", "count"), [("forward-selection", 3), ("k-means", 3), ("k-means", 8)])
def test_the_error_is_the_newsvendors(backend: str, method: str, count: int) -> None:
    demand, weights = drawn(60, 1)
    small = reduce_scenarios(demand[:, None, None], count, probabilities=weights, method=method)  # type: ignore[arg-type]
    found = reduction_error(
        newsvendor(),
        demand[None, :, None],
        small.paths.reshape(1, -1, 1),
        probabilities=weights[None],
        reduced_probabilities=small.probabilities[None],
        backend=backend,
    )
    full, reduced = best_order(demand, weights), best_order(small.paths.ravel(), small.probabilities)
    expected = weights @ (costs_of(reduced, demand) - costs_of(full, demand))
    assert expected > 0.01
    assert found.error.item() == pytest.approx(expected, rel=1e-4)
    assert found.cost_full.item() == pytest.approx(weights @ costs_of(full, demand), rel=1e-6)
    believed = small.probabilities @ costs_of(reduced, small.paths.ravel())
    assert found.cost_believed.item() == pytest.approx(believed, rel=1e-6)
    assert found.relative_error.item() == pytest.approx(expected / found.cost_full.item(), rel=1e-4)
    assert found.optimism.item() == pytest.approx(weights @ costs_of(reduced, demand) - believed, rel=1e-4)


@pytest.mark.parametrize("risk", ["cvar:0.8", "mixture:0.5:0.9", "worst", "regret-cvar:0.5"])
def test_the_error_is_in_the_measure_that_is_minimized(risk: str) -> None:
    demand, _ = drawn(40, 2)
    small = reduce_scenarios(demand[:, None, None], 2, method="k-means")
    found = reduction_error(
        newsvendor(),
        demand[None, :, None],
        small.paths.reshape(1, -1, 1),
        reduced_probabilities=small.probabilities[None],
        risk=Risk.parse(risk),
        backend="reference",
    )
    # No order on a fine grid, judged by the definition of the measure, is better than the full optimum.
    measure = Risk.parse(risk)

    def rho(costs: Array) -> float:
        if measure.alpha == 1.0:
            tail = costs.max()
        else:
            worst = np.sort(costs)[::-1][: round((1 - measure.alpha) * costs.size)]
            tail = worst.mean()
        return float((1 - measure.beta) * costs.mean() + measure.beta * tail)

    grid = min(rho(costs_of(order, demand)) for order in np.linspace(0, demand.max(), 20_001))
    assert found.cost_full.item() == pytest.approx(grid, abs=1e-3)
    order = newsvendor().solve(
        small.paths.reshape(1, -1, 1), small.probabilities[None], risk=measure, backend="reference"
    )
    assert found.cost_reduced.item() == pytest.approx(rho(costs_of(order.flat.item(), demand)), rel=1e-6)
    assert found.error.item() > 0.01


def test_nothing_is_lost_where_nothing_is_left_out() -> None:
    demand, weights = drawn(12, 3)
    small = reduce_scenarios(demand[:, None, None], 12, probabilities=weights)
    found = reduction_error(
        newsvendor(),
        demand[None, :, None],
        small.paths.reshape(1, -1, 1),
        probabilities=weights[None],
        reduced_probabilities=small.probabilities[None],
    )
    assert found.error.item() == pytest.approx(0.0, abs=1e-5)
    assert found.optimism.item() == pytest.approx(0.0, abs=1e-5)


def test_more_scenarios_of_a_day_cost_less_and_batches_are_their_contexts() -> None:
    draws = torch.Generator().manual_seed(4)
    paths = 5 + torch.randn(2, 300, 6, 1, generator=draws, dtype=torch.float64).cumsum(dim=2)
    full = ScenarioSet(paths=paths, names=("load",), units=("GW",))
    program = build(6, capacity=12.0)
    optimum = program.solve(full.values)
    errors = []
    for count in (1, 5, 30):
        small, _ = reduce_set(full, count)
        found = reduction_error(
            program, full.values, small.values, reduced_probabilities=small.probabilities, optimum=optimum
        )
        errors.append(found.error)
        alone = reduction_error(
            program, full.values[1:], small.values[1:], reduced_probabilities=small.weights()[1:]
        )
        torch.testing.assert_close(alone.error[0], found.error[1], rtol=1e-4, atol=1e-4)
    assert (torch.stack(errors) >= -1e-4).all()
    assert (errors[0] > errors[1]).all()
    assert (errors[1] > errors[2]).all()


def test_a_decision_without_recourse_costs_infinity_and_one_that_is_none_nan() -> None:
    program = newsvendor(most_short=2.0)
    demand = torch.tensor([[1.0, 9.0], [1.0, 9.0]], dtype=torch.float64)[..., None]
    few = torch.tensor([[1.0], [9.0]], dtype=torch.float64)[..., None]
    limits = {"limit": torch.tensor([20.0, 5.0], dtype=torch.float64)}
    found = reduction_error(program, demand, few, limits)
    assert found.cost_full[0].item() == pytest.approx(0.5 * LEFT * 8, rel=1e-5)
    assert torch.isposinf(found.cost_reduced[0])
    assert torch.isposinf(found.relative_error[0])
    # With at most 5 in stock no order meets 9 less 2.
    assert torch.isnan(found.cost_full[1])
    assert torch.isnan(found.cost_reduced[1])


def test_sets_of_other_contexts_are_refused() -> None:
    with pytest.raises(ShapeError, match="1 reduced contexts for 2 full ones"):
        reduction_error(newsvendor(), torch.ones(2, 3, 1), torch.ones(1, 2, 1))
