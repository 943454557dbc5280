"""Training in this process: pretraining on noise matching, then a joint phase with the task loss.

Both phases stop early and give back their best weights on the validation days. The joint phase keeps
only weights whose noise-matching loss stays within a stated share of the pretrained model's: a model
that trades realism for a lower cost on the days it has seen is not kept.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Balance
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.joint import JointPhase
from hedgecast.learning.objective import TaskLoss, noise_matching_loss
from hedgecast.learning.step import Batch, StepReport, training_step

Progress = Callable[[str, int, int, str], None]
"""Phase, epochs done, epochs at most, and what the last one found."""
_VALIDATION_SAMPLES = 64
_VALIDATION_SCENARIOS = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Days:
    """Days of one part, ready for training or validation."""

    context: Float[Tensor, "B C"]
    whitened: Float[Tensor, "B D"]
    realized: Float[Tensor, "B T F"]
    weight: Float[Tensor, " B"] | None = None
    """Decision weights, where the estimator needs them: see `JointPhase.day_weights`."""

    def batch(self, rows: Tensor) -> Batch:
        """Some of the days."""
        weight = None if self.weight is None else self.weight[rows]
        return Batch(self.context[rows], self.whitened[rows], self.realized[rows], weight)


@dataclasses.dataclass(kw_only=True, slots=True)
class History:
    """What training found, epoch by epoch."""

    noise_losses: list[float] = dataclasses.field(default_factory=list)
    """Validation noise-matching loss after each epoch of pretraining."""
    task_losses: list[float] = dataclasses.field(default_factory=list)
    """Validation cost per day before the joint phase and after each of its epochs."""
    joint_noise_losses: list[float] = dataclasses.field(default_factory=list)
    """Validation noise-matching loss at the same points."""
    balances: list[Balance] = dataclasses.field(default_factory=list)
    """Mean over each epoch's steps of the joint phase: norms, cosine, multipliers, realism."""
    unsolved: int = 0
    """Days masked in training because their solve failed."""
    best_epoch: int = 0
    """Epoch of pretraining whose weights were kept; 0: the first weights."""
    best_joint_epoch: int = 0
    """Epoch of the joint phase whose weights were kept; 0: the pretrained ones."""

    @property
    def cosines(self) -> list[float]:
        """Mean cosine between the two gradients, by epoch of the joint phase."""
        return [balance.cosine for balance in self.balances]


def pretrain(
    model: Generator,
    train: Days,
    validation: Days,
    config: LearningConfig,
    generator: torch.Generator,
    history: History,
    progress: Progress | None = None,
) -> None:
    """Train ``model`` on noise matching and leave its best averaged weights in it."""
    loop = _Loop(model, train, config, config.learning_rate, config.epochs, generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    best, kept = _noise_loss(model, validation, config, seed), _weights(model)
    waited = 0
    for epoch in range(1, config.epochs + 1):
        for _ in loop.epoch(None):
            pass
        loss = _noise_loss(loop.average, validation, config, seed)
        history.noise_losses.append(loss)
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, kept, history.best_epoch = loss, _weights(loop.average), epoch
        if progress is not None:
            progress("pretraining", epoch, config.epochs, f"noise matching {loss:.4f}, best {best:.4f}")
        if waited >= config.patience:
            break
    model.denoiser.load_state_dict(kept)


def train_jointly(
    model: Generator,
    task: TaskLoss,
    train: Days,
    validation: Days,
    config: LearningConfig,
    generator: torch.Generator,
    history: History,
    progress: Progress | None = None,
) -> None:
    """Train a pretrained ``model`` on both losses and leave its best averaged weights in it."""
    joint = JointPhase(model, task, config)
    weight = joint.day_weights(train.context, train.whitened, generator)
    train = dataclasses.replace(train, weight=weight)
    loop = _Loop(model, train, config, config.joint_learning_rate, config.joint_epochs, generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    start = _noise_loss(model, validation, config, seed)
    best, kept = _cost(model, task, validation, seed), _weights(model)
    history.task_losses.append(best)
    history.joint_noise_losses.append(start)
    for epoch in range(1, config.joint_epochs + 1):
        reports = list(loop.epoch(joint))
        history.unsolved += sum(report.unsolved for report in reports)
        balances = [report.balance for report in reports if report.balance is not None]
        history.balances.append(Balance.mean(balances))
        cost = _cost(loop.average, task, validation, seed)
        noise = _noise_loss(loop.average, validation, config, seed)
        history.task_losses.append(cost)
        history.joint_noise_losses.append(noise)
        if cost < best and noise <= start * (1.0 + config.noise_matching_margin):
            best, kept, history.best_joint_epoch = cost, _weights(loop.average), epoch
        if progress is not None:
            progress(
                "joint training", epoch, config.joint_epochs, f"validation cost {cost:.2f}, best {best:.2f}"
            )
    model.denoiser.load_state_dict(kept)


class _Loop:
    """Epochs over shuffled days with a cosine rate and averaged weights."""

    def __init__(
        self,
        model: Generator,
        train: Days,
        config: LearningConfig,
        rate: float,
        epochs: int,
        generator: torch.Generator,
    ) -> None:
        self.model, self.train, self.config, self.generator = model, train, config, generator
        self.average = copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(
            model.denoiser.parameters(), lr=rate, weight_decay=config.weight_decay
        )
        num_days = len(train.context)
        self.steps_per_epoch = max(num_days // config.batch_days, 1)
        steps = max(epochs * self.steps_per_epoch, 1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))
        )

    def epoch(self, joint: JointPhase | None) -> Iterator[StepReport]:
        order = torch.randperm(len(self.train.context), generator=self.generator)
        for rows in order.tensor_split(self.steps_per_epoch):
            yield training_step(
                self.model, self.optimizer, self.train.batch(rows), self.config, self.generator, joint
            )
            self.schedule.step()
            self._update_average()

    @torch.no_grad()
    def _update_average(self) -> None:
        pairs = zip(self.average.denoiser.parameters(), self.model.denoiser.parameters(), strict=True)
        for mean, current in pairs:
            mean.lerp_(current, 1.0 - self.config.ema_decay)


@torch.no_grad()
def _noise_loss(model: Generator, days: Days, config: LearningConfig, seed: int) -> float:
    # The same angles and noise at every call: differences are the model's.
    generator = torch.Generator().manual_seed(seed)
    many = dataclasses.replace(config, samples_per_day=_VALIDATION_SAMPLES)
    return float(noise_matching_loss(model, days.context, days.whitened, many, generator))


@torch.no_grad()
def _cost(model: Generator, task: TaskLoss, days: Days, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    paths = model.draw(days.context, _VALIDATION_SCENARIOS, generator)
    return float(task(paths, days.realized)[0])


def _weights(model: Generator) -> dict[str, Tensor]:
    # A copy of every tensor: a state_dict alone would follow the training on.
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}
