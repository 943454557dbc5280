"""What a model is worth on validation days: noise-matching loss and cost, in bounded memory.

The same angles, noise and scenarios are drawn at every call with one seed, so that differences between
two calls are the model's. Some days are computed at a time and the days are shared by all workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.joint import path_scores
from hedgecast.learning.objective import TaskLoss, noise_matching_loss
from hedgecast.learning.parallel import ALONE, Workers, own_rows
from hedgecast.learning.step import Batch, check_solved

SAMPLES_PER_DAY = 64
_SCORED_SCENARIOS = 200
# Scenarios computed together, of whole days. The solve keeps about 4 KiB a scenario and slot: 0.6 GiB of 24.
_CHUNK = 6400


@dataclasses.dataclass(frozen=True, slots=True)
class Days:
    """Days of one part, ready for training or validation."""

    context: Float[Tensor, "B C"]
    whitened: Float[Tensor, "B D"]
    realized: Float[Tensor, "B T F"]
    weight: Float[Tensor, " B"] | None = None
    """Decision weights, where the estimator needs them: see `JointPhase.day_weights`."""

    def __len__(self) -> int:
        return len(self.context)

    def batch(self, rows: Tensor) -> Batch:
        """Some of the days."""
        weight = None if self.weight is None else self.weight[rows]
        return Batch(self.context[rows], self.whitened[rows], self.realized[rows], weight)

    def to(self, device: torch.device) -> Days:
        """The same days on ``device``."""
        weight = None if self.weight is None else self.weight.to(device)
        return Days(self.context.to(device), self.whitened.to(device), self.realized.to(device), weight)


@torch.no_grad()
def validation_noise_loss(
    model: Generator, days: Days, config: LearningConfig, seed: int, workers: Workers = ALONE
) -> float:
    """Noise-matching loss over all ``days``, `SAMPLES_PER_DAY` each."""
    many = dataclasses.replace(config, samples_per_day=SAMPLES_PER_DAY)
    total = torch.zeros((), dtype=torch.float64)
    for rows in _chunks(len(days), SAMPLES_PER_DAY, workers):
        generator = torch.Generator().manual_seed(seed)
        loss = noise_matching_loss(model, days.context, days.whitened, many, generator, rows)
        total += float(loss) * (rows.stop - rows.start)
    (everyone,) = workers.sum([total])
    return float(everyone) / len(days)


@torch.no_grad()
def validation_scores(
    model: Generator, days: Days, seed: int, workers: Workers = ALONE
) -> tuple[float, float]:
    """Energy score and spread of 200 scenarios a day over all ``days``: see `path_scores`."""
    generator = torch.Generator().manual_seed(seed)
    dtype = model.whitening.factor.dtype
    noise = torch.randn(len(days), _SCORED_SCENARIOS, model.dim, generator=generator, dtype=dtype)
    total = torch.zeros(2, dtype=torch.float64)
    for rows in _chunks(len(days), _SCORED_SCENARIOS, workers):
        found = path_scores(
            model, days.context[rows], days.realized[rows], noise[rows].to(days.context.device)
        )
        total += torch.stack(found).double().cpu() * (rows.stop - rows.start)
    score, spread = (workers.sum([total])[0] / len(days)).tolist()
    return score, spread


@torch.no_grad()
def validation_cost(
    model: Generator, task: TaskLoss, days: Days, config: LearningConfig, seed: int, workers: Workers = ALONE
) -> float:
    """Mean cost of the decisions that so many scenarios a day induce as are configured, over the days solved.

    Raises
    ------
    NotConvergedError
        More solves failed than ``config.largest_unsolved_share``.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype = model.whitening.factor.dtype
    count = config.validation_scenarios
    noise = torch.randn(len(days), count, model.dim, generator=generator, dtype=dtype)
    found = torch.zeros(2, dtype=torch.float64)
    for rows in _chunks(len(days), count, workers):
        cost, solved = task(model.sample(days.context[rows], noise[rows]), days.realized[rows])
        num_solved = int(solved.sum())
        found += torch.tensor([float(cost) * num_solved, num_solved], dtype=torch.float64)
    (everyone,) = workers.sum([found])
    total, num_solved = float(everyone[0]), int(everyone[1])
    check_solved(len(days) - num_solved, len(days), config, "of validation")
    return total / max(num_solved, 1)


def _chunks(num_days: int, per_day: int, workers: Workers) -> Iterator[slice]:
    """This worker's days, as many at a time as have `_CHUNK` scenarios."""
    own, size = own_rows(workers, num_days), max(_CHUNK // per_day, 1)
    for begin in range(own.start, own.stop, size):
        yield slice(begin, min(begin + size, own.stop))
