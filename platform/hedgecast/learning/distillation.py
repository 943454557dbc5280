"""A student of few steps: it takes the same noise where a trained generator does, in fewer network calls.

With e_T(x, z) what the teacher's own solver makes of noise z in context x, and e_S the student's, both
whitened, of D entries, the student's weights are to minimize

    L = E |e_S - e_T|^2 / D  +  w (2 E |e_S - e_T'| - E |e_S - e_S'| - E |e_T - e_T'|) / sqrt(D)         (1)

where a prime marks another scenario of the same context. The first term is a regression, well posed because
the teacher has no randomness of its own: it pairs scenario i of both, so that both decide alike. The second
is the energy distance, zero for equal laws alone: what the student cannot fit, the regression would shrink
towards its mean, and the distance holds the spread. Gradients go through all of the student's steps.

The student is the teacher's network and starts at its weights, with K Euler steps: where the flow stands
still (an untrained network) they are exact for any K. Contexts are those of training days; no target is read.
The teacher is asked once, for a pool of scenarios of each of these days, and validation days, with noise of
their own, say when to stop.

Source: Salimans and Ho (2022), section 3 (a student of the sampler's own map, same noise),
https://arxiv.org/abs/2202.00512; Gneiting and Raftery (2007), eq. 22,
https://doi.org/10.1198/016214506000001437.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Progress
from hedgecast.learning.methods.diffusion import drawn
from hedgecast.learning.methods.training import Curve, Phase, train_network
from hedgecast.learning.part import Part
from hedgecast.scenarios.scenario_set import ScenarioSet

PHASE = "distillation"
MOST_STEPS = 4
# Scenarios of each validation day that say when to stop.
_VALIDATION_SCENARIOS = 64
# Days asked together: 64 x 192 scenarios keep a layer's activations at 6 MiB.
_CHUNK = 64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig(Config):
    """The ``[distill]`` table of a study; what it does not name is as in ``[learning]``."""

    steps: int = 1
    """Network calls of the student, 1 to 4. One was enough where days are whitened: docs/sampler.md."""
    seed: int = 0
    """Of noise and the order of days."""
    epochs: int = 30
    """Passes over the training days, at most."""
    patience: int = 10
    """Epochs without a better validation loss before it stops."""
    learning_rate: float = 1e-3
    """Largest rate."""
    samples_per_day: int = 16
    """Scenarios of each day in one step."""
    pool_per_day: int = 192
    """Scenarios of each day that the teacher is asked for, from which each step takes its own. They are held
    in memory with their noise: 1,000 days of 24 slots take 35 MiB."""
    score_weight: float = 1.0
    """Of the energy distance, w of equation (1)."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise ConfigError(
                f"distill.steps = {self.steps}: must be 1 to {MOST_STEPS}; for more take the sampler 'adams' "
                "of [learning.generator], which needs no training",
                key="distill.steps",
            )
        if not 2 <= self.samples_per_day <= self.pool_per_day:
            raise ConfigError(
                f"distill.samples_per_day = {self.samples_per_day}, distill.pool_per_day = "
                f"{self.pool_per_day}: a distance needs at least 2 scenarios, and the pool must hold them",
                key="distill.samples_per_day",
            )
        if self.epochs < 0 or self.patience < 1:
            raise ConfigError(
                f"distill.epochs = {self.epochs}, distill.patience = {self.patience}: "
                "must be at least 0 and 1",
                key="distill.epochs",
            )
        if not self.learning_rate > 0 or not self.score_weight >= 0:
            raise ConfigError(
                f"distill.learning_rate = {self.learning_rate}, distill.score_weight = {self.score_weight}: "
                "the rate must be positive, the weight not negative",
                key="distill.learning_rate",
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """A student and how it was made."""

    generator: Generator
    curve: Curve
    """Equation (1) on validation contexts."""
    noise_mismatch: float
    """Root mean square of e_S - e_T on validation contexts, over that of e_T - z: 0 is the teacher itself,
    1 a student that leaves the noise as it is."""
    seconds: float
    name: str = "student"

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day, as the served student draws them for the same seed."""
        return drawn(self.generator, part, count, seed, self.name)

    def report(self) -> dict[str, Any]:
        """What a bundle keeps of it."""
        return {
            "student_steps": self.generator.config.sampler_steps,
            "student_evaluations": self.generator.config.evaluations,
            "distillation_epochs": len(self.curve.scores) - 1,
            "distillation_best_epoch": self.curve.best_epoch,
            "distillation_loss_before": self.curve.scores[0],
            "distillation_loss": self.curve.scores[self.curve.best_epoch],
            "distillation_noise_mismatch": self.noise_mismatch,
            "distillation_seconds": self.seconds,
        }


def student_of(teacher: Generator, steps: int) -> Generator:
    """The teacher's network and weights with ``steps`` Euler steps for its sampler, untrained."""
    plain = teacher.to_dict()
    config = dataclasses.replace(teacher.config, sampler="euler", sampler_steps=steps)
    student = Generator.from_dict({**plain, "config": config.to_dict()})
    student.load_state_dict(teacher.state_dict())
    return student


def distill(
    teacher: Generator,
    train: Float[Tensor, "B C"],
    validation: Float[Tensor, "V C"],
    config: DistillConfig,
    learning: LearningConfig,
    progress: Progress | None = None,
) -> Distilled:
    """The student of ``teacher`` that is best on the validation contexts; the teacher is left as it is.

    Parameters
    ----------
    teacher : Generator
        Trained; its own sampler is what is distilled, not the exact flow.
    train, validation : Tensor
        Raw features of days; nothing else of them is read.
    config : DistillConfig
    learning : LearningConfig
        Days in a step, clipping, averaging and the fall of the rate.
    progress : callable, optional
        Called after each epoch.

    Raises
    ------
    ShapeError
        The contexts are not the teacher's.
    """
    for part, contexts in (("training", train), ("validation", validation)):
        if contexts.ndim != 2 or contexts.shape[1] != teacher.num_features or not len(contexts):
            raise ShapeError(
                f"{part} contexts have shape {tuple(contexts.shape)}: must be (days, "
                f"{teacher.num_features}), at least one day, of the teacher's features"
            )
    started = time.perf_counter()
    student = student_of(teacher, config.steps)
    draws = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(len(train), config.pool_per_day, teacher.dim, generator=draws)
    fixed = torch.randn(len(validation), _VALIDATION_SCENARIOS, teacher.dim, generator=draws)
    target, goal = _answers(teacher, train, noise), _answers(teacher, validation, fixed)

    def loss(rows: Tensor) -> Tensor:
        columns = torch.randperm(config.pool_per_day, generator=draws)[: config.samples_per_day]
        found = student.sample_whitened(train[rows], noise[rows][:, columns])
        return distillation_loss(found, target[rows][:, columns], config.score_weight)

    @torch.no_grad()
    def score(model: Generator) -> float:
        return float(distillation_loss(model.sample_whitened(validation, fixed), goal, config.score_weight))

    curve = train_network(
        student,
        loss,
        score,
        phase=Phase(name=PHASE, epochs=config.epochs, rate=config.learning_rate),
        # Decay pulls weights to zero, away from the teacher's; and data that are drawn anew need none.
        config=dataclasses.replace(learning, weight_decay=0.0, patience=config.patience),
        num_days=len(train),
        generator=draws,
        progress=progress,
    )
    with torch.no_grad():
        missed = (student.sample_whitened(validation, fixed) - goal).square().mean().sqrt()
        moved = (goal - fixed).square().mean().sqrt()
    return Distilled(
        generator=student,
        curve=curve,
        noise_mismatch=float(missed / moved.clamp_min(torch.finfo(moved.dtype).tiny)),
        seconds=time.perf_counter() - started,
    )


@torch.no_grad()
def _answers(teacher: Generator, context: Tensor, noise: Tensor) -> Tensor:
    """What the teacher makes of ``noise``, a chunk of days at a time."""
    parts = [slice(begin, begin + _CHUNK) for begin in range(0, len(context), _CHUNK)]
    return torch.cat([teacher.sample_whitened(context[rows], noise[rows]) for rows in parts])


def distillation_loss(
    student: Float[Tensor, "B S D"], teacher: Float[Tensor, "B S D"], score_weight: float
) -> Float[Tensor, ""]:
    """Equation (1), mean over contexts; scenario i of both comes from the same noise."""
    regression: Tensor = (student - teacher).square().mean()
    if score_weight == 0:
        return regression
    distance = energy_distance(student, teacher).mean()
    return regression + score_weight / math.sqrt(student.shape[2]) * distance


def energy_distance(student: Float[Tensor, "B S D"], teacher: Float[Tensor, "B S D"]) -> Float[Tensor, " B"]:
    """2 E|s - t'| - E|s - s'| - E|t - t'| of each context over pairs of different scenarios; S >= 2.

    Unbiased where scenario i of one depends on scenario i of the other, because a scenario is not paired with
    its own partner. Zero in expectation for equal laws alone, otherwise positive; an estimate may be below.
    """
    count = student.shape[1]
    pairs = count * (count - 1)

    def apart(first: Tensor, second: Tensor) -> Tensor:
        # By differences, not products: equal scenarios are at distance zero, with slope zero.
        return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")

    across = apart(student, teacher)
    own = across.diagonal(dim1=1, dim2=2).sum(dim=1)
    between = (across.sum(dim=(1, 2)) - own) / pairs
    within = (apart(student, student) + apart(teacher, teacher)).sum(dim=(1, 2)) / pairs
    return 2.0 * between - within
