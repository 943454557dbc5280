"""One training step; no loop, no schedule, no clock. Whoever trains (in process, Ray Train) calls it."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.core.errors import NotConvergedError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Balance, Gradient, combined
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.draws import Draws
from hedgecast.learning.estimators.seam import Scene
from hedgecast.learning.joint import JointPhase
from hedgecast.learning.objective import Noising, noise_matching_by_day
from hedgecast.learning.parallel import ALONE, Workers


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Some training days."""

    context: Float[Tensor, "B C"]
    """Raw features."""
    whitened: Float[Tensor, "B D"]
    """Out-of-fold whitened residuals: what the denoiser learns."""
    realized: Float[Tensor, "B T F"]
    """The day as the model's own mean and size would have made it from ``whitened``, in units: the
    realization is then as far from the mean as on days never seen."""
    weight: Float[Tensor, " B"] | None = None
    """Decision weight of each day, for the estimator ``decision-weighted`` alone:
    `hedgecast.learning.estimators.decision_weighted.decision_weights` of all training days, once."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one step found, over all workers."""

    noise_loss: float
    task_loss: float | None = None
    """Cost per day; None in pretraining, and where the estimator decides nothing."""
    balance: Balance | None = None
    """Norms, cosine, multipliers and realism; None in pretraining."""
    gradient_norm: float
    """Before clipping."""
    unsolved: int = 0
    """Days masked because their solve failed."""


def training_step(
    model: Generator,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: LearningConfig,
    generator: torch.Generator,
    joint: JointPhase | None = None,
    workers: Workers = ALONE,
) -> StepReport:
    """One step of the optimizer on noise matching, joined by the task where ``joint`` is given.

    With ``config.score_function.sample_reuse`` above 1 the score function takes as many steps of the
    optimizer on the scenarios of one; the report is the last one's.

    Parameters
    ----------
    model : Generator
        Changed in place.
    optimizer : torch.optim.Optimizer
        Over the denoiser's parameters.
    batch : Batch
        All days of the step, whoever computes them.
    config : LearningConfig
    generator : torch.Generator
        Source of angles, noise and scenarios, in the same state on every worker.
    joint : JointPhase, optional
        Made once of the pretrained model; its multipliers are changed in place and belong into checkpoints.
    workers : Workers
        Who share the days of the step; see `hedgecast.learning.parallel`.

    Raises
    ------
    NotConvergedError
        More of the batch's solves failed than ``config.largest_unsolved_share``.
    """
    draws = Draws(generator, len(batch.context), batch.whitened, workers)
    scene = Scene(
        context=batch.context[draws.rows],
        whitened=batch.whitened[draws.rows],
        realized=batch.realized[draws.rows],
        weight=None if batch.weight is None else batch.weight[draws.rows],
        draws=draws,
    )
    if joint is None:
        noise_loss, gradient, _ = _noise_part(model, scene, config)
        size = _descend(model, optimizer, gradient, config)
        return StepReport(noise_loss=noise_loss, gradient_norm=size)
    return _joint_step(model, optimizer, scene, config, joint)


def _joint_step(
    model: Generator,
    optimizer: torch.optim.Optimizer,
    scene: Scene,
    config: LearningConfig,
    joint: JointPhase,
) -> StepReport:
    noise_part = _noise_part(model, scene, config)
    estimate = joint.estimator(model, scene, joint.task)
    workers, days = scene.draws.workers, scene.draws.num_days
    own = int(estimate.counted.sum())
    total = _sum_number(workers, own)
    check_solved(days - total, days, config, "of a training step")
    share = own / max(total, 1)
    cost = None
    if estimate.cost is not None:
        cost = float(workers.sum([torch.tensor(share * estimate.cost, dtype=torch.float64)])[0])
    loss = estimate.loss
    for remaining in reversed(range(config.score_function.sample_reuse)):
        _, task = _reduced(loss, model, share, workers)
        noise_loss, noise, noising = noise_part
        realism, score = joint.realism(model, scene, noising, noise_loss, workers)

        def score_gradient(score: Tensor = score) -> Gradient:
            return _reduced(score, model, scene.draws.share, workers)[1]

        gradient, balance = combined(task, noise, score_gradient, realism, joint.balance, joint.norms)
        size = _descend(model, optimizer, gradient, config)
        if not remaining or estimate.again is None:
            break
        loss, noise_part = estimate.again(), _noise_part(model, scene, config)
    return StepReport(
        noise_loss=noise_loss, task_loss=cost, balance=balance, gradient_norm=size, unsolved=days - total
    )


def _noise_part(model: Generator, scene: Scene, config: LearningConfig) -> tuple[float, Gradient, Noising]:
    """Noise-matching loss over all workers, its gradient, and what it was computed on."""
    noising = Noising.drawn(scene.draws, model.dim, config)
    loss = noise_matching_by_day(model, scene.context, scene.whitened, noising).mean()
    value, gradient = _reduced(loss, model, scene.draws.share, scene.draws.workers)
    return value, gradient, noising


def _descend(
    model: Generator, optimizer: torch.optim.Optimizer, gradient: Gradient, config: LearningConfig
) -> float:
    """Norm of ``gradient`` before it was clipped and the optimizer went along it."""
    parameters = list(model.denoiser.parameters())
    for parameter, part in zip(parameters, gradient, strict=True):
        parameter.grad = part
    size = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(size)


def _reduced(loss: Tensor, model: Generator, share: float, workers: Workers) -> tuple[float, Gradient]:
    """The loss and its gradient over all workers; this one's ``loss`` is a mean over ``share`` of the days.

    Parameters that the loss does not reach have gradient zero.
    """
    parameters: list[nn.Parameter] = list(model.denoiser.parameters())
    slopes: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if loss.requires_grad:
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    own = [
        torch.zeros_like(parameter) if slope is None else share * slope
        for parameter, slope in zip(parameters, slopes, strict=True)
    ]
    total, *gradients = workers.sum([share * loss.detach().to(own[0].dtype), *own])
    return float(total), gradients


def _sum_number(workers: Workers, value: int) -> int:
    # Counts up to 2**24 are exact in float32, which every device has.
    (total,) = workers.sum([torch.tensor(float(value))])
    return int(total)


def check_solved(unsolved: int, days: int, config: LearningConfig, where: str) -> None:
    """Stop where more solves failed than ``config.largest_unsolved_share`` allows.

    Raises
    ------
    NotConvergedError
        Says how many, of how many, and ``where``.
    """
    if unsolved > config.largest_unsolved_share * days:
        raise NotConvergedError(
            f"{unsolved} of {days} solves {where} failed (learning.largest_unsolved_share = "
            f"{config.largest_unsolved_share:g}): check the program on these scenarios or allow more",
            unsolved=unsolved,
            days=days,
        )
