"""What a training run found, epoch by epoch, as plain values that checkpoints and registries hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from hedgecast.learning.budget import Balance, Realism
from hedgecast.learning.step import StepReport


@dataclasses.dataclass(kw_only=True, slots=True)
class History:
    """Figures of each epoch, and which weights were kept."""

    noise_losses: list[float] = dataclasses.field(default_factory=list)
    """Validation noise-matching loss after each epoch of pretraining."""
    first_noise_loss: float = float("nan")
    """The same of the first weights."""
    task_losses: list[float] = dataclasses.field(default_factory=list)
    """Validation cost per day before the joint phase and after each of its epochs."""
    joint_noise_losses: list[float] = dataclasses.field(default_factory=list)
    """Validation noise-matching loss at the same points."""
    joint_score_ratios: list[float] = dataclasses.field(default_factory=list)
    """Validation energy score over the pretrained model's after each epoch of the joint phase."""
    joint_diversities: list[float] = dataclasses.field(default_factory=list)
    """Distance between two scenarios of a validation day over the pretrained model's at the same points."""
    training_noise_losses: list[float] = dataclasses.field(default_factory=list)
    """Mean noise-matching loss of the steps of each epoch of both phases."""
    training_task_losses: list[float] = dataclasses.field(default_factory=list)
    """Mean cost per day of the steps of each epoch of the joint phase, where its estimator decides."""
    balances: list[Balance] = dataclasses.field(default_factory=list)
    """Mean over each epoch's steps of the joint phase: norms, cosine, multipliers, realism."""
    unsolved: int = 0
    """Days masked in training because their solve failed."""
    best_epoch: int = 0
    """Epoch of pretraining whose weights were kept; 0: the first weights."""
    best_joint_epoch: int = 0
    """Epoch of the joint phase whose weights were kept; 0: the pretrained ones."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of each phase's epochs, without what interruptions lost."""
    precision: str = "float32"
    """In which type the network multiplied."""

    @property
    def cosines(self) -> list[float]:
        """Mean cosine between the two gradients, by epoch of the joint phase."""
        return [balance.cosine for balance in self.balances]

    def add_epoch(self, reports: Sequence[StepReport]) -> None:
        """Take in the steps of one epoch, at least one."""
        self.training_noise_losses.append(sum(report.noise_loss for report in reports) / len(reports))
        costs = [report.task_loss for report in reports if report.task_loss is not None]
        if costs:
            self.training_task_losses.append(sum(costs) / len(costs))
        balances = [report.balance for report in reports if report.balance is not None]
        if balances:
            self.balances.append(Balance.mean(balances))
        self.unsolved += sum(report.unsolved for report in reports)

    def add_validation(self, noise_loss: float, cost: float | None) -> None:
        """Take in what a validation found; ``cost`` is None in pretraining."""
        if cost is None:
            self.noise_losses.append(noise_loss)
        else:
            self.joint_noise_losses.append(noise_loss)
            self.task_losses.append(cost)

    def add_realism(self, realism: Realism) -> None:
        """Take in how real scenarios of validation days were after an epoch of the joint phase."""
        self.joint_score_ratios.append(realism.score_ratio)
        self.joint_diversities.append(realism.diversity)

    def set_best(self, epoch: int, *, joint: bool) -> None:
        """Note that the weights of ``epoch`` are kept."""
        if joint:
            self.best_joint_epoch = epoch
        else:
            self.best_epoch = epoch

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Take in what an epoch of ``phase`` took."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def curves(self) -> dict[str, list[float]]:
        """Every figure that there is one of for each epoch, by name."""
        found = {
            field.name: list(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name.endswith(("_losses", "_ratios", "_diversities"))
        }
        for balance in self.balances:
            figures = dataclasses.asdict(balance)
            figures |= figures.pop("realism")
            for name, value in figures.items():
                found.setdefault(f"joint_{name}", []).append(value)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        balances = [
            Balance(**{**record, "realism": Realism(**record["realism"])}) for record in values["balances"]
        ]
        lists = {name: list(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "seconds": dict(values["seconds"]), "balances": balances})
