"""How well scenarios describe what came true."""

from __future__ import annotations

import numpy as np
import scoringrules
from numpy.typing import NDArray


def crps(paths: NDArray[np.float64], realized: NDArray[np.float64]) -> NDArray[np.float64]:
    """Continuous ranked probability score of each entry, in the unit of the data; lower is better.

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
    The estimator that is unbiased in the number of scenarios, so that sets of different size compare.
    Source: Zamo and Naveau (2018), eq. 3, https://doi.org/10.1007/s11004-017-9709-7.
    """
    if paths.shape[-2] == 1:
        return np.asarray(np.abs(paths[..., 0, :] - realized))
    members = np.moveaxis(paths, -2, -1)
    return np.asarray(scoringrules.crps_ensemble(realized, members, estimator="fair"))


def covered(
    paths: NDArray[np.float64], realized: NDArray[np.float64], *, level: float = 0.9
) -> NDArray[np.bool_]:
    """(..., E) whether each entry lies in the central ``level`` of the scenarios (..., S, E)."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(paths, [tail, 1.0 - tail], axis=-2)
    return np.asarray((low <= realized) & (realized <= high))
