from __future__ import annotations

import cvxpy as cp
import pytest
import torch
from torch import Tensor

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.objective import TaskLoss, noise_matching_loss
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram

DOUBLE = torch.float64
SHORT, OVER = 5.0, 2.0


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def expectile_program() -> TwoStageProgram:
    """Shortage costs 5 (y - z)^2, excess 2 (z - y)^2: smooth, so its derivative is known exactly."""
    z, y = cp.Variable(2, name="plan"), cp.Parameter(2, name="load")
    return TwoStageProgram(
        name="expectile",
        decision=z,
        uncertain=y,
        recourse_cost=SHORT * cp.sum(cp.square(cp.pos(y - z))) + OVER * cp.sum(cp.square(cp.pos(z - y))),
    )


def expectile(paths: Tensor) -> Tensor:
    """(B, D) the best plan for scenarios (B, S, D), by fixed-point iteration on the weighted mean."""
    plan = paths.mean(dim=1)
    for _ in range(200):
        weight = torch.where(paths > plan.unsqueeze(1), SHORT, OVER)
        plan = (weight * paths).sum(dim=1) / weight.sum(dim=1)
    return plan


def test_the_task_loss_is_the_cost_of_the_best_plan() -> None:
    paths, realized = vectors(3, 9, 2, 1), vectors(3, 2, 1, seed=1)
    cost, solved = TaskLoss(expectile_program(), smoothing=0.0)(paths, realized)
    error = realized[..., 0] - expectile(paths[..., 0])
    by_hand = (SHORT * error.clamp(min=0) ** 2 + OVER * (-error).clamp(min=0) ** 2).sum(dim=1).mean()
    assert bool(solved.all())
    assert float(cost) == pytest.approx(float(by_hand), rel=1e-5)


def test_the_pathwise_gradient_is_the_known_one() -> None:
    # dz/dy_s = w_s / sum w with w the curvature that scenario s adds; dcost/dz = -2 w (y - z).
    paths, realized = vectors(3, 9, 2, 1).requires_grad_(), vectors(3, 2, 1, seed=1)
    cost, _ = TaskLoss(expectile_program(), smoothing=0.0)(paths, realized)
    (found,) = torch.autograd.grad(cost, paths)
    plan = expectile(paths.detach()[..., 0])
    weight = torch.where(paths.detach()[..., 0] > plan.unsqueeze(1), SHORT, OVER)
    error = realized[..., 0] - plan
    slope = -2.0 * torch.where(error > 0, SHORT, OVER) * error / 3
    expected = slope.unsqueeze(1) * weight / weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(found[..., 0], expected, rtol=1e-4, atol=1e-5)


def test_moving_all_scenarios_of_the_newsvendor_moves_its_plan() -> None:
    # At any smoothing the plan follows a common shift one to one: the slopes sum to dcost/dz.
    program = build(2, ramp_limit=1e3, quadratic_cost=0.0)
    paths = (20 + vectors(4, 30, 2, 1)).requires_grad_()
    realized = 20 + vectors(4, 2, 1, seed=1)
    task = TaskLoss(program, smoothing=1e-2)
    cost, _ = task(paths, realized)
    (found,) = torch.autograd.grad(cost, paths)
    plan = task.layer(paths.detach().flatten(2))
    slope = torch.where(realized[..., 0] > plan, -50.0, 0.5).double() / 4
    torch.testing.assert_close(found.sum(dim=1)[..., 0], slope, rtol=1e-3, atol=1e-4)


def test_a_day_without_a_solution_is_masked() -> None:
    paths, realized = vectors(3, 9, 2, 1), vectors(3, 2, 1, seed=1)
    broken = paths.clone()
    broken[1, 0, 0] = torch.nan
    task = TaskLoss(expectile_program(), smoothing=0.0)
    cost, solved = task(broken.requires_grad_(), realized)
    rest, _ = task(paths[[0, 2]], realized[[0, 2]])
    assert solved.tolist() == [True, False, True]
    assert float(cost.detach()) == pytest.approx(float(rest), rel=1e-6)
    (slope,) = torch.autograd.grad(cost, broken)
    assert bool(torch.isfinite(slope[[0, 2]]).all())
    assert not bool(slope[1].any())


