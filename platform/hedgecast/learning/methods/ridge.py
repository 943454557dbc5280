"""Closed forms: the ridge mean alone, and with residual days of training around it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hedgecast.diffusion.ridge import RidgeFit, fit_ridge
from hedgecast.learning.methods.method import scenario_set
from hedgecast.learning.part import Part
from hedgecast.scenarios.scenario_set import ScenarioSet

# Residual days are taken from this many days around the same day of the year, on both sides.
SEASON_DAYS = 45
# Where training holds fewer of them, the nearest in season up to this many.
FEWEST_DAYS = 60


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """The mean alone: what a planner does with a forecast and no scenarios."""

    mean: RidgeFit
    name: str = "point"

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """One scenario, the mean, whatever ``count`` and ``seed``."""
        del count, seed
        return scenario_set(self.mean.linear(part.context).unsqueeze(1), part, self.name, None)


@dataclasses.dataclass(frozen=True, slots=True)
class RidgeResidual:
    """Ridge mean plus whole residual days of training, out-of-fold, from the same season.

    Days within `SEASON_DAYS` of the same day of the year, at least the nearest `FEWEST_DAYS`, are drawn
    without repetition while there are enough. A residual day keeps its shape over the hours, so ramps are
    as they were. Where days have no season, all are drawn from.
    """

    mean: RidgeFit
    residuals: Tensor
    """(days, T*F) out-of-fold residuals of the training days."""
    days: NDArray[np.datetime64]
    """(days,) their dates."""
    name: str = "ridge-residual"

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day; a day's draw depends on the seed and its date alone."""
        means = self.mean.linear(part.context).unsqueeze(1)
        drawn = draw_residuals(self.residuals, self.days, part, count, seed)
        return scenario_set(means + drawn, part, self.name, seed)


def draw_residuals(
    residuals: Tensor, days: NDArray[np.datetime64], part: Part, count: int, seed: int
) -> Float[Tensor, "B S D"]:
    """Residual days for each day of ``part``, as `RidgeResidual` draws them."""
    chosen = np.empty((len(part), count), dtype=np.int64)
    for row, day in enumerate(part.days):
        near = near_in_season(days, day) if part.seasonal else np.arange(len(days))
        draws = np.random.default_rng([seed, int(day.astype(np.int64))])
        chosen[row] = draws.choice(near, size=count, replace=count > len(near))
    return residuals[torch.from_numpy(chosen)]


def near_in_season(days: NDArray[np.datetime64], day: np.datetime64) -> NDArray[np.int64]:
    """Rows of ``days`` within `SEASON_DAYS` of the same day of the year, or the `FEWEST_DAYS` nearest."""
    distance = np.abs(_day_of_year(days) - _day_of_year(np.array([day])))
    distance = np.minimum(distance, 365 - distance)
    nearest = np.sort(distance)[: min(FEWEST_DAYS, len(distance))][-1]
    return np.flatnonzero(distance <= max(SEASON_DAYS, nearest))


def fit_baselines(train: Part) -> tuple[Point, RidgeResidual]:
    """The point forecast and ridge with residual scenarios; one ridge serves both."""
    mean = fit_ridge(train.context, train.targets.flatten(1), spread=train.spread())
    residuals = train.targets.flatten(1) - mean.held_out
    return Point(mean), RidgeResidual(mean, residuals, train.days)


def _day_of_year(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    dates = days.astype("datetime64[D]")
    return np.asarray((dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64))
