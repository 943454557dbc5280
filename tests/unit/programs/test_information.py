"""EVPI, VSS and the gap's interval by closed form, batch against loop, and where a part does not exist."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.programs.appraisal import appraise
from hedgecast.programs.information import Information
from hedgecast.programs.program import TwoStageProgram


def newsvendor(*, price: float = 3.0, salvage: float = 1.0, most: float | None = None) -> TwoStageProgram:
    """Order z >= 0, then pay ``price`` for each unit short, ``salvage`` for each one left; at most short."""
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    short = cp.Variable(name="short", nonneg=True)
    limits = [] if most is None else [short <= most]
    return TwoStageProgram(
        name="newsvendor",
        decision=order,
        uncertain=demand,
        constraints=[order >= 0],
        recourse_cost=price * short + salvage * cp.pos(order - demand),
        recourse_constraints=[order + short >= demand, *limits],
    )


def demands(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[:, :, None]


@pytest.mark.parametrize("backend", ["reference", "structured"])
def test_the_newsvendor_has_its_closed_form(backend: str) -> None:
    # Demands 1..10: order the quantile 3/4, 8: (7+6+...+1 + 3 (1+2)) / 10; the mean is 5.5.
    known = newsvendor().information(demands([float(d) for d in range(1, 11)]), backend=backend)
    assert known.recourse_problem_cost.item() == pytest.approx(3.7, rel=1e-5)
    assert known.wait_and_see_cost.item() == pytest.approx(0.0, abs=1e-6)
    assert known.value_of_perfect_information.item() == pytest.approx(3.7, rel=1e-5)
    # Order 5.5: (4.5 + 3.5 + 2.5 + 1.5 + 0.5) (1 + 3) / 10.
    assert known.expected_value_problem_cost.item() == pytest.approx(5.0, rel=1e-5)
    assert known.value_of_stochastic_solution.item() == pytest.approx(1.3, rel=1e-4)


def test_a_batch_is_its_contexts_one_by_one() -> None:
    program = newsvendor(most=4.0)
    sets = demands([1.0, 2.0, 6.0], [1.0, 1.0, 1.0], [0.0, 0.0, 9.0], [3.0, 5.0, 8.0])
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).double()
    whole = program.information(sets, weights)
    for member in range(4):
        alone = program.information(sets[[member]], weights[[member]])
        for name in ("value_of_perfect_information", "value_of_stochastic_solution"):
            torch.testing.assert_close(
                getattr(whole, name)[[member]], getattr(alone, name), rtol=1e-6, atol=1e-6
            )
    # Nothing is left to know where all scenarios agree, or one of them is certain.
    certain = torch.tensor([1, 3])
    for name in ("value_of_perfect_information", "value_of_stochastic_solution"):
        found = getattr(whole, name)[certain]
        torch.testing.assert_close(found[:1], torch.zeros(1).double(), rtol=0, atol=1e-6)
    # The mean, 2.25, leaves the demand of 9 more than 4 short.
    assert torch.isposinf(whole.value_of_stochastic_solution[2])
    assert torch.isfinite(whole.value_of_perfect_information).all()


def test_what_has_no_optimum_is_worth_nan() -> None:
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    program = TwoStageProgram(
        name="limited",
        decision=order,
        uncertain=demand,
        constraints=[order >= 0, order <= 4],
        recourse_cost=order,
        recourse_constraints=[order >= demand],
    )
    known = program.information(demands([1.0, 3.0], [1.0, 5.0], [6.0, 8.0]))
    assert torch.isnan(known.recourse_problem_cost).tolist() == [False, True, True]
    assert known.wait_and_see_cost.tolist() == pytest.approx([2.0, torch.inf, torch.inf])
    # The mean of the second, 3, has a decision without recourse at 5; that of the third, 7, has none.
    assert torch.isposinf(known.expected_value_problem_cost).tolist() == [True, True, False]
    assert torch.isnan(known.expected_value_problem_cost).tolist() == [False, False, True]


def test_an_optimum_at_hand_is_not_solved_for_again() -> None:
    program, sets = newsvendor(), demands([1.0, 2.0, 6.0])
    decision = program.solve(sets)
    known = Information(program, sets, optimum=decision)
    assert known.optimum is decision
    assert known.optimum is known.optimum
    fresh = program.information(sets)
    assert fresh.recourse_problem_cost.item() == known.recourse_problem_cost.item()
    assert fresh.optimum is fresh.optimum


def test_an_appraisal_has_the_same_numbers() -> None:
    program, sets = newsvendor(), demands([1.0, 2.0, 6.0, 7.0])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    known, worth = program.information(sets, weights), appraise(program, sets, weights)
    assert worth.wait_and_see == known.wait_and_see_cost.item()
    assert worth.expected_value_problem_cost == known.expected_value_problem_cost.item()
    assert worth.expected_value_of_perfect_information == known.value_of_perfect_information.item()
    assert worth.value_of_stochastic_solution == known.value_of_stochastic_solution.item()


def test_gap_interval_covers_the_gap() -> None:
    """Demand uniform on [0, 1], price 3, salvage 1: E cost(z) = 2 z^2 - 3 z + 3/2, z* = 3/4."""
    program = newsvendor(price=3.0, salvage=1.0)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(1, 40, 1, generator=generator, dtype=torch.float64) for _ in range(20)]
    poor = program.gap_interval(torch.tensor([[0.5]], dtype=torch.float64), batches)
    true_gap = 2 * 0.25**2
    assert poor.replications.shape == (1, 20)
    assert poor.replications.min() >= -1e-6
    # A sample's optimum is optimistic: the mean may only be above, but for four standard errors.
    assert poor.gap.item() >= true_gap - 4 * poor.standard_error.item()
    assert poor.upper.item() > true_gap
    best = program.gap_interval(torch.tensor([[0.75]], dtype=torch.float64), batches)
    assert best.upper.item() < poor.upper.item()
    with pytest.raises(ShapeError, match="at least two"):
        program.gap_interval(torch.tensor([[0.5]]), batches[:1])
    with pytest.raises(ConfigError, match="confidence = 1"):
        program.gap_interval(torch.tensor([[0.5]]), batches, confidence=1.0)
