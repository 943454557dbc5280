"""What is lost when one generator stands in for another: scores and costs on the same days, paired by day.

Both draw from the same noise, so a day's difference is the stand-in's and not chance's: intervals are narrow.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.scenarios.bootstrap import Interval, block_bootstrap
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.scenarios.scores import crps, energy_score, variogram_score

BUDGET = 0.02
"""Largest relative change of a score or a cost that a stand-in should make."""
SCORES = ("crps", "energy_score", "variogram_score")
COST, REGRET = "cost", "regret"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One figure of a stand-in against that of what it stands in for; lower is better."""

    figure: str
    """Of `SCORES`, `COST` or `REGRET`."""
    before: float
    """Mean over days."""
    after: float
    """The stand-in's."""
    relative: Interval
    """(after - before) / before, with its 95 % paired interval over blocks of a week."""

    @property
    def within(self) -> bool:
        """Whether the figure rises by no more than `BUDGET`; NaN never is."""
        return self.relative.mean <= BUDGET

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "within": self.within}


def score_days(scenarios: ScenarioSet, realized: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Each of `SCORES` on every day with known slots, (D,).

    Parameters
    ----------
    scenarios : ScenarioSet
        One context a day, equal weights.
    realized : array
        (B, T, F) what came true by slot; days that hold NaN are left out.

    Raises
    ------
    ShapeError
        Other shapes.
    DataError
        No day is left.

    Notes
    -----
    Series are divided by their standard deviation over the realized days where units differ.
    """
    found = scores_by_day(scenarios, realized)
    return {name: values[np.isfinite(values)] for name, values in found.items()}


def scores_by_day(scenarios: ScenarioSet, realized: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The same for every day, (B,), NaN where a day holds NaN."""
    paths = scenarios.paths.detach().cpu().double().numpy()
    if realized.shape != (paths.shape[0], *paths.shape[2:]):
        raise ShapeError(
            f"realized has shape {realized.shape}: must be {(paths.shape[0], *paths.shape[2:])} "
            "(days, slots, series) as the scenarios'"
        )
    known = np.isfinite(realized).all(axis=(1, 2))
    if not known.any():
        raise DataError(f"none of {len(realized)} days has every slot: there is nothing to compare with")
    paths, real = paths[known], realized[known]
    if len(set(scenarios.units)) > 1:
        scale = real.std(axis=(0, 1))
        scale = np.where(scale > 0, scale, 1.0)
        paths, real = paths / scale, real / scale
    flat, flat_real = paths.reshape(*paths.shape[:2], -1), real.reshape(len(real), -1)
    scores = {
        "crps": crps(flat, flat_real).mean(axis=-1),
        "energy_score": energy_score(flat, flat_real),
        "variogram_score": variogram_score(paths, real),
    }
    days = {name: np.full(len(realized), np.nan) for name in scores}
    for name, values in scores.items():
        days[name][known] = values
    return days


def changes(
    before: dict[str, NDArray[np.float64]], after: dict[str, NDArray[np.float64]]
) -> tuple[Change, ...]:
    """The change of each figure of ``before``, both by day and over the same days, (D,).

    Raises
    ------
    ShapeError
        Other figures or other days in ``after``, or a mean that is not positive, of which there is no share.
    """
    found = []
    for figure, old in before.items():
        new, mean = after.get(figure), float(old.mean())
        if new is None or new.shape != old.shape:
            raise ShapeError(f"{figure}: both need it on the same days, {old.shape}")
        if not mean > 0:
            raise ShapeError(f"{figure} has mean {mean:.4g}: a relative change needs a positive one")
        # The seed is part of the rule: the same two always give the same interval.
        draws = torch.Generator().manual_seed(0)
        found.append(
            Change(
                figure=figure,
                before=mean,
                after=float(new.mean()),
                relative=block_bootstrap((new - old) / mean, draws),
            )
        )
    return tuple(found)
