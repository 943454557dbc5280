"""Costs of fixed decisions: the closed form, the solved form, and their slopes."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram

BACKENDS = ("reference", "structured")


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def coupled() -> TwoStageProgram:
    """Without closed form: transport from two depots to two shops, with random yield and a price."""
    stock, demand = cp.Variable(2, name="stock"), cp.Parameter(2, name="demand")
    sent, lost = cp.Variable((2, 2), name="sent", nonneg=True), cp.Variable(2, name="lost", nonneg=True)
    keep = cp.Parameter(2, name="keep")
    fuel = cp.Parameter(name="fuel", nonneg=True, value=1.0)
    return TwoStageProgram(
        name="transport",
        decision=stock,
        uncertain=[demand, keep],
        given=fuel,
        constraints=[stock >= 0, cp.sum(stock) <= 10],
        cost=cp.sum(stock) + 0.3 * cp.abs(stock[0] - stock[1]),
        recourse_cost=fuel * cp.sum(cp.multiply(np.array([[1.0, 3.0], [2.0, 0.5]]), sent))
        + 9 * cp.sum(lost)
        + cp.sum_squares(sent),
        recourse_constraints=[
            cp.sum(sent, axis=1) <= cp.multiply(keep, stock),
            cp.sum(sent, axis=0) + lost == demand,
        ],
    )


def test_closed_form_of_the_schedule_is_its_formula() -> None:
    program = build(5, capacity=9.0)
    plan, load = (3 + part for part in tensors(0, (2, 5), (2, 7, 5)))
    gap = load - plan[:, None]
    expected = (50 * gap.clamp(min=0) + 0.5 * (-gap).clamp(min=0) + 0.5 * gap**2).sum(dim=2)
    torch.testing.assert_close(program.value(plan, load), expected, rtol=1e-12, atol=1e-12)


def test_closed_form_passes_gradcheck() -> None:
    program = build(3, capacity=9.0, reserve=0.1)
    decision, load = tensors(1, (1, 6), (1, 4, 3))
    decision[:, 3:] = 0.4 + 0.1 * decision[:, 3:].abs()
    program.value(decision, load)
    plain = build(3)
    plan = decision[:, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z, y: plain.value(z, y), (plan, load.requires_grad_()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_solved_form_equals_a_scenario_by_scenario_solution(backend: str) -> None:
    program = coupled()
    assert program.recourse.separable is None
    scenarios = torch.tensor([[[2.0, 1.0, 0.9, 0.5], [0.5, 3.0, 1.0, 1.0]]], dtype=torch.float64)
    decision = torch.tensor([[2.0, 1.5]], dtype=torch.float64)
    costs = program.value(decision, scenarios, {"fuel": 1.5}, backend=backend)
    for s in range(2):
        sent, lost = cp.Variable((2, 2), nonneg=True), cp.Variable(2, nonneg=True)
        demand, keep = scenarios[0, s, :2].numpy(), scenarios[0, s, 2:].numpy()
        cost = 1.5 * cp.sum(cp.multiply(np.array([[1.0, 3.0], [2.0, 0.5]]), sent)) + 9 * cp.sum(lost)
        rows = [
            cp.sum(sent, axis=1) <= keep * decision[0].numpy(),
            cp.sum(sent, axis=0) + lost == demand,
        ]
        known = 3.5 + 0.3 * 0.5
        found = cp.Problem(cp.Minimize(cost + cp.sum_squares(sent)), rows).solve(solver=cp.CLARABEL)
        assert costs[0, s].item() == pytest.approx(known + found, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_envelope_slopes_equal_finite_differences(backend: str) -> None:
    program = coupled()
    scenarios = torch.tensor([[[2.0, 1.0, 0.9, 0.5], [0.5, 3.0, 1.0, 0.7]]], dtype=torch.float64)
    decision = torch.tensor([[2.0, 1.5]], dtype=torch.float64)
    fuel = torch.tensor([1.5], dtype=torch.float64)
    arguments = [tensor.requires_grad_() for tensor in (decision, scenarios, fuel)]

    def total(z: torch.Tensor, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return (program.value(z, y, {"fuel": f}, backend=backend, tolerance=1e-9) ** 2).sum()

    slopes = torch.autograd.grad(total(*arguments), arguments)
    step = 1e-4
    for position, slope in enumerate(slopes):
        for entry in range(slope.numel()):
            moved = []
            for sign in (1, -1):
                shifted = [argument.detach().clone() for argument in arguments]
                shifted[position].view(-1)[entry] += sign * step
                moved.append(total(*shifted).item())
            difference = (moved[0] - moved[1]) / (2 * step)
            assert slope.reshape(-1)[entry].item() == pytest.approx(difference, rel=2e-3, abs=2e-2)


def hard() -> TwoStageProgram:
    """Separable recourse with limits: w in [y - z, 2], free of charge below zero slope."""
    z, w, y = cp.Variable(name="z"), cp.Variable(name="w"), cp.Parameter(name="y")
    return TwoStageProgram(
        name="hard",
        decision=z,
        uncertain=y,
        constraints=[z >= 0],
        cost=z,
        recourse_cost=4 * w,
        recourse_constraints=[w >= y - z, w >= 0, w <= 2],
    )


def test_a_decision_without_recourse_costs_infinity() -> None:
    program = hard()
    assert program.recourse.separable is not None
    scenarios = torch.tensor([[[0.5], [2.5], [3.5]]], dtype=torch.float64)
    decision = torch.tensor([[1.0]], dtype=torch.float64)
    costs = program.value(decision, scenarios)
    assert costs[0].tolist() == [1.0, 7.0, float("inf")]
    assert program.regret(decision, scenarios)[0, :2].tolist() == pytest.approx([0.5, 4.5], abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_solved_form_gives_infinity_too_and_spares_the_others(backend: str) -> None:
    z, w, y = cp.Variable(name="z"), cp.Variable(2, name="w"), cp.Parameter(name="y")
    program = TwoStageProgram(
        name="hard",
        decision=z,
        uncertain=y,
        constraints=[z >= 0],
        cost=z,
        recourse_cost=4 * w[0] + 5 * w[1] + cp.abs(w[0] - w[1]),
        recourse_constraints=[w[0] + w[1] == y - z, w >= 0, w <= 1],
    )
    assert program.recourse.separable is None
    costs = program.value(np.array([[1.0]]), np.array([[[2.0], [9.0], [1.0]]]), backend=backend)
    assert costs[0, [0, 2]].tolist() == pytest.approx([1 + 4.5, 1.0], abs=1e-5)
    assert torch.isposinf(costs[0, 1])


def test_a_recourse_that_pays_without_limit_costs_minus_infinity() -> None:
    z, w, y = cp.Variable(name="z"), cp.Variable(name="w"), cp.Parameter(name="y")
    program = TwoStageProgram(
        name="pump", decision=z, uncertain=y, constraints=[z >= 0], recourse_cost=y * w + z,
        recourse_constraints=[w >= 0],
    )  # fmt: skip
    costs = program.value(np.array([[1.0]]), np.array([[[1.0], [-1.0]]]))
    assert costs[0].tolist() == [1.0, float("-inf")]


def test_single_precision_stays_close() -> None:
    program = build(6)
    plan, load = (3 + part for part in tensors(2, (3, 6), (3, 9, 6)))
    exact = program.value(plan, load)
    rough = program.value(plan.float(), load.float())
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=1e-5, atol=1e-4)
