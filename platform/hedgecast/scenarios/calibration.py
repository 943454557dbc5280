"""Whether what came true falls where scenarios said, and how often."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from hedgecast.scenarios.bootstrap import block_bootstrap, resampled_rows

NUM_BINS = 20
# Points of [0, 1] at which distribution functions are compared.
_GRID = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How often a central band held what came true."""

    level: float
    """Share of the scenarios in the band."""
    share: float
    """Share of entries inside it."""
    low: float
    """Lower end of the share's 95 % interval over days."""
    high: float
    """Upper end."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Uniformity:
    """How far ranks are from uniform."""

    distance: float
    """Largest difference of their distribution function from the uniform one (Kolmogorov)."""
    p_value: float
    """Share of resampled distances, under uniform ranks, at least as large."""


def covered(
    paths: NDArray[np.float64], realized: NDArray[np.float64], *, level: float = 0.9
) -> NDArray[np.bool_]:
    """(..., E) whether each entry lies in the central ``level`` of the scenarios (..., S, E)."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(paths, [tail, 1.0 - tail], axis=-2)
    return np.asarray((low <= realized) & (realized <= high))


def coverage(
    paths: NDArray[np.float64],
    realized: NDArray[np.float64],
    generator: torch.Generator,
    *,
    level: float,
    block_days: int = 7,
) -> Coverage:
    """The coverage of one central band, with its 95 % block-bootstrap interval over days.

    Parameters
    ----------
    paths : array
        (D, S, E), days in order.
    realized : array
        (D, E).
    generator : torch.Generator
        On the CPU.
    level : float
        Share of the scenarios in the band.
    block_days : int
        Consecutive days drawn together.
    """
    daily = covered(paths, realized, level=level).mean(axis=1)
    found = block_bootstrap(daily, generator, block_days=block_days)
    return Coverage(level=level, share=found.mean, low=found.low, high=found.high)


def pit(
    paths: NDArray[np.float64], realized: NDArray[np.float64], draws: np.random.Generator
) -> NDArray[np.float64]:
    """(..., E) probability integral transform of what came true, in (0, 1).

    Parameters
    ----------
    paths : array
        (..., S, E).
    realized : array
        (..., E).
    draws : numpy.random.Generator
        Breaks ties and spreads each rank over its share of the unit interval.

    Returns
    -------
    array
        (rank + u) / (S + 1), where the rank counts the scenarios below and u is uniform: exactly uniform, for
        any S, where what came true is one more draw of the same law. At a tie the rank is drawn evenly
        among the places that the tied scenarios leave.

    Notes
    -----
    Source: Czado, Gneiting and Held (2009), section 2, https://doi.org/10.1111/j.1541-0420.2009.01191.x.
    """
    below = (paths < realized[..., None, :]).sum(axis=-2)
    tied = (paths == realized[..., None, :]).sum(axis=-2)
    rank = below + draws.integers(0, tied + 1)
    return np.asarray((rank + draws.uniform(size=realized.shape)) / (paths.shape[-2] + 1))


def rank_histogram(values: NDArray[np.float64], *, num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """(num_bins,) share of the transforms ``values`` in each of equal bins of [0, 1].

    A hill in the middle says too wide, horns at both ends too narrow, a slope shifted.
    """
    counts, _ = np.histogram(values, bins=num_bins, range=(0.0, 1.0))
    return np.asarray(counts / max(values.size, 1))


def uniformity(
    values: NDArray[np.float64],
    generator: torch.Generator,
    *,
    block_days: int = 7,
    num_resamples: int = 1000,
) -> Uniformity:
    """Distance of transforms from the uniform law, and its p-value with days drawn in blocks.

    Parameters
    ----------
    values : array
        (D, E) transforms, days in order.
    generator : torch.Generator
        On the CPU.
    block_days : int
        Consecutive days drawn together.
    num_resamples : int

    Notes
    -----
    Hours of a day and days of a week are alike, so a chi-square or Kolmogorov test of independent ranks
    would refuse any model. Here the deviation G(u) - u of the days' distribution function G is compared
    with G*(u) - E G*(u) of resampled days, which is what it would be by chance alone.
    Source: Kuensch (1989), https://doi.org/10.1214/aos/1176347265.
    """
    num_days = len(values)
    grid = np.arange(1, _GRID) / _GRID
    below = np.stack([(values <= point).mean(axis=1) for point in grid], axis=1)
    distance = float(np.abs(below.mean(axis=0) - grid).max())
    rows = resampled_rows(num_days, generator, block_days=block_days, num_resamples=num_resamples)
    # (num_resamples, D): how often each day was drawn.
    counts = torch.zeros(num_resamples, num_days, dtype=torch.float64)
    counts.scatter_add_(1, rows, torch.ones(rows.shape, dtype=torch.float64))
    resampled = (counts @ torch.from_numpy(below)) / num_days
    chance = (resampled - resampled.mean(dim=0)).abs().amax(dim=1)
    p_value = (1.0 + float((chance >= distance).sum())) / (1.0 + num_resamples)
    return Uniformity(distance=distance, p_value=p_value)
