"""Means of series whose members are not independent, and how sure they are."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np

NORMAL = statistics.NormalDist()

# Above this the normal law is within 0.2 % of the band's width.
_LARGEST_BINOMIAL = 20_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean over outcomes in the order of their decisions, and its standard error."""

    mean: float
    standard_error: float
    """Newey-West; NaN below two outcomes."""
    count: int


def mean_of(values: np.ndarray) -> Mean:
    """The mean of a series.

    Parameters
    ----------
    values : ndarray
        (n,) in order, finite; empty: NaN.
    """
    if not values.size:
        return Mean(mean=math.nan, standard_error=math.nan, count=0)
    error = math.sqrt(long_run_variance(values) / values.size) if values.size > 1 else math.nan
    return Mean(mean=float(values.mean()), standard_error=error, count=int(values.size))


def num_lags(count: int) -> int:
    """Lags over which a series of that length is taken to be correlated.

    Notes
    -----
    Source: Newey and West (1994), https://doi.org/10.2307/2297912, the rule 4 (n / 100)^(2 / 9) for the
    Bartlett kernel; none below 10, where there is nothing to estimate them from.
    """
    return 0 if count < 10 else int(4.0 * (count / 100.0) ** (2.0 / 9.0))


def long_run_variance(values: np.ndarray, lags: int | None = None) -> float:
    """The length times the variance of the mean of a stationary series, estimated from it; never negative.

    Parameters
    ----------
    values : ndarray
        (n,) with n at least 2.
    lags : int, optional
        ``num_lags(n)`` without it; 0: the sample variance.

    Notes
    -----
    The estimate is divided by ``1 - (lags + 1) / n``, the share that remains to first order once the mean is
    estimated from the same series; with no lags this is the usual n / (n - 1).
    Source: Newey and West (1987), https://doi.org/10.2307/1913610, eq. 5.
    """
    count = values.size
    lags = min(num_lags(count) if lags is None else lags, count - 2)
    centered = values - values.mean()
    total = float(centered @ centered) / count
    for lag in range(1, lags + 1):
        weight = 1.0 - lag / (lags + 1.0)
        total += 2.0 * weight * float(centered[lag:] @ centered[:-lag]) / count
    return max(0.0, total) / (1.0 - (lags + 1.0) / count)


def binomial_band(trials: float, probability: float, alpha: float) -> tuple[float, float]:
    """The shares between which a binomial count over ``trials`` lies with probability ``1 - alpha`` at least.

    Parameters
    ----------
    trials : float
        Rounded down; below 1 counts as 1.
    probability : float
        In [0, 1].
    alpha : float
        In (0, 1), half for each side.
    """
    count = max(1, int(trials))
    if not 0.0 < probability < 1.0:
        return probability, probability
    if count > _LARGEST_BINOMIAL:
        half = NORMAL.inv_cdf(1.0 - alpha / 2.0) * math.sqrt(probability * (1.0 - probability) / count)
        return max(0.0, probability - half), min(1.0, probability + half)
    cumulative = np.cumsum(_binomial(count, probability))
    low = int(np.searchsorted(cumulative, alpha / 2.0, side="right"))
    high = int(np.searchsorted(cumulative, 1.0 - alpha / 2.0, side="left"))
    return low / count, min(high, count) / count


def _binomial(count: int, probability: float) -> np.ndarray:
    # log k! as cumulative sums: numpy has no gamma function.
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    successes = np.arange(count + 1)
    logs = (
        log_factorial[count]
        - log_factorial
        - log_factorial[::-1]
        + successes * math.log(probability)
        + (count - successes) * math.log1p(-probability)
    )
    return np.asarray(np.exp(logs))
