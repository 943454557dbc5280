"""Whether scenarios move from step to step as what they stand for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance


def increment_distance(paths: NDArray[np.float64], realized: NDArray[np.float64]) -> float:
    """Distance between the distributions of ramps, scenarios against what came true.

    For each pair of neighboring steps, over all days: the first Wasserstein distance between the increments
    of all scenarios and the realized ones, over the realized standard deviation; then the mean over pairs
    and series.

    Parameters
    ----------
    paths : array
        (D, S, T, F).
    realized : array
        (D, T, F).

    Returns
    -------
    float
        0 for equal distributions. Chance alone gives about 0.8 / sqrt(D) for independent days. NaN with
        one step; pairs without realized variation are left out, NaN where all are.

    Notes
    -----
    In one dimension the distance is the area between the two distribution functions.
    Source: Ramdas, Garcia and Cuturi (2017), https://arxiv.org/abs/1509.02237.
    """
    ramps, real = np.diff(paths, axis=2), np.diff(realized, axis=1)
    found = []
    for step in range(real.shape[1]):
        for series in range(real.shape[2]):
            spread = float(real[:, step, series].std())
            if spread > 0:
                distance = wasserstein_distance(ramps[:, :, step, series].ravel(), real[:, step, series])
                found.append(float(distance) / spread)
    return float(np.mean(found)) if found else float("nan")


def autocorrelation(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) autocorrelation of daily deviations by lag, from 0 to T - 1.

    Parameters
    ----------
    deviations : array
        (N, T) from what was expected; each step is divided by its own root mean square, so that a
        step's size does not enter. Steps that never deviate are left out.
    """
    size = np.sqrt((deviations**2).mean(axis=0))
    scaled = np.divide(deviations, size, out=np.zeros(deviations.shape), where=size > 0)
    products = scaled.T @ scaled / len(deviations)
    shown = np.outer(size > 0, size > 0).astype(np.float64)
    num_steps = len(size)
    lags = np.empty(num_steps)
    for lag in range(num_steps):
        pairs = np.diagonal(shown, lag).sum()
        lags[lag] = np.diagonal(products, lag).sum() / pairs if pairs > 0 else np.nan
    return lags


def autocorrelation_distance(paths: NDArray[np.float64], realized: NDArray[np.float64]) -> float:
    """How differently deviations from the scenarios' mean last, scenarios against what came true.

    The root mean square difference of both autocorrelations over lags 1 to T - 1, lags weighted by their
    number of pairs; the mean over series.

    Parameters
    ----------
    paths : array
        (D, S, T, F).
    realized : array
        (D, T, F).

    Returns
    -------
    float
        0 for equal dependence, whatever the size of the deviations; at most 2. NaN with one scenario, one
        step, or nothing that deviates.

    Notes
    -----
    The daily level and shape are in the scenarios' mean; what is compared is the dependence of errors, which
    a decision over linked steps feels.
    """
    num_scenarios, num_steps, num_series = paths.shape[1:]
    if num_scenarios == 1 or num_steps == 1:
        return float("nan")
    center = paths.mean(axis=1)
    pairs = num_steps - np.arange(1, num_steps)
    found = []
    for series in range(num_series):
        drawn = (paths[..., series] - center[:, None, :, series]).reshape(-1, num_steps)
        real = realized[..., series] - center[..., series]
        difference = autocorrelation(drawn)[1:] - autocorrelation(real)[1:]
        known = np.isfinite(difference)
        if known.any():
            found.append(np.sqrt(np.average(difference[known] ** 2, weights=pairs[known])))
    return float(np.mean(found)) if found else float("nan")
