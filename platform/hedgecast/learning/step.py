"""One training step; no loop, no schedule, no clock. Whoever trains (in process, Ray Train) calls it."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.core.errors import NotConvergedError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.objective import Balance, TaskLoss, balanced, noise_matching_loss
from hedgecast.learning.parallel import ALONE, Workers, own_rows


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
    workers: Workers = ALONE,
) -> StepReport:
    """One step of the optimizer on noise matching, joined by the task loss where ``task`` is given.

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
    task : TaskLoss, optional
    workers : Workers
        Who share the days of the step; see `hedgecast.learning.parallel`.

    Raises
    ------
    NotConvergedError
        More of the batch's solves failed than ``config.largest_unsolved_share``.
    """
    parameters = list(model.denoiser.parameters())
    rows = own_rows(workers, len(batch.context))
    noise_loss, gradients = _noise_part(model, batch, config, generator, workers, rows)
    balance, task_loss, unsolved = None, None, 0
    if task is not None:
        paths = _paths(model, batch, config, generator, rows)
        cost, solved = task(paths, batch.realized[rows])
        num_solved = _sum_number(workers, int(solved.sum()))
        unsolved = len(batch.context) - num_solved
        _check_solved(unsolved, len(batch.context), config)
        share = int(solved.sum()) / max(num_solved, 1)
        task_loss, task_gradients = _reduced(cost, parameters, share, workers)
        gradients, balance = balanced(gradients, task_gradients, config.task_share)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepReport(
        noise_loss=noise_loss,
        task_loss=task_loss,
        balance=balance,
        gradient_norm=float(norm),
        unsolved=unsolved,
    )


def _noise_part(
    model: Generator,
    batch: Batch,
    config: LearningConfig,
    generator: torch.Generator,
    workers: Workers,
    rows: slice,
) -> tuple[float, list[Tensor]]:
    loss = noise_matching_loss(model, batch.context, batch.whitened, config, generator, rows)
    share = (rows.stop - rows.start) / len(batch.context)
    return _reduced(loss, list(model.denoiser.parameters()), share, workers)


def _reduced(
    loss: Tensor, parameters: list[nn.Parameter], share: float, workers: Workers
) -> tuple[float, list[Tensor]]:
    """The loss and its gradient over all workers; this one's ``loss`` is a mean over ``share`` of the days.

    Parameters that the loss does not reach have gradient zero.
    """
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


def _paths(
    model: Generator, batch: Batch, config: LearningConfig, generator: torch.Generator, rows: slice
) -> Tensor:
    """Scenarios of ``rows`` whose gradient goes through the last sampler steps (pathwise estimator)."""
    noise = torch.randn(
        len(batch.context), config.scenarios, model.dim, generator=generator, dtype=batch.whitened.dtype
    )
    return model.sample(batch.context[rows], noise[rows], grad_steps=config.grad_steps)


def _check_solved(unsolved: int, days: int, config: LearningConfig) -> None:
    if unsolved > config.largest_unsolved_share * days:
        raise NotConvergedError(
            f"{unsolved} of {days} solves of a training step failed (learning.largest_unsolved_share = "
            f"{config.largest_unsolved_share:g}): check the program on these scenarios or allow more",
            unsolved=unsolved,
            days=days,
        )
