"""The ``[learning]`` table of a study."""

from __future__ import annotations

import dataclasses

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.generator import Generator


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LearningConfig(Config):
    """How scenarios are learned: pretraining on noise matching, then a joint phase with the task loss."""

    method: str = "diffusion-dfl"
    """Name of a method: see `hedgecast.learning.methods.METHODS`."""
    seed: int = 0
    """Of first weights, noise and the order of days."""
    generator: Generator.Config = dataclasses.field(default_factory=Generator.Config)
    """Network, statistics and sampler."""
    epochs: int = 120
    """Passes over the training days in pretraining, at most."""
    joint_epochs: int = 12
    """Passes over the training days in the joint phase, at most."""
    batch_days: int = 64
    """Days in one step."""
    samples_per_day: int = 32
    """Noised samples of each day in one noise-matching loss."""
    scenarios: int = 50
    """Scenarios of each day in one task loss."""
    task_share: float = 0.5
    """Share of the task gradient's norm in the joint gradient, from 0 to 1."""
    grad_steps: int = 2
    """Last sampler steps that the pathwise gradient goes through."""
    smoothing: float = 1e-3
    """Barrier at which the program's gradients are taken, in units of the program's cost."""
    learning_rate: float = 2e-3
    """Largest rate of pretraining; it falls to zero along a cosine."""
    joint_learning_rate: float = 3e-4
    """Largest rate of the joint phase."""
    weight_decay: float = 0.05
    """Decoupled decay of the network's weights."""
    clip_norm: float = 1.0
    """Largest norm of a step's gradient."""
    ema_decay: float = 0.99
    """Decay of the averaged weights, which are the ones used."""
    noise_log_mean: float = -0.4
    """Mean of log(sigma) of the noise levels trained on."""
    noise_log_std: float = 1.4
    """Standard deviation of log(sigma)."""
    patience: int = 15
    """Epochs of pretraining without a better validation loss before it stops."""
    noise_matching_margin: float = 0.05
    """Joint weights are kept only while the validation noise-matching loss stays within this share of the
    pretrained one."""
    largest_unsolved_share: float = 0.05
    """Share of a step's days whose solve may fail; beyond it training stops."""

    def __post_init__(self) -> None:
        for name in ("batch_days", "samples_per_day", "scenarios", "grad_steps", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must be at least 1", key=name)
        for name in ("epochs", "joint_epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must not be negative", key=name)
        for name in ("task_share", "ema_decay", "largest_unsolved_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must lie in [0, 1]", key=name)
        for name in ("learning_rate", "joint_learning_rate", "clip_norm", "noise_log_std"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must be positive", key=name)
        for name in ("smoothing", "weight_decay", "noise_matching_margin"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must not be negative", key=name)
