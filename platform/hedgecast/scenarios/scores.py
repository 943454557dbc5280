"""Proper scores of scenarios against what came true; lower is better.

    D days, S scenarios, T steps, F series, E entries of any shape

A score is proper when no forecast does better on average than the law itself, so that a set cannot gain by
being too narrow, too wide or shifted. Estimators are fair where one exists: their mean does not depend on S,
so sets of different size compare.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

# Left out, scoringrules 0.10 takes numpy for its ensemble scores, which makes (D, S, S, E) arrays: 366 days
# of 200 scenarios took 5.8 GiB and 10 to 40 times as long.
_BACKEND = "numba"
# Scores of whole paths take at most so many scenarios: pairs of 200 cost 2.3 ms a day, of 100 0.6 ms, and the
# fair estimator's mean is the same.
LARGEST_PAIRED = 100


def crps(paths: NDArray[np.float64], realized: NDArray[np.float64]) -> NDArray[np.float64]:
    """Continuous ranked probability score of each entry, in the unit of the data.

    Parameters
    ----------
    paths : array
        (..., S, E) scenarios.
    realized : array
        (..., E) what came true.

    Returns
    -------
    array
        (..., E). For one scenario this is the absolute error.

    Notes
    -----
    The estimator that is unbiased in the number of scenarios, from probability-weighted moments.
    Source: Zamo and Naveau (2018), eq. 3 and 6, https://doi.org/10.1007/s11004-017-9709-7.
    """
    if paths.shape[-2] == 1:
        return np.asarray(np.abs(paths[..., 0, :] - realized))
    members = np.ascontiguousarray(np.moveaxis(paths, -2, -1))
    return np.asarray(_rules().crps_ensemble(realized, members, estimator="pwm", backend=_BACKEND))


def tail_crps(
    paths: NDArray[np.float64],
    realized: NDArray[np.float64],
    low: NDArray[np.float64] | float,
    high: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """(..., E) CRPS that counts only values below ``low`` and above ``high``, in the unit of the data.

    With F the scenarios' distribution and y what came true,

        integral over x <= low and x >= high of (F(x) - 1{y <= x})^2 dx

    Parameters
    ----------
    paths : array
        (..., S, E).
    realized : array
        (..., E).
    low, high : array or float
        Thresholds, broadcast to (..., E). The score is proper only while they do not depend on the
        scenarios that are scored.

    Notes
    -----
    The CRPS of min(x, low) plus that of max(x, high).
    Source: Gneiting and Ranjan (2011), eq. 5, https://doi.org/10.1198/jbes.2010.08110; Allen, Ginsbourger and
    Ziegel (2023), https://arxiv.org/abs/2202.12732.
    """
    low = np.broadcast_to(np.asarray(low, dtype=np.float64), realized.shape)
    high = np.broadcast_to(np.asarray(high, dtype=np.float64), realized.shape)
    if paths.shape[-2] == 1:
        only = paths[..., 0, :]
        below = np.abs(np.minimum(only, low) - np.minimum(realized, low))
        return np.asarray(below + np.abs(np.maximum(only, high) - np.maximum(realized, high)))
    members = np.ascontiguousarray(np.moveaxis(paths, -2, -1))
    total = np.zeros(realized.shape)
    # Chained by hand rather than by twcrps_ensemble(a=, b=): that one takes scalar thresholds only.
    for limit, threshold in ((np.minimum, low), (np.maximum, high)):
        total += _rules().twcrps_ensemble(
            realized,
            members,
            v_func=_chain(limit, threshold),
            estimator="pwm",
            backend=_BACKEND,
        )
    return total


def _chain(
    limit: np.ufunc, threshold: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The chaining function of one tail, for values (..., E) and members (..., E, S)."""

    def chain(values: NDArray[np.float64]) -> NDArray[np.float64]:
        beside = threshold[..., None] if values.ndim > threshold.ndim else threshold
        return np.asarray(limit(values, beside))

    return chain


