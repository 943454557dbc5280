"""Methods that make scenarios, one object each, swapped by name in one table.

    point            ridge mean, one scenario
    ridge-residual   ridge mean plus residual days of the same season, out-of-fold
    diffusion        conditional diffusion, trained on noise matching (two-stage)
    diffusion-dfl    the same, then trained jointly on the regret of the decision

All learn from the training days alone; validation days choose when to stop.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.data.features import features
from hedgecast.data.scaling import feature_standardizer
from hedgecast.data.windows import Windows
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.diffusion.ridge import RidgeFit, fit_ridge
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Days, History, Progress, pretrain, train_jointly
from hedgecast.learning.objective import TaskLoss
from hedgecast.programs.program import TwoStageProgram
from hedgecast.scenarios.scenario_set import ScenarioSet

METHODS = ("point", "ridge-residual", "diffusion", "diffusion-dfl")
# Residual days are taken from this many days around the same day of the year, on both sides.
SEASON_DAYS = 45
# Where training holds fewer of them, the nearest in season up to this many.
FEWEST_DAYS = 60
# Contexts whose paths are made together: 64 x 1,000 x 24 float32 are 6 MiB.
_CHUNK = 64


class ScenarioMethod(Protocol):
    """Anything that draws scenarios for decision days."""

    @property
    def name(self) -> str:
        """In tables and studies."""
        ...

    def scenarios(self, windows: Windows, count: int, seed: int) -> ScenarioSet:
        """Scenarios by wall-clock slot, one context a day, in units of the data."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """The mean alone: what a planner does with a forecast and no scenarios."""

    mean: RidgeFit
    name: str = "point"

    def scenarios(self, windows: Windows, count: int, seed: int) -> ScenarioSet:
        """One scenario, the mean, whatever ``count`` and ``seed``."""
        del count, seed
        return _scenario_set(_mean(self.mean, windows).unsqueeze(1), windows, self.name, None)


@dataclasses.dataclass(frozen=True, slots=True)
class RidgeResidual:
    """Ridge mean plus whole residual days of training, out-of-fold, from the same season.

    Days within `SEASON_DAYS` of the same day of the year, at least the nearest `FEWEST_DAYS`, are drawn
    without repetition while there are enough. A residual day keeps its shape over the hours, so ramps are
    as they were.
    """

    mean: RidgeFit
    residuals: Tensor
    """(days, T*F) out-of-fold residuals of the training days."""
    days: NDArray[np.datetime64]
    """(days,) their dates."""
    name: str = "ridge-residual"

    def scenarios(self, windows: Windows, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day; a day's draw depends on the seed and its date alone."""
        season = _day_of_year(self.days)
        means = _mean(self.mean, windows)
        paths = torch.empty(len(windows), count, means.shape[1], dtype=torch.float64)
        for row, day in enumerate(windows.days):
            distance = np.abs(season - _day_of_year(windows.days[row : row + 1]))
            distance = np.minimum(distance, 365 - distance)
            nearest = np.sort(distance)[: min(FEWEST_DAYS, len(distance))][-1]
            near = np.flatnonzero(distance <= max(SEASON_DAYS, nearest))
            draws = np.random.default_rng([seed, int(day.astype(np.int64))])
            chosen = draws.choice(near, size=count, replace=count > len(near))
            paths[row] = means[row] + self.residuals[torch.from_numpy(chosen)]
        return _scenario_set(paths, windows, self.name, seed)


@dataclasses.dataclass(frozen=True, slots=True)
class Diffusion:
    """A trained generator."""

    generator: Generator
    history: History
    name: str
    seconds: float
    """What training took."""

    def scenarios(self, windows: Windows, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day, as the served model draws them for the same seed."""
        context = torch.from_numpy(features(windows))
        numbers = day_numbers(windows.days)
        parts = []
        for begin in range(0, len(windows), _CHUNK):
            rows = slice(begin, begin + _CHUNK)
            noise = scenario_noise(seed, numbers[rows], count, self.generator.dim)
            with torch.no_grad():
                paths = self.generator.sample(context[rows], torch.from_numpy(noise))
            parts.append(paths.flatten(2).double())
        return _scenario_set(torch.cat(parts), windows, self.name, seed)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Decision days as the methods learn from them."""

    windows: Windows
    context: Tensor
    """(B, C) raw features."""
    targets: Tensor
    """(B, T, F) in units."""

    @classmethod
    def of(cls, windows: Windows) -> Part:
        """The part of ``windows``, all days regular."""
        return cls(windows, torch.from_numpy(features(windows)), torch.from_numpy(windows.slots))


def fit_baselines(train: Part) -> tuple[Point, RidgeResidual]:
    """The point forecast and ridge with residual scenarios; one ridge serves both."""
    mean = fit_ridge(train.context, train.targets.flatten(1), spread=_spread(train))
    residuals = train.targets.flatten(1) - mean.held_out
    return Point(mean), RidgeResidual(mean, residuals, train.windows.days)


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
        config.generator, train.context, train.targets, draws, spread=_spread(train)
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


def check_method(name: str) -> None:
    """Refuse a method that does not exist.

    Raises
    ------
    ConfigError
        Names the known ones.
    """
    if name not in METHODS:
        raise ConfigError(f"no method {name!r}: choose from {', '.join(METHODS)}", key="learning.method")


def training_report(method: Diffusion, train: Part, validation: Part) -> dict[str, Any]:
    """What a bundle keeps of a training run."""
    history = method.history
    report = {
        "training_days": len(train.windows),
        "first_day": str(train.windows.days[0]),
        "last_day": str(train.windows.days[-1]),
        "validation_days": len(validation.windows),
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


def _spread(train: Part) -> Tensor:
    """(C,) scale of each feature; slots of one column share a floor, so that night hours are not blown up."""
    return torch.from_numpy(feature_standardizer(train.windows).scale)


def _mean(fit: RidgeFit, windows: Windows) -> Tensor:
    return fit.linear(torch.from_numpy(features(windows)))


def _day_of_year(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    dates = days.astype("datetime64[D]")
    return np.asarray((dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64))


def _scenario_set(values: Tensor, windows: Windows, source: str, seed: int | None) -> ScenarioSet:
    schema = windows.schema
    return ScenarioSet(
        paths=values.reshape(*values.shape[:2], schema.horizon, len(schema.targets)),
        names=schema.targets,
        units=schema.target_units,
        times=windows.slot_times,
        source=source,
        seed=seed,
    )
