"""A few equally likely scenarios in which every series and step keeps its own law.

With Q the quantile function of one series at one step over all S scenarios, its K values are the means of K
equally likely slices,

    v_k = K * integral of Q(u) over [(k - 1) / K, k / K],   k = 1 .. K,                                   (1)

of K equally likely values those nearest to the law in the Wasserstein distance of order 2, with its mean.
They are put together as K scenarios of the set have it: kept scenario j has the r-th value where scenario j
of the K is the r-th in size. The law of one step is so far better than K draws make it, and a recourse that
is paid step by step sees little else; how steps hang together is known by K scenarios alone.

Source: Schefzik, Thorarinsdottir and Gneiting (2013), https://doi.org/10.1214/13-STS443: ensemble copula
coupling, there with quantiles at fixed levels in place of (1).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hedgecast.core.errors import ShapeError

Array = NDArray[np.float64]


def quantile_set(paths: Array, probabilities: Array, count: int) -> Array:
    """(K, T, F) scenarios of probability 1/K each, in the units of ``paths``.

    Parameters
    ----------
    paths : array
        (S, T, F) finite.
    probabilities : array
        (S,) at least 0, sum 1.
    count : int
        K, at least 1.

    Notes
    -----
    The K scenarios that are followed stand at equal distances in the set, by probability: a set in the order
    of time is followed through all of it. Values that are equal rank in the order of the set.
    """
    points = paths.reshape(len(paths), -1)
    columns = [_slice_means(column, probabilities, count) for column in points.T]
    reached = np.cumsum(probabilities)
    middles = (np.arange(count) + 0.5) / count
    # Where a middle falls between two scenarios the earlier one is followed, whatever the rounding.
    followed = np.minimum(np.searchsorted(reached, middles - 1e-12), len(points) - 1)
    ranks = points[followed].argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return np.take_along_axis(np.stack(columns, axis=1), ranks, axis=0).reshape(count, *paths.shape[1:])


def quantile_sets(paths: Float[Tensor, "B S T F"], count: int) -> Float[Tensor, "B K T F"]:
    """`quantile_set` of the equally likely scenarios of every context, differentiable in all of them.

    Parameters
    ----------
    paths : Tensor
    count : int
        K, a divisor of S.

    Raises
    ------
    ShapeError
        S is no multiple of K.
    """
    contexts, size, steps, series = paths.shape
    if count < 1 or size % count:
        raise ShapeError(f"{size} scenarios have no {count} slices of equal size: take a divisor of {size}")
    each = size // count
    ranked = paths.sort(dim=1).values
    means = ranked.reshape(contexts, count, each, steps, series).mean(dim=2)
    followed = paths.detach()[:, (each - 1) // 2 :: each]
    ranks = followed.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return means.gather(1, ranks)


def _slice_means(values: Array, probabilities: Array, count: int) -> Array:
    """(K,) equation (1) of values (S,), rising."""
    order = values.argsort(kind="stable")
    ranked, masses = values[order], probabilities[order]
    # The integral of Q up to the mass reached at each value; between them it is a straight line.
    reached = np.concatenate([[0.0], np.cumsum(masses)])
    integral = np.concatenate([[0.0], np.cumsum(masses * ranked)])
    edges = np.linspace(0.0, reached[-1], count + 1)
    means = np.diff(np.interp(edges, reached, integral)) * (count / reached[-1])
    # A difference of sums may leave its slice in the last digits: a load of 0 must not become negative.
    lowest = np.searchsorted(reached, edges[:-1], side="right") - 1
    highest = np.searchsorted(reached, edges[1:], side="left") - 1
    last = len(ranked) - 1
    bounds = (ranked[np.clip(place, 0, last)] for place in (lowest, highest))
    return np.clip(means, *bounds).astype(np.float64)
