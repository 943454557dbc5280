"""Conditional diffusion: two-stage, and trained jointly on the regret of the decision."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Days, History, Progress, pretrain, train_jointly
from hedgecast.learning.methods.method import scenario_set
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.part import Part
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
    history = History()
    pretrain(model, train_days, validation_days, config, draws, history, progress)
    found = {"diffusion": Diffusion(_copy(model), history, "diffusion", time.perf_counter() - started)}
    if program is not None:
        task = TaskLoss(program, smoothing=config.smoothing)
        train_jointly(model, task, train_days, validation_days, config, draws, history, progress)
        name = "diffusion-dfl"
        found[name] = Diffusion(model, history, name, time.perf_counter() - started)
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
        "validation_noise_matching": min(history.noise_losses, default=float("nan")),
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


def _copy(model: Generator) -> Generator:
    twin = Generator.from_dict(model.to_dict())
    twin.load_state_dict(model.state_dict())
    return twin
