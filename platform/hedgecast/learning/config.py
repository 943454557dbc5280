"""The ``[learning]`` table of a study."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Budget
from hedgecast.learning.estimators.elbo import ElboConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFunctionConfig(Config):
    """The estimator ``score-function``."""

    elbo: ElboConfig = dataclasses.field(default_factory=ElboConfig)
    """What stands for a scenario's log-likelihood."""
    sample_reuse: int = 1
    """Steps of the optimizer on one set of scenarios."""
    clip_ratio: float = 0.2
    """Largest change of a scenario's likelihood that a step still gains from."""

    def __post_init__(self) -> None:
        if self.sample_reuse < 1:
            raise ConfigError(f"sample_reuse = {self.sample_reuse}: must be at least 1", key="sample_reuse")
        if not 0.0 < self.clip_ratio < 1.0:
            raise ConfigError(f"clip_ratio = {self.clip_ratio}: must lie between 0 and 1", key="clip_ratio")


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
    drawn: int = 0
    """Drawn for each day in one task loss, a multiple of ``scenarios``, which then stand for them with the
    law of every series and step (`hedgecast.scenarios.quantile_set`); 0: as many as decide. For pathwise and
    surrogate."""
    validation_scenarios: int = 200
    """Scenarios of each day by whose decisions joint weights are chosen: as many as decisions will have. Few
    scenarios ask for wider ones than many do."""
    estimator: Literal["pathwise", "score-function", "decision-weighted", "surrogate"] = "pathwise"
    """How the task gradient is estimated: see `hedgecast.learning.estimators`."""
    grad_steps: int = 2
    """Last sampler steps that gradients go through; as many as the sampler has, or more: all."""
    checkpointed: bool = False
    """Recompute each sampler step in the backward pass: the memory of one step, a third more network time."""
    score_function: ScoreFunctionConfig = dataclasses.field(default_factory=ScoreFunctionConfig)
    """Of that estimator."""
    decision_weight: float = 1.0
    """Weight of a day of average steepness on top of 1, for the estimator ``decision-weighted``."""
    balance: Literal["budget", "weighted"] = "budget"
    """How the task is held back: by a budget of realism, or by a fixed share."""
    budget: Budget.Config = dataclasses.field(default_factory=Budget.Config)
    """Of that balance."""
    task_share: float = 0.5
    """Share of the task gradient's norm in the joint gradient of the balance ``weighted``, from 0 to 1."""
    norm_decay: float = 0.0
    """Decay of the averages over steps of the norms by which both balances scale gradients, from 0, each
    step's own, to below 1. Where a few days make most of the cost's slope, 0 stops short of the least
    cost; 0.99 was right for an exponential utility, and was not tried on other programs."""
    smoothing: float = 1e-3
    """Barrier at which the program's gradients are taken, in units of the program's cost."""
    learning_rate: float = 2e-3
    """Largest rate of pretraining."""
    joint_learning_rate: float = 3e-4
    """Largest rate of the joint phase."""
    rate_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls from its largest to zero over the steps of a phase; `constant`: it does not."""
    warmup_steps: int = 0
    """Steps of each phase over which the rate first rises from zero."""
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
    joint_patience: int = 12
    """Epochs of the joint phase without better weights before it stops."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network's products in training: `auto` is bfloat16 on a GPU that has it and float32 on a CPU,
    where bfloat16 must be asked for and is slower unless the CPU has instructions for it (AMX, AVX512-BF16).
    Weights, statistics, solves and sums stay as they are."""
    noise_matching_margin: float = 0.05
    """Largest noise-matching loss over the pretrained model's, less 1: the bound of the budget. Beyond it, or
    beyond ``budget.score_margin``, on validation days no joint weights are kept."""
    largest_unsolved_share: float = 0.05
    """Share of a step's days whose solve may fail; beyond it training stops."""

    def __post_init__(self) -> None:
        for name in (
            "batch_days",
            "samples_per_day",
            "scenarios",
            "validation_scenarios",
            "grad_steps",
            "patience",
            "joint_patience",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must be at least 1", key=name)
        for name in ("epochs", "joint_epochs", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must not be negative", key=name)
        if self.score_function.sample_reuse > 1 and self.estimator != "score-function":
            raise ConfigError(
                f"sample_reuse = {self.score_function.sample_reuse} with estimator {self.estimator!r}: only "
                "the score function can use its scenarios again",
                key="learning.score_function.sample_reuse",
            )
        if self.drawn < 0 or self.drawn % self.scenarios:
            raise ConfigError(
                f"learning.drawn = {self.drawn}: must be 0 or a multiple of learning.scenarios = "
                f"{self.scenarios}",
                key="drawn",
            )
        if self.drawn and self.estimator not in ("pathwise", "surrogate"):
            raise ConfigError(
                f"learning.drawn = {self.drawn} with estimator {self.estimator!r}: only pathwise and "
                "surrogate differentiate scenarios, leave it out",
                key="drawn",
            )
        if self.estimator == "score-function" and self.scenarios < 2:
            raise ConfigError(
                f"learning.scenarios = {self.scenarios}: the score function needs at least 2", key="scenarios"
            )
        if self.balance == "budget" and self.noise_matching_margin == 0:
            raise ConfigError(
                "noise_matching_margin = 0: a budget needs a positive margin; to keep the task out use "
                "balance = 'weighted' with task_share = 0",
                key="learning.noise_matching_margin",
            )
        for name in ("task_share", "ema_decay", "largest_unsolved_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must lie in [0, 1]", key=name)
        if not 0.0 <= self.norm_decay < 1.0:
            raise ConfigError(
                f"learning.norm_decay = {self.norm_decay}: must lie in [0, 1)", key="norm_decay"
            )
        for name in ("learning_rate", "joint_learning_rate", "clip_norm", "noise_log_std"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must be positive", key=name)
        for name in ("smoothing", "weight_decay", "noise_matching_margin", "decision_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"learning.{name} = {getattr(self, name)}: must not be negative", key=name)
