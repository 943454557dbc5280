"""Conditional diffusion: two-stage, and trained jointly on the regret of the decision."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import JOINT, PRETRAINING, Job, Progress, Trainer, Weights, train_here
from hedgecast.learning.history import History
from hedgecast.learning.methods.method import scenario_set
from hedgecast.learning.part import Part
from hedgecast.learning.validation import Days
from hedgecast.programs.program import TwoStageProgram
from hedgecast.scenarios.scenario_set import ScenarioSet

# Contexts whose paths are made together: 64 x 1,000 x 24 float32 are 6 MiB.
_CHUNK = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Diffusion:
    """A trained generator."""

    generator: Generator
    history: History
    name: str
    seconds: float
    """What training took."""

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day, as the served model draws them for the same seed."""
        return drawn(self.generator, part, count, seed, self.name)


def drawn(generator: Generator, part: Part, count: int, seed: int, source: str) -> ScenarioSet:
    """``count`` scenarios of each day by counter-based noise: scenario i depends on seed, day and i alone."""
    numbers = day_numbers(part.days)
    chunks = []
    for begin in range(0, len(part), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        noise = scenario_noise(seed, numbers[rows], count, generator.dim)
        with torch.no_grad():
            paths = generator.sample(part.context[rows], torch.from_numpy(noise))
        chunks.append(paths.flatten(2).double())
    return scenario_set(torch.cat(chunks), part, source, seed)


def fit_diffusion(
    train: Part,
    validation: Part,
    config: LearningConfig,
    program: TwoStageProgram | None,
    progress: Progress | None = None,
    trainer: Trainer = train_here,
) -> dict[str, Diffusion]:
    """The two-stage model, and the jointly trained one where ``program`` is given, by method name.

    Parameters
    ----------
    train, validation : Part
    config : LearningConfig
    program : TwoStageProgram, optional
        Over all slots of a day; None: no joint phase.
    progress : callable, optional
        Called after each epoch.
    trainer : Trainer
        Who trains: this process, unless workers do.
    """
    started = time.perf_counter()
    draws = torch.Generator().manual_seed(config.seed)
    model, report = Generator.fitted(
        config.generator, train.context, train.targets, draws, spread=train.spread()
    )
    whitened = report.whitened.float()
    with torch.no_grad():
        train_days = Days(train.context, whitened, model.finish(train.context, whitened.unsqueeze(1))[:, 0])
        validation_days = Days(
            validation.context, model.whiten(validation.context, validation.targets), validation.targets
        )
    job = Job(
        model=model,
        train=train_days,
        validation=validation_days,
        config=config,
        generator=draws,
        program=program,
    )
    prepared = time.perf_counter() - started
    fitted = trainer(job, progress)
    history, seconds = fitted.history, prepared + fitted.history.seconds.get(PRETRAINING, 0.0)
    found = {"diffusion": Diffusion(_with(model, fitted.pretrained), history, "diffusion", seconds)}
    if fitted.joint is not None:
        seconds += history.seconds.get(JOINT, 0.0)
        name = "diffusion-dfl"
        found[name] = Diffusion(_with(model, fitted.joint), history, name, seconds)
    return found


def training_report(method: Diffusion, train: Part, validation: Part) -> dict[str, Any]:
    """What a bundle keeps of a training run."""
    history = method.history
    report = {
        "training_days": len(train),
        "first_day": str(train.days[0]),
        "last_day": str(train.days[-1]),
        "validation_days": len(validation),
        "pretraining_epochs": len(history.noise_losses),
        "pretraining_best_epoch": history.best_epoch,
        "validation_noise_matching": [history.first_noise_loss, *history.noise_losses][history.best_epoch],
        "precision": history.precision,
        "seconds": method.seconds,
    }
    if method.name == "diffusion-dfl":
        report |= {
            "joint_epochs": len(history.cosines),
            "joint_best_epoch": history.best_joint_epoch,
            "validation_cost_pretrained": history.task_losses[0],
            "validation_cost": history.task_losses[history.best_joint_epoch],
            "noise_matching_before_joint": history.joint_noise_losses[0],
            "noise_matching_after_joint": history.joint_noise_losses[history.best_joint_epoch],
            "gradient_cosine": sum(history.cosines) / max(len(history.cosines), 1),
            "unsolved_days": history.unsolved,
        }
    return report


def _with(model: Generator, weights: Weights) -> Generator:
    """A generator of its own with the statistics of ``model`` and other weights."""
    twin = Generator.from_dict(model.to_dict())
    twin.load_state_dict(model.state_dict())
    twin.denoiser.load_state_dict(weights)
    return twin
