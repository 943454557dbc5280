"""The way by a small program against the plain solve, and when it is not taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hedgecast.decisions import screening
from hedgecast.decisions.block_numbers import make_numbers
from hedgecast.decisions.compiled import CompiledSolver
from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.catalog import generation_scheduling, product_allocation

BACKEND = StructuredBackend()
HOURS = 6


@pytest.fixture
def ways(monkeypatch):
    """How often each way was taken, with a few thousand rows counted as very many."""
    counts = {"small": 0, "plain": 0}
    screened = screening.screened_solve

    def watched(*arguments):
        found = screened(*arguments)
        counts["plain" if found is None else "small"] += 1
        return found

    monkeypatch.setattr("hedgecast.decisions.structured.screened_solve", watched)
    monkeypatch.setattr(screening, "LEAST_ROWS", 10_000)
    monkeypatch.setattr(screening, "_SAMPLE", 1_000)
    return counts


def paths(B, S, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return 2.0 + 0.3 * torch.randn(B, S, HOURS, dtype=torch.float64, generator=draws)


def block(program, scenarios):
    given = program.inputs(scenarios[:1], None).given
    return program.template.instantiate(scenarios, given)


def even(B, S):
    return torch.full((B, S), 1.0 / S, dtype=torch.float64)


def schedule(B, S, seed=0):
    return block(generation_scheduling.build(HOURS), paths(B, S, seed)), even(B, S)


def plainly(monkeypatch, problem, probabilities, **options):
    with monkeypatch.context() as patch:
        patch.setattr(screening, "LEAST_ROWS", 10**12)
        return BACKEND.solve_blocks(problem, probabilities, **options)


def test_a_schedule_is_that_of_the_plain_solve(ways, monkeypatch):
    problem, probabilities = schedule(2, 4_000)
    found = BACKEND.solve_blocks(problem, probabilities, tolerance=1e-7)
    assert ways == {"small": 1, "plain": 0}
    plain = plainly(monkeypatch, problem, probabilities, tolerance=1e-9)
    assert (found.verdicts == 0).all()
    torch.testing.assert_close(found.objective, plain.objective, rtol=1e-7, atol=0.0)
    torch.testing.assert_close(found.x, plain.x, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(found.scenario_costs, plain.scenario_costs, rtol=0.0, atol=1e-2)
    assert (found.primal_residual < 1e-7).all()
    assert (found.dual_residual < 1e-7).all()
    assert (found.iterations > 0).all()


def test_a_schedule_agrees_with_clarabel(ways, problems, monkeypatch):
    monkeypatch.setattr(screening, "_SAMPLE", 200)
    monkeypatch.setattr(screening, "_KEPT", 1 / 2)
    problem, probabilities = schedule(1, 420, seed=3)
    found = BACKEND.solve_blocks(problem, probabilities, tolerance=1e-7)
    assert ways["small"] == 1
    truth, x = problems.clarabel(problem, probabilities, 0)
    assert float(found.objective[0]) == pytest.approx(truth, rel=1e-6)
    np.testing.assert_allclose(found.x[0], x, atol=1e-4)


def test_a_small_program_that_leads_astray_is_left(ways, monkeypatch):
    # Each part of a scenario depends on five stocks: a sixteenth of the scenarios does not show its kinks.
    program = product_allocation.build(3)
    draws = torch.Generator().manual_seed(1)
    demand = 10.0 + 3.0 * torch.randn(1, 4_000, 15, dtype=torch.float64, generator=draws)
    problem, probabilities = block(program, demand.clamp(min=1.0)), even(1, 4_000)
    found = BACKEND.solve_blocks(problem, probabilities, tolerance=1e-7)
    plain = plainly(monkeypatch, problem, probabilities, tolerance=1e-9)
    assert ways == {"small": 0, "plain": 2}
    torch.testing.assert_close(found.objective, plain.objective, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("seed", range(6))
def test_scenarios_without_recourse_to_the_sample_decision_go_the_plain_way(
    ways, monkeypatch, problems, seed
):
    problem, probabilities = problems.random(seed, B=1, S=3_000, equalities=seed % 2, rows=4)
    probabilities = even(*probabilities.shape)
    found = BACKEND.solve_blocks(problem, probabilities, tolerance=1e-7)
    plain = plainly(monkeypatch, problem, probabilities, tolerance=1e-9)
    assert ways == {"small": 0, "plain": 2}
    assert (found.verdicts == plain.verdicts).all()
    torch.testing.assert_close(found.objective, plain.objective, rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_the_plain_solve(ways, monkeypatch):
    grads = []
    program = generation_scheduling.build(HOURS)
    for way in ("small", "plain"):
        leaf = paths(1, 4_000).requires_grad_()
        problem = block(program, leaf)
        if way == "small":
            found = BACKEND.solve_blocks(problem, even(1, 4_000))
        else:
            found = plainly(monkeypatch, problem, even(1, 4_000))
        (found.x * torch.arange(1.0, HOURS + 1.0)).sum().backward()
        grads.append(leaf.grad.sum(dim=1))
    assert ways["small"] == 1
    # Of x in a shift of all scenarios: one, as x follows them; kinks make single scenarios' shares arbitrary.
    torch.testing.assert_close(grads[0], torch.arange(1.0, HOURS + 1.0)[None].double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_unequal_probabilities_and_smoothing_go_the_plain_way(ways):
    problem, probabilities = schedule(1, 4_000)
    uneven = probabilities.clone()
    uneven[0, :2_000] *= 0.5
    uneven[0, 2_000:] *= 1.5
    assert (BACKEND.solve_blocks(problem, uneven).verdicts == 0).all()
    assert (BACKEND.solve_blocks(problem, probabilities, smoothing=1e-3).verdicts == 0).all()
    assert ways == {"small": 0, "plain": 2}


def test_a_window_that_is_too_small_falls_back(ways, monkeypatch):
    monkeypatch.setattr(screening, "_KEPT", 1 / 400)
    problem, probabilities = schedule(1, 4_000)
    found = BACKEND.solve_blocks(problem, probabilities, tolerance=1e-7)
    plain = plainly(monkeypatch, problem, probabilities, tolerance=1e-7)
    assert (found.verdicts == 0).all()
    torch.testing.assert_close(found.objective, plain.objective, rtol=1e-6, atol=0.0)


def test_scenarios_settle_where_a_plain_solve_at_the_decision_puts_them():
    # Newsvendor by hour: at barrier m and distance d from the kink, u and its slack solve a quadratic.
    problem, probabilities = schedule(1, 64)
    numbers = make_numbers(problem, probabilities, torch.zeros_like(probabilities))
    solver = CompiledSolver(problem, BACKEND._index(problem, has_risk=False), numbers)
    x = np.full((1, HOURS), 2.2)
    barrier = 1e-3
    settled, arrays = solver.settle(x, np.array([barrier]))
    assert (settled.unsettled == 0).all()
    products = arrays.s * arrays.z
    np.testing.assert_allclose(products, barrier, rtol=1e-6)
    # The derivative of the mean cost of all scenarios, by finite differences of the settled gradient.
    step = 1e-5
    for j in range(HOURS):
        moved = [
            solver.settle(x + sign * step * np.eye(HOURS)[j], np.array([barrier]))[0] for sign in (1, -1)
        ]
        slope = (moved[0].gradient - moved[1].gradient)[0] / (2 * step)
        np.testing.assert_allclose(settled.hessian[0, j], slope, rtol=1e-4, atol=1e-8)


def test_a_margin_is_the_way_to_a_change_of_active_rows():
    slack = np.array([[1e-9, 0.7], [1e-9, 1e-9], [0.5, 0.2]]).T[None]
    multiplier = np.array([[1.0, 1e-9], [0.5, 0.5], [1e-9, 1e-9]]).T[None]
    np.testing.assert_allclose(screening._margin(slack, multiplier, 1)[0], [0.7, 0.0, 0.2])
