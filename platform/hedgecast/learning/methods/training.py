"""The loop of the methods that are one network with one loss.

The same epochs, rates, averaging and patience as the diffusion model's, from the same ``[learning]`` table,
so that no method has a larger budget than another. Weights start where the closed form stands, are averaged
while they train, and the best averaged ones on the validation days are what is left in the network.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Progress
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.rates import rate_factor
from hedgecast.learning.step import check_solved

Network = TypeVar("Network", bound=nn.Module)
# Validation days solved together: 32 x 200 scenarios x 24 slots keep 0.6 GiB.
_CHUNK = 32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """How long and how fast one phase of training runs."""

    name: str
    """On the progress bar."""
    epochs: int
    """At most."""
    rate: float
    """Largest learning rate; it rises and falls as the configuration says."""


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """Validation scores before training and after each epoch; lower is better."""

    scores: tuple[float, ...]
    best_epoch: int
    """Whose averaged weights were kept; 0: the first weights."""


def train_network(
    network: Network,
    loss: Callable[[Tensor], Tensor],
    score: Callable[[Network], float],
    *,
    phase: Phase,
    config: LearningConfig,
    num_days: int,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Curve:
    """Train ``network`` in place and leave its best averaged weights in it.

    Parameters
    ----------
    network : nn.Module
        What ``loss`` differentiates.
    loss : callable
        Rows of training days to the mean loss over them.
    score : callable
        A network to its score on the validation days.
    phase : Phase
    config : LearningConfig
        Days in a step, rate schedule, decay, clipping, averaging, patience.
    num_days : int
        Training days.
    generator : torch.Generator
        Source of the order of days.
    progress : callable, optional
        Called after each epoch.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=phase.rate, weight_decay=config.weight_decay)
    steps_per_epoch = max(num_days // config.batch_days, 1)
    steps = max(phase.epochs * steps_per_epoch, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(config, step, steps))
    average = copy.deepcopy(network)
    scores, kept, best_epoch = [score(network)], _weights(network), 0
    for epoch in range(1, phase.epochs + 1):
        for rows in torch.randperm(num_days, generator=generator).tensor_split(steps_per_epoch):
            optimizer.zero_grad(set_to_none=True)
            loss(rows).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            schedule.step()
            _follow(average, network, config.ema_decay)
        scores.append(score(average))
        if scores[-1] < scores[best_epoch]:
            kept, best_epoch = _weights(average), epoch
        if progress is not None:
            progress(phase.name, epoch, phase.epochs, f"{scores[-1]:.4g}, best {scores[best_epoch]:.4g}")
        if epoch - best_epoch >= config.patience:
            break
    network.load_state_dict(kept)
    return Curve(tuple(scores), best_epoch)


def cost_of_days(task: TaskLoss, paths: Tensor, realized: Tensor, config: LearningConfig) -> Tensor:
    """Mean cost of the decisions that ``paths`` induce; days whose solve failed are left out.

    Raises
    ------
    NotConvergedError
        More of them failed than ``config.largest_unsolved_share``.
    """
    cost: Tensor
    cost, solved = task(paths, realized)
    check_solved(int((~solved).sum()), len(solved), config, "of a method")
    return cost


@torch.no_grad()
def validation_cost(
    task: TaskLoss, paths: Callable[[slice], Tensor], realized: Tensor, config: LearningConfig
) -> float:
    """Mean cost over all days, solved a chunk at a time: ``paths`` makes those of some rows."""
    total = 0.0
    for begin in range(0, len(realized), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        total += float(cost_of_days(task, paths(rows), realized[rows], config)) * len(realized[rows])
    return total / len(realized)


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(current, 1.0 - decay)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    # A copy of every tensor: a state_dict alone would follow the training on.
    return {name: value.clone() for name, value in network.state_dict().items()}
