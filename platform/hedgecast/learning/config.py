"""The ``[learning]`` table of a study: which method makes scenarios, and how it is trained."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.generator import Generator

MethodName = Literal[
    "point", "ridge-residual", "ridge-residual-scaled", "gaussian", "diffusion", "diffusion-dfl"
]
"""Methods by name; `hedgecast.learning.methods.make_method` builds them."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LearningConfig(Config):
    """Method, sizes and schedule of training."""

    method: MethodName = "diffusion-dfl"
    """What makes the scenarios."""
    seed: int = 0
    """Of everything drawn in training."""
    scenarios: int = 200
    """Scenarios of each day in backtests and reports, equal for all methods."""
    generator: Generator.Config = dataclasses.field(default_factory=Generator.Config)
    """Network, statistics and sampler of the diffusion methods."""
    season_days: float = 30.0
    """ridge-residual: deviation of the weight by distance in the year, days."""
    size_days: int = 14
    """ridge-residual-scaled: days before the decision whose residuals tell the size."""
    batch_size: int = 64
    """Days of a training step."""
    pretraining_epochs: int = 60
    """Most passes over the training days by noise matching alone; early stopping usually ends sooner."""
    joint_epochs: int = 8
    """Most passes with the task loss, diffusion-dfl only."""
    patience: int = 12
    """Pretraining stops after so many epochs without a better validation loss."""
    joint_patience: int = 4
    """The same in the joint phase, by validation cost of the decision."""
    learning_rate: float = 5e-4
    """Highest of pretraining."""
    joint_learning_rate: float = 1e-4
    """Highest of the joint phase."""
    weight_decay: float = 0.01
    """Decoupled, on all weights."""
    gradient_limit: float = 1.0
    """Largest norm of a step's gradient; longer ones are shortened to it."""
    average_decay: float = 0.99
    """Of the moving average of the weights, which is what is validated and kept."""
    context_noise: float = 0.5
    """Deviation of the noise added to standardized features in training: with few days it is what keeps
    the network from learning them by heart."""
    noised_samples: int = 16
    """Noise levels that each day of a batch is seen at."""
    log_noise_mean: float = 0.0
    """Mean of the log noise level in training."""
    log_noise_std: float = 1.0
    """Deviation of the log noise level in training."""
    training_scenarios: int = 50
    """Scenarios of each day in the joint phase."""
    task_share: float = 0.9
    """Share of the task in a joint step's gradient, in [0, 1]."""
    grad_steps: int = 2
    """Last sampler steps that the task gradient flows through."""
    smoothing: float = 0.1
    """Barrier at which the gradient of the decision is taken, in units of cost."""
    backend: str | None = None
    """Solver of the joint phase; left out, the first that has gradients for the program."""
    failed_share_limit: float = 0.05
    """The joint phase stops with an error when a larger share of an epoch's solves failed."""

    def __post_init__(self) -> None:
        for name in (
            "scenarios",
            "size_days",
            "batch_size",
            "patience",
            "joint_patience",
            "noised_samples",
            "training_scenarios",
            "grad_steps",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("pretraining_epochs", "joint_epochs", "weight_decay", "context_noise", "smoothing"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in (
            "season_days",
            "learning_rate",
            "joint_learning_rate",
            "gradient_limit",
            "log_noise_std",
        ):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("task_share", "failed_share_limit"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        _require(0 <= self.average_decay < 1, "average_decay", self.average_decay, "in [0, 1)")


def _require(holds: bool, name: str, value: float, rule: str) -> None:
    if not holds:
        raise ConfigError(f"learning.{name} = {value}: must be {rule}", key=f"learning.{name}")