def energy_score(paths: NDArray[np.float64], realized: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D,) energy score of whole paths: E|X - y| - E|X - X'| / 2, Euclidean norms.

    Parameters
    ----------
    paths : array
        (D, S, E); beyond `LARGEST_PAIRED` scenarios the first are taken.
    realized : array
        (D, E).

    Returns
    -------
    array
        (D,), in the unit of the data. For one scenario this is the distance to what came true.

    Notes
    -----
    Source: Gneiting and Raftery (2007), eq. 22, https://doi.org/10.1198/016214506000001437.
    """
    if paths.shape[1] == 1:
        return np.asarray(np.linalg.norm(paths[:, 0] - realized, axis=-1))
    members = np.ascontiguousarray(paths[:, :LARGEST_PAIRED])
    return np.asarray(_rules().es_ensemble(realized, members, estimator="fair", backend=_BACKEND))


def diversity(
    paths: NDArray[np.float64], realized: NDArray[np.float64], energy: NDArray[np.float64]
) -> float:
    """How far scenarios lie from one another, relative to how far they lie from what came true.

        sum over days of E|X - X'|  /  sum over days of E|X - y|

    Parameters
    ----------
    paths : array
        (D, S, E); beyond `LARGEST_PAIRED` scenarios the first are taken.
    realized : array
        (D, E).
    energy : array
        (D,) their `energy_score`, which holds both means.

    Returns
    -------
    float
        1 where what came true is one more draw of the same law; 0 for scenarios that are all alike; NaN for
        one scenario, or where all scenarios are what came true.
    """
    if paths.shape[1] == 1:
        return float("nan")
    members = paths[:, :LARGEST_PAIRED]
    to_real = np.linalg.norm(members - realized[:, None], axis=-1).mean(axis=1)
    total = float(to_real.sum())
    return 2.0 * (total - float(energy.sum())) / total if total > 0 else float("nan")


def variogram_score(
    paths: NDArray[np.float64], realized: NDArray[np.float64], *, order: float = 0.5
) -> NDArray[np.float64]:
    """(D,) variogram score: whether entries differ from one another as they should.

        sum over pairs i, j of w_ij ( |y_i - y_j|^p - mean_s |x_si - x_sj|^p )^2,   sum of w_ij = 1

    Pairs are two steps of one series, weighted by the inverse of their distance in steps, and two series at
    one step. A shift common to all entries does not show in it.

    Parameters
    ----------
    paths : array
        (D, S, T, F); beyond `LARGEST_PAIRED` scenarios the first are taken.
    realized : array
        (D, T, F).
    order : float
        p; 0.5 is robust against few large differences.

    Returns
    -------
    array
        (D,), in the unit of the data to the power 2p; zero where there is one entry alone.

    Notes
    -----
    The plug-in estimator: its mean falls with S, by the variance over S; compare at equal S below the cap.
    Source: Scheuerer and Hamill (2015), eq. 3, https://doi.org/10.1175/MWR-D-14-00269.1.
    """
    paths = paths[:, :LARGEST_PAIRED]
    num_steps, num_series = realized.shape[1:]
    steps = np.arange(num_steps)
    gap = np.abs(steps[:, None] - steps)
    near = np.divide(1.0, gap, out=np.zeros(gap.shape), where=gap > 0)
    apart = 1.0 - np.eye(num_series)
    total = num_series * near.sum() + num_steps * apart.sum()
    score = np.zeros(len(realized))
    if total == 0:
        return score
    for series in range(num_series):
        score += _variogram(paths[..., series], realized[..., series], near, order)
    if num_series > 1:
        for step in range(num_steps):
            score += _variogram(paths[:, :, step], realized[:, step], apart, order)
    return np.asarray(score / total)


def _variogram(
    paths: NDArray[np.float64], realized: NDArray[np.float64], weights: NDArray[np.float64], order: float
) -> NDArray[np.float64]:
    found = _rules().vs_ensemble(
        np.ascontiguousarray(realized), np.ascontiguousarray(paths), weights, p=order, backend=_BACKEND
    )
    return np.asarray(found)


def _rules() -> ModuleType:
    # It compiles its loops when it is imported, 4.7 s of processor time: only where something is scored.
    import scoringrules

    found: ModuleType = scoringrules
    return found
