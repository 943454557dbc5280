"""Intervals of figures over days that are not independent.

Weather and demand last, so what is drawn again is a block of consecutive days, not a day: moving blocks of a
week keep weekday effects. Give the days' paired differences to compare two methods: the pairing removes
what both share.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError, ShapeError


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


def resampled_rows(
    num_days: int, generator: torch.Generator, *, block_days: int, num_resamples: int
) -> Tensor:
    """(num_resamples, num_days) rows of series made of moving blocks; the last block is cut to fit.

    Parameters
    ----------
    num_days : int
        At least 1.
    generator : torch.Generator
        On the CPU.
    block_days : int
        Consecutive days drawn together, shortened to ``num_days`` where that is smaller.
    num_resamples : int

    Notes
    -----
    Source: Kuensch (1989), https://doi.org/10.1214/aos/1176347265.
    """
    length = min(block_days, num_days)
    num_blocks = -(-num_days // length)
    starts = torch.randint(0, num_days - length + 1, (num_resamples, num_blocks), generator=generator)
    rows = starts[:, :, None] + torch.arange(length)
    return rows.flatten(1)[:, :num_days]


def block_bootstrap(
    values: np.ndarray,
    generator: torch.Generator,
    *,
    level: float = 0.95,
    block_days: int = 7,
    num_resamples: int = 2000,
) -> Interval:
    """The mean of a daily series and its interval by the moving-block bootstrap.

    Parameters
    ----------
    values : ndarray
        (D,) in the order of days, finite.
    generator : torch.Generator
        On the CPU.
    level : float
        In (0, 1).
    block_days : int
        Consecutive days drawn together; shortened to D where D is smaller.
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
    rows = resampled_rows(values.size, generator, block_days=block_days, num_resamples=num_resamples)
    daily = torch.as_tensor(values, dtype=torch.float64)
    resampled = daily[rows].mean(dim=1)
    spread = torch.tensor([(1.0 - level) / 2.0, (1.0 + level) / 2.0], dtype=torch.float64)
    low, high = (resampled - resampled.mean()).quantile(spread).tolist()
    mean = float(values.mean())
    return Interval(
        mean=mean,
        low=mean + low,
        high=mean + high,
        level=level,
        num_days=values.size,
        block_days=min(block_days, values.size),
    )
