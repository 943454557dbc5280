"""The cvxpylayers backend: checked solvers, right gradients, screened members."""

from __future__ import annotations

import concurrent.futures

import cvxpy as cp
import pytest
import torch

from hedgecast.core.errors import ProgramError
from hedgecast.decisions.layers import LayersBackend, check_solver
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict

# cvxpylayers 1.2.0 hands numpy tensors in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def smooth() -> TwoStageProgram:
    """Unique and differentiable: strongly convex, no constraint active at the optimum."""
    z, y = cp.Variable(2, name="z"), cp.Parameter(2, name="y")
    tilt = cp.Parameter(2, name="tilt", value=[0.1, -0.2])
    return TwoStageProgram(
        name="smooth",
        decision=z,
        uncertain=y,
        given=tilt,
        constraints=[cp.sum(z) <= 50],
        cost=tilt @ z,
        recourse_cost=cp.sum_squares(z - y) + cp.square(z[0] - z[1]),
    )


def scenarios(num_contexts: int = 2, num_scenarios: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_contexts, num_scenarios, 2, generator=generator, dtype=torch.float64)


def test_diffcp_is_right_and_wrong_solvers_are_refused() -> None:
    assert check_solver("DIFFCP") is None
    reason = check_solver("CUCLARABEL")
    assert reason is not None
    assert "not installed" in reason
    refused = LayersBackend(solver="CUCLARABEL").refusal(smooth(), Risk())
    assert refused == reason


@pytest.mark.filterwarnings("ignore")
def test_moreau_is_refused_where_it_answers_wrongly() -> None:
    pytest.importorskip("moreau")
    reason = check_solver("MOREAU")
    assert reason is None or "answers 51.8" in reason


def test_solutions_and_gradients_equal_the_closed_form() -> None:
    """z solves 2 (z - mean y) + 2 (z_1 - z_2)(1, -1) + tilt = 0."""
    program = smooth()
    y = scenarios().requires_grad_()
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2]], dtype=torch.float64).requires_grad_()
    tilt = torch.tensor([0.3, 0.1], dtype=torch.float64).requires_grad_()
    found = program.layer(backend="cvxpylayers", tolerance=1e-10)(y, weights, {"tilt": tilt})
    hessian = torch.tensor([[4.0, -2.0], [-2.0, 4.0]], dtype=torch.float64)
    mean = (weights[..., None] * y).sum(dim=1)
    expected = torch.linalg.solve(hessian, (2 * mean - tilt).T).T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    aim = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    # Probabilities sum to one in any use: compare the slopes along that plane.
    slopes = torch.autograd.grad((found * aim).sum(), (y, weights, tilt))
    wanted = torch.autograd.grad((expected * aim).sum(), (y, tilt))
    torch.testing.assert_close(slopes[0], wanted[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(slopes[2], wanted[1], rtol=1e-3, atol=1e-4)
    plane = slopes[1] - slopes[1].mean(dim=1, keepdim=True)
    step = 1e-3
    for entry in range(2):
        move = torch.zeros_like(weights)
        move[:, entry], move[:, 2] = step, -step
        values = []
        for sign in (1, -1):
            mean = ((weights + sign * move).detach()[..., None] * y.detach()).sum(dim=1)
            z = torch.linalg.solve(hessian, (2 * mean - tilt.detach()).T).T
            values.append((z * aim).sum(dim=1))
        difference = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(plane[:, entry] - plane[:, 2], difference, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("risk", ["expectation", "cvar:0.5", "regret-mixture:0.4:0.5", "worst"])
def test_every_measure_equals_the_reference(risk: str) -> None:
    program, measure = smooth(), Risk.parse(risk)
    layers = program.solve(scenarios(), risk=measure, backend="cvxpylayers").require_optimal()
    reference = program.solve(scenarios(), risk=measure, backend="reference").require_optimal()
    torch.testing.assert_close(layers.objective, reference.objective, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layers.flat, reference.flat, rtol=0, atol=1e-3)


def test_conic_programs_have_gradients() -> None:
    """Projection of one scenario on the unit disk: z = y / |y| outside of it."""
    z, y = cp.Variable(2, name="z"), cp.Parameter(2, name="y")
    program = TwoStageProgram(
        name="disk",
        decision=z,
        uncertain=y,
        constraints=[cp.norm2(z) <= 1],
        recourse_cost=cp.sum_squares(z - y),
    )
    assert program.template is None
    layer = program.layer(tolerance=1e-10)
    assert layer.solver.name == "cvxpylayers"
    point = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64).requires_grad_()
    found = layer(point)
    assert found[0].tolist() == pytest.approx([0.6, 0.8], abs=1e-6)
    (slope,) = torch.autograd.grad(found[0, 0], point)
    # d(y_1/|y|)/dy = (1 - 0.36, -0.48) / 5.
    assert slope[0, 0].tolist() == pytest.approx([0.128, -0.096], abs=1e-5)


def test_members_without_a_solution_are_nan_and_spare_the_others() -> None:
    z, w, y = cp.Variable(name="z"), cp.Variable(name="w"), cp.Parameter(name="y")
    program = TwoStageProgram(
        name="capped",
        decision=z,
        uncertain=y,
        constraints=[z >= 0, z <= 1],
        cost=cp.square(z),
        recourse_cost=w,
        recourse_constraints=[w >= y - z, w >= 0, w <= 1],
    )
    points = torch.tensor([[[0.5], [0.7]], [[0.5], [3.0]]], dtype=torch.float64)
    decision = program.solve(points, backend="cvxpylayers")
    assert [decision.verdict(b) for b in range(2)] == [Verdict.OPTIMAL, Verdict.INFEASIBLE]
    assert decision.infeasible_scenario.tolist() == [-1, 1]
    points.requires_grad_()
    found = program.layer(backend="cvxpylayers")(points)
    assert torch.isnan(found).flatten().tolist() == [False, True]
    (slope,) = torch.autograd.grad(found[0].sum(), points)
    assert torch.isfinite(slope).all()


def test_one_layer_serves_several_threads() -> None:
    layer = smooth().layer(backend="cvxpylayers")
    cases = [
        scenarios(num_contexts, num_scenarios) for num_contexts in (1, 2, 4) for num_scenarios in (2, 3)
    ] * 3
    expected = [layer(case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(layer, cases), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(ProgramError, match="has no smoothing"):
        smooth().layer(backend="cvxpylayers", smoothing=0.1)
    weights = torch.tensor([[0.0, 0.5, 0.5]] * 2, dtype=torch.float64)
    with pytest.raises(ProgramError, match="probability zero"):
        smooth().solve(scenarios(), weights, risk=Risk.parse("worst"), backend="cvxpylayers")
