from __future__ import annotations

import dataclasses

import cvxpy as cp
import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import NotConvergedError
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.history import History
from hedgecast.learning.joint import JointPhase
from hedgecast.learning.objective import TaskLoss, noise_matching_loss
from hedgecast.learning.step import Batch, training_step
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram

CONFIG = LearningConfig(
    generator=Generator.Config(denoiser=Denoiser.Config(hidden=16, num_blocks=1, encoding=8)),
    samples_per_day=8,
    scenarios=20,
    balance="weighted",
    task_share=0.3,
    clip_norm=1e9,
    smoothing=1e-2,
)


def vectors(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made() -> tuple[Generator, Batch]:
    """A model off its start and twelve of its training days."""
    context = vectors(200, 3, seed=0)
    targets = 20 + context[:, :1, None] + vectors(200, 4, 1, seed=1)
    draws = torch.Generator().manual_seed(2)
    model, report = Generator.fitted(CONFIG.generator, context, targets, draws)
    with torch.no_grad():
        model.denoiser.exit.weight.normal_(0.0, 0.1, generator=draws)
    whitened = report.whitened.float()[:12]
    with torch.no_grad():
        realized = model.finish(context[:12], whitened.unsqueeze(1))[:, 0]
    return model, Batch(context[:12], whitened, realized)


def parameters(model: Generator) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.denoiser.parameters()]


def stepped(task: TaskLoss | None, config: LearningConfig = CONFIG) -> tuple[list[Tensor], Generator]:
    """The gradient that a step applied: with plain descent at rate 1, what the weights lost."""
    model, batch = made()
    before = parameters(model)
    optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=1.0)
    joint = None if task is None else JointPhase(model, task, config)
    training_step(model, optimizer, batch, config, torch.Generator().manual_seed(7), joint)
    return [old - new for old, new in zip(before, parameters(model), strict=True)], model


def norm(gradients: list[Tensor]) -> float:
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


@pytest.fixture(scope="module")
def task() -> TaskLoss:
    return TaskLoss(build(4, ramp_limit=1e3), smoothing=CONFIG.smoothing)


def test_pretraining_follows_the_gradient_of_noise_matching() -> None:
    model, batch = made()
    loss = noise_matching_loss(model, batch.context, batch.whitened, CONFIG, torch.Generator().manual_seed(7))
    expected = torch.autograd.grad(loss, list(model.denoiser.parameters()))
    found, _ = stepped(None)
    torch.testing.assert_close(found, list(expected), rtol=1e-3, atol=1e-6)


def test_the_joint_step_mixes_both_gradients_by_norm(task: TaskLoss) -> None:
    model, batch = made()
    weights = list(model.denoiser.parameters())
    draws = torch.Generator().manual_seed(7)
    noise = torch.autograd.grad(
        noise_matching_loss(model, batch.context, batch.whitened, CONFIG, draws), weights
    )
    scenarios = torch.randn(12, CONFIG.scenarios, 4, generator=draws)
    cost, _ = task(model.sample(batch.context, scenarios, grad_steps=CONFIG.grad_steps), batch.realized)
    slopes = torch.autograd.grad(cost, weights)
    factor = 0.3 * norm(list(noise)) / norm(list(slopes))
    expected = [0.7 * a + factor * b for a, b in zip(noise, slopes, strict=True)]
    found, _ = stepped(task)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)


def test_the_task_gradient_lowers_the_cost(task: TaskLoss) -> None:
    model, batch = made()
    only = LearningConfig.from_dict({**CONFIG.to_dict(), "task_share": 1.0, "grad_steps": 4})
    optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=0.02)
    joint, costs = JointPhase(model, task, only), []
    for _ in range(12):
        report = training_step(model, optimizer, batch, only, torch.Generator().manual_seed(3), joint)
        assert report.task_loss is not None
        costs.append(report.task_loss)
    assert costs[-1] < 0.98 * costs[0]


def test_a_step_is_reproducible_and_clipped(task: TaskLoss) -> None:
    first, _ = stepped(task)
    second, _ = stepped(task)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    clipped, _ = stepped(task, LearningConfig.from_dict({**CONFIG.to_dict(), "clip_norm": 1e-3}))
    assert norm(clipped) == pytest.approx(1e-3, rel=1e-2)


def test_no_gradient_is_left_behind(task: TaskLoss) -> None:
    _, model = stepped(task)
    assert all(parameter.grad is None for parameter in model.parameters())


def short(delivered: float) -> TwoStageProgram:
    """A plan of at most 1 and a recourse that delivers at most ``delivered``: more load cannot be met."""
    plan, load, delivery = cp.Variable(4, name="plan"), cp.Parameter(4, name="load"), cp.Variable(4)
    return TwoStageProgram(
        name="short",
        decision=plan,
        uncertain=load,
        constraints=[plan >= 0, plan <= 1],
        recourse_cost=cp.sum(delivery),
        recourse_constraints=[delivery >= 0, delivery <= delivered, plan + delivery >= load],
    )


def test_failed_solves_are_left_out_and_counted() -> None:
    most = 22.5
    config = dataclasses.replace(CONFIG, largest_unsolved_share=0.9)
    task = TaskLoss(short(most - 1.0), smoothing=CONFIG.smoothing)
    model, batch = made()
    draws = torch.Generator().manual_seed(7)
    noise_matching_loss(model, batch.context, batch.whitened, CONFIG, draws)
    with torch.no_grad():
        paths = model.sample(batch.context, torch.randn(12, CONFIG.scenarios, 4, generator=draws))
    served = (paths <= most).flatten(1).all(dim=1) & (batch.realized <= most).flatten(1).all(dim=1)
    assert 0 < int(served.sum()) < 12
    cost, solved = task(paths[served], batch.realized[served])
    assert bool(solved.all())
    optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=1.0)
    joint = JointPhase(model, task, config)
    report = training_step(model, optimizer, batch, config, torch.Generator().manual_seed(7), joint)
    assert report.unsolved == int((~served).sum())
    assert report.task_loss == pytest.approx(float(cost), rel=1e-5)
    history = History()
    history.add_epoch([report, report])
    assert history.unsolved == 2 * report.unsolved
    # One less than there are is too many.
    strict = dataclasses.replace(config, largest_unsolved_share=(report.unsolved - 1) / 12)
    again, _ = made()
    with pytest.raises(NotConvergedError, match=f"{report.unsolved} of 12 solves of a training step failed"):
        training_step(again, optimizer, batch, strict, torch.Generator().manual_seed(7), joint)


def test_too_many_failed_solves_stop_training() -> None:
    # The recourse delivers at most 1: every day has scenarios that cannot be met.
    program = short(1.0)
    model, batch = made()
    optimizer = torch.optim.SGD(model.denoiser.parameters(), lr=1.0)
    with pytest.raises(NotConvergedError, match=r"12 of 12 solves.*largest_unsolved_share"):
        training_step(
            model,
            optimizer,
            batch,
            CONFIG,
            torch.Generator().manual_seed(0),
            JointPhase(model, TaskLoss(program, smoothing=0.0), CONFIG),
        )
