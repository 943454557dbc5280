"""Fast forward selection: which scenarios to keep, one after the other.

Source: Heitsch and Roemisch (2003), Algorithm 2.4, https://doi.org/10.1023/A:1021805924152.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

# Bytes of a block of distances.
_BLOCK_BYTES = 64 * 2**20
# Candidates whose gain is computed together.
_CANDIDATES = 32
# Gains that differ by less than this share of the first cost are ties.
_TIE = 1e-12


def forward_selection(
    points: NDArray[np.float64], weights: NDArray[np.float64], count: int, order: int
) -> NDArray[np.int64]:
    """(count,) places of the scenarios that fast forward selection keeps, in the order of selection.

    With d_k = min_{j kept} c_kj, step i of Algorithm 2.4 takes the u of least z_u = sum_k p_k min(d_k, c_ku),
    which is the u of the largest gain g_u = sum_k p_k max(d_k - c_ku, 0). Since d only falls, so do gains:
    one of an earlier step bounds today's from above, and only candidates whose bound reaches the best gain
    are computed again. What is selected stays the same; no matrix of all pairs is kept.

    Parameters
    ----------
    points : array
        (S, D) scaled scenarios that differ.
    weights : array
        (S,) positive.
    count : int
        1 to S.
    order : int
        1 or 2.

    Notes
    -----
    Source: Heitsch and Roemisch (2003), Algorithm 2.4, https://doi.org/10.1023/A:1021805924152; bounds that
    are only renewed when needed: Minoux (1978), https://doi.org/10.1007/BFb0006528.
    """
    size = points.shape[0]
    totals = np.concatenate([weights @ block for block in _blocks(points, order)])
    slack = _TIE * float(totals.min())
    first = int(np.flatnonzero(totals <= totals.min() + slack)[0])
    picks = [first]
    nearest = pair_costs(points, points[[first]], order)[:, 0]
    bounds = np.full(size, np.inf)
    if count > 1:
        bounds = np.concatenate([_gains(nearest, weights, block) for block in _blocks(points, order)])
    fresh = np.ones(size, dtype=bool)
    for _ in range(1, count):
        bounds[picks], fresh[picks] = -np.inf, True
        _renew(points, weights, order, nearest, bounds, fresh, slack)
        best = bounds[fresh].max()
        pick = int(np.flatnonzero(fresh & (bounds >= best - slack))[0])
        picks.append(pick)
        np.minimum(nearest, pair_costs(points, points[[pick]], order)[:, 0], out=nearest)
        fresh[:] = False
    return np.array(picks, dtype=np.int64)


def _renew(
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    order: int,
    nearest: NDArray[np.float64],
    bounds: NDArray[np.float64],
    fresh: NDArray[np.bool_],
    slack: float,
) -> None:
    """Computes gains until no candidate that is not fresh could be the best or its equal."""
    while True:
        best = bounds[fresh].max(initial=-np.inf)
        stale = np.flatnonzero(~fresh & (bounds >= best - slack))
        if not stale.size:
            return
        take = stale[np.argsort(-bounds[stale], kind="stable")[:_CANDIDATES]]
        bounds[take] = _gains(nearest, weights, pair_costs(points, points[take], order))
        fresh[take] = True


def _gains(
    nearest: NDArray[np.float64], weights: NDArray[np.float64], costs: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(weights @ np.maximum(nearest[:, None] - costs, 0.0))


def _blocks(points: NDArray[np.float64], order: int) -> Iterator[NDArray[np.float64]]:
    """(S, some) costs between all points and some of them, in order, each block of bounded size."""
    width = max(1, _BLOCK_BYTES // (8 * points.shape[0]))
    for start in range(0, points.shape[0], width):
        yield pair_costs(points, points[start : start + width], order)


def pair_costs(points: NDArray[np.float64], others: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """(S, K) costs c(x, z) of order 1 or 2 between scenarios (S, D) and others (K, D)."""
    # By differences, not by products: equal scenarios are at distance 0 exactly.
    return np.asarray(cdist(points, others, "sqeuclidean" if order == 2 else "euclidean"))


def nearest_of(
    points: NDArray[np.float64], centers: NDArray[np.float64], order: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(S,) place of the nearest center, the first of equals, and its cost."""
    rows = max(1, _BLOCK_BYTES // (8 * centers.shape[0]))
    places = np.empty(points.shape[0], dtype=np.int64)
    costs = np.empty(points.shape[0])
    for start in range(0, points.shape[0], rows):
        block = pair_costs(points[start : start + rows], centers, order)
        place = block.argmin(axis=1)
        places[start : start + rows] = place
        costs[start : start + rows] = np.take_along_axis(block, place[:, None], axis=1)[:, 0]
    return places, costs
