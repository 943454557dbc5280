"""Training as a loop over explicit state: pretraining on noise matching, then jointly with the task loss.

Both phases stop early and keep their best averaged weights on the validation days. The joint phase keeps
only weights whose noise-matching loss and energy score stay within stated margins of the pretrained
model's: a model that trades realism for a lower cost on the days it has seen is not kept.

`Fit` runs in this process and in every Ray Train worker alike: what changes is who shares its steps
(`hedgecast.learning.parallel`). Between epochs all it knows is `Fit.state_dict`, and a run that goes on from
there takes the same steps, bit for bit, as one that was not interrupted.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Realism
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.history import History
from hedgecast.learning.joint import JointPhase
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.parallel import ALONE, Workers
from hedgecast.learning.precision import describe, product_type
from hedgecast.learning.rates import rate_factor
from hedgecast.learning.step import StepReport, training_step
from hedgecast.learning.validation import Days, validation_cost, validation_noise_loss, validation_scores
from hedgecast.programs.program import TwoStageProgram

Progress = Callable[[str, int, int, str], None]
"""Phase, epochs done, epochs at most, and what the last one found."""
Weights = dict[str, Tensor]
"""State of a denoiser."""
PRETRAINING = "pretraining"
JOINT = "joint training"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training run, before its first step."""

    model: Generator
    """With the statistics of the training days and its first weights."""
    train: Days
    validation: Days
    config: LearningConfig
    generator: torch.Generator
    """Source of every draw to come."""
    program: TwoStageProgram | None = None
    """Over all slots of a day; None: pretraining only."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """The weights that a run kept."""

    pretrained: Weights
    joint: Weights | None
    """None: there was no joint phase."""
    history: History


class Trainer(Protocol):
    """Whoever runs a job: this process, or workers elsewhere."""

    def __call__(self, job: Job, progress: Progress | None = None) -> Fitted:
        """The weights that the run kept."""
        ...


def train_here(job: Job, progress: Progress | None = None) -> Fitted:
    """What ``job`` comes to in this process."""
    return Fit(job).run(progress)


class Fit:
    """A run of ``job``, epoch by epoch.

    Parameters
    ----------
    job : Job
        Its model and generator are used up.
    workers : Workers
        Who share the days of each step and of validation.

    Raises
    ------
    ConfigError
        The precision that is asked for is not there.
    """

    def __init__(self, job: Job, workers: Workers = ALONE) -> None:
        self.config, self.generator, self.workers = job.config, job.generator, workers
        self.model = job.model
        device = job.model.whitening.factor.device
        self.train, self.validation = job.train.to(device), job.validation.to(device)
        products = product_type(job.config, device)
        self.model.denoiser.product_type = products
        self.history = History(precision=describe(products, device))
        self.task = None if job.program is None else TaskLoss(job.program, smoothing=job.config.smoothing)
        self.pretrained: Weights | None = None
        self.joint: Weights | None = None
        self._phase = _Phase(self, PRETRAINING)

    @property
    def done(self) -> bool:
        """Whether there is no epoch left."""
        return self.pretrained is not None and (self.task is None or self.joint is not None)

    @property
    def kept(self) -> Weights:
        """The weights that a run stopped now would keep: the same object until better ones are found."""
        return self._phase.state.kept

    def run(
        self, progress: Progress | None = None, after_epoch: Callable[[Fit], None] | None = None
    ) -> Fitted:
        """The weights that are kept, once every phase has ended.

        Parameters
        ----------
        progress : callable, optional
        after_epoch : callable, optional
            Called with this run after each epoch, when its state is whole: to save it, or to stop by raising.
        """
        self._begin()
        while not self.done:
            event = self._advance()
            if progress is not None:
                progress(*event)
            if after_epoch is not None:
                after_epoch(self)
        assert self.pretrained is not None
        return Fitted(pretrained=self.pretrained, joint=self.joint, history=self.history)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, as plain values and tensors; after an epoch only."""
        return {
            "phase": self._phase.name,
            "phase_state": self._phase.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.history.to_dict(),
            "pretrained": self.pretrained,
            "joint": self.joint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, in a run of the same job."""
        self.history = History.from_dict(state["history"])
        self.pretrained, self.joint = state["pretrained"], state["joint"]
        self._phase = _Phase(self, state["phase"])
        self._phase.load_state_dict(state["phase_state"])
        self.generator.set_state(state["generator"])

    def _begin(self) -> None:
        if not self._phase.begun:
            self._phase.begin()
            self._leave_finished_phases()

    def _advance(self) -> tuple[str, int, int, str]:
        """Train one epoch and say, as `Progress` takes it, what it found."""
        phase = self._phase
        text = phase.advance()
        event = (phase.name, phase.state.epoch, phase.epochs, text)
        self._leave_finished_phases()
        return event

    def _leave_finished_phases(self) -> None:
        if self._phase.name == PRETRAINING and self._phase.finished:
            self.pretrained = self._phase.state.kept
            if self.task is not None:
                self.model.denoiser.load_state_dict(self.pretrained)
                self._phase = _Phase(self, JOINT)
                self._phase.begin()
        if self._phase.name == JOINT and self._phase.finished:
            self.joint = self._phase.state.kept


@dataclasses.dataclass(kw_only=True, slots=True)
class _PhaseState:
    """What a phase knows beside weights, averages, multipliers and the optimizer's moments."""

    seed: int
    """Of validation: the same draws after every epoch."""
    kept: Weights
    """Best averaged weights on the validation days."""
    best: float
    """Their score."""
    start_noise_loss: float
    """Validation noise-matching loss before the phase."""
    start_scores: tuple[float, float] | None
    """Validation energy score and spread before the joint phase."""
    day_weights: Tensor | None
    """Of training days, for the estimator that needs them."""
    epoch: int = 0
    step: int = 0
    waited: int = 0
    """Epochs since the best one."""


class _Phase:
    """Epochs over shuffled days with a rate that falls and averaged weights."""

    state: _PhaseState

    def __init__(self, fit: Fit, name: str) -> None:
        config = fit.config
        self.fit, self.name, self.begun = fit, name, False
        self.joint: JointPhase | None = None
        self.epochs, self.patience, self.rate = config.epochs, config.patience, config.learning_rate
        if name == JOINT:
            assert fit.task is not None
            self.joint = JointPhase(fit.model, fit.task, config)
            self.epochs, self.patience = config.joint_epochs, config.joint_patience
            self.rate = config.joint_learning_rate
        self.steps_per_epoch = max(len(fit.train) // config.batch_days, 1)
        self.average = copy.deepcopy(fit.model)
        # What is kept is served in the type of the weights, and so it is judged.
        self.average.denoiser.product_type = None
        self.optimizer = torch.optim.AdamW(
            fit.model.denoiser.parameters(), lr=self.rate, weight_decay=config.weight_decay
        )

    @property
    def finished(self) -> bool:
        return self.state.epoch >= self.epochs or self.state.waited >= self.patience

    def begin(self) -> None:
        """Draw what stays the same over the phase, and validate what it starts from."""
        fit, weights = self.fit, None
        if self.joint is not None:
            weights = self.joint.day_weights(fit.train.context, fit.train.whitened, fit.generator)
        seed = int(torch.randint(2**31, (1,), generator=fit.generator))
        noise, cost = self._validate(seed)
        if self.joint is None:
            fit.history.first_noise_loss = noise
        else:
            fit.history.add_validation(noise, cost)
        self.state = _PhaseState(
            seed=seed,
            kept=_weights(self.average),
            best=noise if cost is None else cost,
            start_noise_loss=noise,
            start_scores=None if self.joint is None else self._validation_scores(seed),
            day_weights=weights,
        )
        self.begun = True

    def advance(self) -> str:
        """Train one epoch and validate; what it found, in words."""
        started = time.perf_counter()
        history, state = self.fit.history, self.state
        history.add_epoch(self._train_epoch())
        state.epoch += 1
        noise, cost = self._validate(state.seed)
        history.add_validation(noise, cost)
        score = noise if cost is None else cost
        better = self._realistic(noise) and score < state.best
        state.waited = 0 if better else state.waited + 1
        if better:
            state.best, state.kept = score, _weights(self.average)
            history.set_best(state.epoch, joint=self.joint is not None)
        history.add_seconds(self.name, time.perf_counter() - started)
        if cost is None:
            return f"noise matching {score:.4f}, best {state.best:.4f}"
        return f"validation cost {score:.2f}, best {state.best:.2f}"

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            **{field.name: getattr(self.state, field.name) for field in dataclasses.fields(self.state)},
            "weights": self.fit.model.denoiser.state_dict(),
            "average": self.average.denoiser.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "joint": None if self.joint is None else self.joint.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """All of it back."""
        names = [field.name for field in dataclasses.fields(_PhaseState)]
        self.state = _PhaseState(**{name: state[name] for name in names})
        self.fit.model.denoiser.load_state_dict(state["weights"])
        self.average.denoiser.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.joint is not None:
            self.joint.load_state_dict(state["joint"])
        self.begun = True

    def _train_epoch(self) -> list[StepReport]:
        fit, config, state = self.fit, self.fit.config, self.state
        days = dataclasses.replace(fit.train, weight=state.day_weights)
        order = torch.randperm(len(days), generator=fit.generator)
        reports = []
        for rows in order.tensor_split(self.steps_per_epoch):
            rate = self.rate * rate_factor(config, state.step, self.epochs * self.steps_per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = days.batch(rows)
            reports.append(
                training_step(
                    fit.model, self.optimizer, batch, config, fit.generator, self.joint, fit.workers
                )
            )
            state.step += 1
            self._update_average()
        return reports

    @torch.no_grad()
    def _update_average(self) -> None:
        pairs = zip(self.average.denoiser.parameters(), self.fit.model.denoiser.parameters(), strict=True)
        for mean, current in pairs:
            mean.lerp_(current, 1.0 - self.fit.config.ema_decay)

    def _validate(self, seed: int) -> tuple[float, float | None]:
        """Noise-matching loss and, in the joint phase, cost of the averaged weights on validation days."""
        fit = self.fit
        noise = validation_noise_loss(self.average, fit.validation, fit.config, seed, fit.workers)
        if self.joint is None:
            return noise, None
        task = self.joint.task
        return noise, validation_cost(self.average, task, fit.validation, fit.config, seed, fit.workers)

    def _validation_scores(self, seed: int) -> tuple[float, float]:
        return validation_scores(self.average, self.fit.validation, seed, self.fit.workers)

    def _realistic(self, noise_loss: float) -> bool:
        """Whether the averaged weights are within both margins; the budget is told how far they are."""
        state = self.state
        if self.joint is None or state.start_scores is None:
            return True
        score, spread = self._validation_scores(state.seed)
        realism = Realism(
            noise_ratio=noise_loss / state.start_noise_loss,
            score_ratio=score / state.start_scores[0],
            diversity=spread / state.start_scores[1],
        )
        self.fit.history.add_realism(realism)
        self.joint.take_in(realism)
        return self.joint.acceptable(realism)


def _weights(model: Generator) -> Weights:
    # A copy of every tensor: a state_dict alone would follow the training on.
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}
