"""One training step; no loop, no schedule, no clock. Whoever trains (in process, Ray Train) calls it."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.core.errors import NotConvergedError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.objective import Balance, TaskLoss, balanced, noise_matching_loss


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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one step found."""

    noise_loss: float
    task_loss: float | None = None
    """Cost per day; None in pretraining."""
    balance: Balance | None = None
    """None in pretraining."""
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
    task: TaskLoss | None = None,
) -> StepReport:
    """One step of the optimizer on noise matching, joined by the task loss where ``task`` is given.

    Parameters
    ----------
    model : Generator
        Changed in place.
    optimizer : torch.optim.Optimizer
        Over the denoiser's parameters.
    batch : Batch
    config : LearningConfig
    generator : torch.Generator
        Source of angles, noise and scenarios.
    task : TaskLoss, optional

    Raises
    ------
    NotConvergedError
        More of the batch's solves failed than ``config.largest_unsolved_share``.
    """
    parameters = list(model.denoiser.parameters())
    noise_loss = noise_matching_loss(model, batch.context, batch.whitened, config, generator)
    gradients = list(torch.autograd.grad(noise_loss, parameters))
    balance, task_loss, unsolved = None, None, 0
    if task is not None:
        cost, solved = task(_paths(model, batch, config, generator), batch.realized)
        unsolved = int((~solved).sum())
        _check_solved(unsolved, len(solved), config)
        slopes = torch.autograd.grad(cost, parameters, allow_unused=True)
        task_gradients = [
            torch.zeros_like(parameter) if slope is None else slope
            for parameter, slope in zip(parameters, slopes, strict=True)
        ]
        gradients, balance = balanced(gradients, task_gradients, config.task_share)
        task_loss = float(cost.detach())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepReport(
        noise_loss=float(noise_loss.detach()),
        task_loss=task_loss,
        balance=balance,
        gradient_norm=float(norm),
        unsolved=unsolved,
    )


def _paths(model: Generator, batch: Batch, config: LearningConfig, generator: torch.Generator) -> Tensor:
    """Scenarios whose gradient goes through the last sampler steps (pathwise estimator)."""
    noise = torch.randn(
        len(batch.context), config.scenarios, model.dim, generator=generator, dtype=batch.whitened.dtype
    )
    return model.sample(batch.context, noise, grad_steps=config.grad_steps)


def _check_solved(unsolved: int, days: int, config: LearningConfig) -> None:
    if unsolved > config.largest_unsolved_share * days:
        raise NotConvergedError(
            f"{unsolved} of {days} solves of a training step failed (learning.largest_unsolved_share = "
            f"{config.largest_unsolved_share:g}): check the program on these scenarios or allow more",
            unsolved=unsolved,
            days=days,
        )