def test_a_solve_that_did_not_converge_is_masked() -> None:
    paths, realized = vectors(3, 9, 2, 1), vectors(3, 2, 1, seed=1)
    task = TaskLoss(expectile_program(), smoothing=0.0)
    # No number of steps reaches this tolerance: last iterates, near the optimum, that nobody vouches for.
    task.layer.inner.tolerance = 1e-300  # type: ignore[assignment]
    cost, solved = task(paths, realized)
    assert (float(cost), solved.tolist()) == (0.0, [False] * 3)


def test_a_day_that_no_recourse_can_serve_is_masked() -> None:
    plan, load, bought = cp.Variable(1, name="plan"), cp.Parameter(1, name="load"), cp.Variable(1)
    program = TwoStageProgram(
        name="short",
        decision=plan,
        uncertain=load,
        constraints=[plan >= 0, plan <= 5],
        cost=cp.sum_squares(plan),
        recourse_cost=3.0 * cp.sum(bought),
        recourse_constraints=[bought >= 0, bought <= 1, plan + bought >= load],
    )
    paths = 2.0 + 0.1 * vectors(2, 4, 1, 1)
    realized = torch.tensor([2.0, 9.0], dtype=DOUBLE).reshape(2, 1, 1)
    cost, solved = TaskLoss(program, smoothing=0.0)(paths.requires_grad_(), realized)
    assert solved.tolist() == [True, False]
    (slope,) = torch.autograd.grad(cost, paths)
    assert bool(torch.isfinite(slope).all())
    assert not bool(slope[1].any())


def test_influence_is_the_slope_in_probability_with_its_sign() -> None:
    paths, realized = vectors(3, 9, 2, 1), vectors(3, 2, 1, seed=1)
    cost, solved, weights = TaskLoss(expectile_program(), smoothing=0.0).influence(paths, realized)
    # z moves by (w_s (y_s - z)) / (sum of w / S) for mass put on scenario s; the cost by -2 w (y - z) dz.
    plan = expectile(paths[..., 0])
    weight = torch.where(paths[..., 0] > plan.unsqueeze(1), SHORT, OVER)
    moves = weight * (paths[..., 0] - plan.unsqueeze(1)) / weight.mean(dim=1, keepdim=True)
    error = realized[..., 0] - plan
    slope = -2.0 * torch.where(error > 0, SHORT, OVER) * error
    expected = (slope.unsqueeze(1) * moves).sum(dim=2)
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-3)
    whole, _ = TaskLoss(expectile_program(), smoothing=0.0)(paths, realized)
    assert float(cost) == pytest.approx(float(whole), rel=1e-9)
    assert bool(solved.all())


def test_no_solution_at_all_costs_nothing_and_says_so() -> None:
    paths = torch.full((2, 3, 2, 1), torch.nan, dtype=DOUBLE)
    cost, solved = TaskLoss(expectile_program(), smoothing=0.0)(paths, vectors(2, 2, 1))
    assert float(cost) == 0.0
    assert not bool(solved.any())


def test_untrained_noise_matching_on_white_days_is_one_and_reproducible() -> None:
    context, targets = vectors(400, 3), 10 + vectors(400, 4, 1, seed=1)
    config = LearningConfig(generator=Generator.Config(denoiser=Denoiser.Config(hidden=8, num_blocks=1)))
    model, report = Generator.fitted(config.generator, context, targets, torch.Generator().manual_seed(0))
    losses = [
        noise_matching_loss(
            model, context, report.whitened.float(), config, torch.Generator().manual_seed(seed)
        )
        for seed in (5, 5, 6)
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    # 400 x 32 x 4 squared normals of which 400 x 4 are independent: standard error 0.035 at most.
    assert float(losses[0].detach()) == pytest.approx(1.0, abs=0.1)
