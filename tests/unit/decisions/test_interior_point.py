"""The loop on torch tensors: repeated scenarios, single precision, rows that meet, and what the gap says."""

import numpy as np
import pytest
import torch

from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.catalog import freight_routing, portfolio
from hedgecast.programs.solution import Verdict


def repeated_days(num_contexts=64, num_scenarios=40, steps=24, distinct=20):
    """Paths (B, S, T) of few distinct days, each with several copies, and weights (B, S)."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    base = 30.0 + 10.0 * torch.sin(torch.arange(steps) / 4.0)
    days = base + 0.9 * draw(num_contexts, distinct, steps).cumsum(dim=2)
    days = days + 3.0 * draw(num_contexts, distinct, 1)
    chosen = torch.randint(distinct, (num_contexts, num_scenarios), generator=generator)
    weights = torch.rand(num_contexts, num_scenarios, dtype=torch.float64, generator=generator) ** 3
    paths = days.gather(1, chosen[:, :, None].expand(-1, -1, steps))
    return paths, weights / weights.sum(dim=1, keepdim=True)


def test_repeated_weighted_days_all_converge(problems):
    paths, weights = repeated_days()
    found = StructuredBackend(compiled=False).solve_blocks(
        problems.schedule(paths), weights, tolerance=1e-7, max_iterations=200
    )
    assert (found.verdicts == Verdict.OPTIMAL).all()
    assert int(found.iterations.max()) <= 40


def test_copies_of_a_scenario_are_one_of_their_summed_weight(problems):
    paths, weights = repeated_days(num_contexts=3, num_scenarios=12, distinct=12)
    doubled = torch.cat([paths, paths], dim=1)
    shares = torch.cat([0.3 * weights, 0.7 * weights], dim=1)
    solver = StructuredBackend(compiled=False)
    apart = solver.solve_blocks(problems.schedule(doubled), shares, tolerance=1e-9)
    together = solver.solve_blocks(problems.schedule(paths), weights, tolerance=1e-9)
    torch.testing.assert_close(apart.objective, together.objective, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(apart.x, together.x, rtol=0, atol=1e-4)


def test_single_precision_solves_repeated_days(problems):
    paths, weights = repeated_days(num_contexts=32)
    problem = problems.cast(problems.schedule(paths), torch.float32)
    single = weights.float() / weights.float().sum(dim=1, keepdim=True)
    found = StructuredBackend().solve_blocks(problem, single, max_iterations=100)
    truth = StructuredBackend(compiled=False).solve_blocks(problems.schedule(paths), weights)
    assert (found.verdicts == Verdict.OPTIMAL).all()
    torch.testing.assert_close(found.objective.double(), truth.objective, rtol=1e-4, atol=1e-4)


def test_inequalities_that_meet_leave_no_nan(structured, problems):
    # u >= y - z and u <= y - z: the shortage of each hour is fixed by two rows without an interior.
    paths = torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) + 1.0
    problem = problems.schedule(paths, shortage=2.0)
    hours = torch.arange(3)
    U, V = problem.U.dense(), problem.V.dense()
    k = problem.k
    capped = problems.pinned(problem, U[:, :, hours], V[:, :, hours], k[:, :, hours])
    p = torch.full((2, 4), 0.25, dtype=torch.float64)
    found = structured.solve_blocks(capped, p, tolerance=1e-8, max_iterations=200)
    assert (found.verdicts == Verdict.OPTIMAL).all()
    value, _ = problems.clarabel(capped, p, 0)
    assert float(found.objective[0]) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("shortage", [0.05, 50.0])
def test_the_gap_bounds_the_excess_of_a_schedule(structured, problems, shortage):
    paths = torch.rand(8, 20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 1.0
    p = torch.full((8, 20), 0.05, dtype=torch.float64)
    problem = problems.schedule(paths, shortage=shortage)
    truth = structured.solve_blocks(problem, p, tolerance=1e-11)
    for tolerance in (1e-4, 1e-6):
        found = structured.solve_blocks(problem, p, tolerance=tolerance)
        excess = (found.objective - truth.objective) / (1.0 + truth.objective.abs())
        assert (found.gap <= tolerance).all()
        assert (excess <= found.gap + 1e-10).all()
        # Below the optimum by what the rows may be violated, times their multipliers.
        assert (excess >= -tolerance).all()


def test_the_gap_of_a_portfolio_with_small_costs_is_that_of_its_objective():
    returns = 0.01 * np.random.default_rng(0).normal(size=(1, 200, 1, 4)) + 0.0005 * np.arange(4)
    program = portfolio.build(num_assets=4, risk_aversion=4.0, transaction_cost=0.002)
    best = program.solve(torch.from_numpy(returns), tolerance=1e-11).objective
    for tolerance in (1e-6, 1e-7):
        found = program.solve(torch.from_numpy(returns), tolerance=tolerance)
        assert abs(float(found.objective - best)) <= tolerance * (1.0 + abs(float(best)))
        assert float(found.gap) <= tolerance


@pytest.mark.parametrize("money", [1e-4, 1.0, 1e4])
def test_the_gap_is_in_units_of_one_plus_the_objective(structured, problems, money):
    paths = torch.rand(2, 10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 1.0
    p = torch.full((2, 10), 0.1, dtype=torch.float64)
    plain = structured.solve_blocks(problems.schedule(paths), p, tolerance=1e-11).objective
    found = structured.solve_blocks(problems.schedule(paths, money=money), p, tolerance=1e-7)
    # Costs far below one are solved to their own units.
    torch.testing.assert_close(found.objective / money, plain, rtol=1e-5, atol=1e-6)
    assert (found.gap <= 1e-7).all()


def weeks_of_freight(seed, num_scenarios, members):
    """Blocks of a freight program whose arrivals (B, S, 16) are zero half of the time, else lognormal."""
    generator = torch.Generator().manual_seed(seed)
    shape = (16, num_scenarios, 16)
    size = torch.exp(1.5 * torch.randn(*shape, generator=generator, dtype=torch.float64))
    came = torch.rand(*shape, generator=generator, dtype=torch.float64) < 0.5
    program = freight_routing.build(
        4, lateness_cost=0.0, planned_tonnes=0.0, max_route_tonnes=100.0, max_truck_tonnes=200.0
    )
    inputs = program.inputs((5.0 * size * came)[members], None, None)
    return program.template.instantiate(inputs.uncertain, inputs.given), inputs.probabilities


@pytest.mark.parametrize(("seed", "num_scenarios", "members"), [(0, 50, [6, 2, 9]), (1, 200, [1])])
def test_freight_is_solved_to_the_default_tolerance(structured, problems, seed, num_scenarios, members):
    # Costs of thousands, idle lanes and equality rows: pivots of 1e-4 are left of terms of 1e12. Taken at
    # their word, they ended in steps of 1e80 and no decision.
    problem, p = weeks_of_freight(seed, num_scenarios, members)
    assert problem.W.shape[0] > 0
    found = structured.solve_blocks(problem, p, tolerance=1e-8)
    assert (found.verdicts == Verdict.OPTIMAL).all()
    assert int(found.iterations.max()) <= 40
    for member in range(len(members)):
        value, _ = problems.clarabel(problem, p, member)
        assert float(found.objective[member]) == pytest.approx(value, rel=1e-7)
