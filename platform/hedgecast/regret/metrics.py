"""Regret and its spread over days.

    regret_d = cost of the decision on the day that came true - cost had the day been known

Regret is never negative but for the solvers' tolerances. Days are not independent (weather and demand last),
so intervals come from blocks of consecutive days.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.programs.measures import conditional_value_at_risk


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over days and its confidence interval."""

    mean: float
    low: float
    high: float
    level: float
    """Share of intervals that cover the true mean, to first order."""
    num_days: int
    block_days: int

    @property
    def excludes_zero(self) -> bool:
        """Whether both ends lie on one side of zero."""
        return self.low > 0 or self.high < 0


def regret(costs: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(D,) cost of each day less the cost had it been known.

    Raises
    ------
    ShapeError
        The arrays differ in shape.
    """
    if costs.shape != best.shape:
        raise ShapeError(
            f"costs {costs.shape} and wait-and-see costs {best.shape} differ: give one each a day"
        )
    difference: np.ndarray = costs - best
    return difference


def relative_regret(costs: np.ndarray, best: np.ndarray) -> float:
    """Total regret as a share of the total absolute cost of known days; NaN where that is zero.

    Notes
    -----
    Source: Tang and Khalil (2024), PyEPO, section 3.4 (normalized regret),
    https://doi.org/10.1007/s12532-024-00255-x.
    """
    scale = float(np.abs(best).sum())
    return float(regret(costs, best).sum()) / scale if scale > 0 else float("nan")


def cost_quantiles(costs: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """(levels,) quantiles of costs over days, linear between order statistics.

    Raises
    ------
    ConfigError
        A level outside [0, 1].
    """
    if any(not 0.0 <= level <= 1.0 for level in levels):
        raise ConfigError(f"quantile levels {tuple(levels)}: each must lie in [0, 1]", key="levels")
    return np.asarray(np.quantile(costs, levels))


def cost_cvar(costs: np.ndarray, alpha: float) -> float:
    """Mean of the worst ``1 - alpha`` of the days' costs, every day weighing the same."""
    values = torch.as_tensor(np.asarray(costs, dtype=np.float64))
    return float(conditional_value_at_risk(values, torch.full_like(values, 1.0 / values.numel()), alpha))


def block_bootstrap(
    values: np.ndarray,
    generator: torch.Generator,
    *,
    level: float = 0.95,
    block_days: int = 7,
    num_resamples: int = 2000,
) -> Interval:
    """The mean of a daily series and its interval by the moving-block bootstrap.

    Give the days' paired differences to compare two methods: the pairing removes what both share.

    Parameters
    ----------
    values : ndarray
        (D,) in the order of days, finite.
    generator : torch.Generator
        On the CPU.
    level : float
        In (0, 1).
    block_days : int
        Consecutive days drawn together; a week keeps weekday effects. Shortened to D where D is smaller.
    num_resamples : int

    Raises
    ------
    ShapeError, ConfigError
        Values of another shape or not finite, or a setting out of range.

    Notes
    -----
    The interval is the mean plus the quantiles of the resampled means about their own mean: blocks at the
    ends are drawn less often, which shifts the resampled means but not their spread.
    Source: Kuensch (1989), https://doi.org/10.1214/aos/1176347265.
    """
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
        raise ShapeError(f"values of shape {values.shape}: must be finite, one a day, at least one day")
    if not 0.0 < level < 1.0 or block_days < 1 or num_resamples < 1:
        raise ConfigError(
            f"level = {level}, block_days = {block_days}, num_resamples = {num_resamples}: the level must "
            "lie between 0 and 1, the others be at least 1"
        )
    num_days = values.size
    length = min(block_days, num_days)
    mean = float(values.mean())
    resampled = _resampled_means(
        torch.as_tensor(values, dtype=torch.float64), length, num_resamples, generator
    )
    spread = torch.tensor([(1.0 - level) / 2.0, (1.0 + level) / 2.0], dtype=torch.float64)
    low, high = (resampled - resampled.mean()).quantile(spread).tolist()
    return Interval(
        mean=mean, low=mean + low, high=mean + high, level=level, num_days=num_days, block_days=length
    )


def _resampled_means(values: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    """(count,) means of series as long as ``values`` made of blocks; the last block is cut to fit."""
    num_days = values.numel()
    num_blocks = -(-num_days // length)
    starts = torch.randint(0, num_days - length + 1, (count, num_blocks), generator=generator)
    sums = torch.cat([values.new_zeros(1), values.cumsum(dim=0)])
    last = num_days - (num_blocks - 1) * length
    whole = (sums[starts[:, :-1] + length] - sums[starts[:, :-1]]).sum(dim=1)
    return (whole + sums[starts[:, -1] + last] - sums[starts[:, -1]]) / num_days
