"""Few scenarios with probabilities in place of many, and how far they are from the many.

With c(x, y) = |(x - y) / scale|^r for order r, the Wasserstein distance of order r between scenarios x_k of
probability p_k and the best law on kept scenarios z_j is

    W_r = (sum_k p_k min_j c(x_k, z_j))^(1/r)

reached when every x_k hands its probability to the nearest z_j. Forward selection keeps scenarios of the set;
k-means, for order 2 alone, is free to make new ones, the means of its clusters: nearer, smoother. Both narrow
the law of a single step; `quantile_set` keeps it, with equal probabilities, and is not the nearest.

Source: Dupacova, Groewe-Kuska and Roemisch (2003), Theorem 2, https://doi.org/10.1007/s10107-002-0331-0;
Heitsch and Roemisch (2003), eq. 8, https://doi.org/10.1023/A:1021805924152.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hedgecast.core.errors import ConfigError, DataError, ShapeError
from hedgecast.scenarios.quantile_set import quantile_set
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.scenarios.selection import forward_selection, nearest_of, pair_costs

Method = Literal["auto", "forward-selection", "k-means", "quantiles"]
METHODS = ("auto", "forward-selection", "k-means", "quantiles")

FORWARD_LIMIT = 2_000
"""``auto`` takes forward selection up to so many scenarios: 50 of 2,000 days take it 0.4 s on one core, of
10,000 7.8 s; k-means 0.06 and 0.5 s."""
# Probabilities of a file are rounded; they are then scaled to sum to 1.
_PROBABILITY_TOLERANCE = 1e-6
_RESTARTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reduced:
    """A reduced set of scenarios of one context, K of S; K is less than asked for where fewer differ."""

    paths: NDArray[np.float64]
    """(K, T, F) in the units of the data. Forward selection: in the order of selection, so that the first n
    are those of a reduction to n; k-means: the likeliest first; quantiles: in the order of the set."""
    probabilities: NDArray[np.float64]
    """(K,) all positive, sum 1."""
    indices: NDArray[np.int64] | None
    """(K,) places in the full set; None where scenarios are made."""
    assignment: NDArray[np.int64]
    """(S,) which kept scenario stands for each one of the full set: the nearest, the first of equals."""
    distance: float
    """Wasserstein distance of ``order`` between the full and the reduced set, in units of ``scale``; of
    quantiles, whose probabilities are not those of the nearest, a lower bound of it."""
    spread: float
    """The same distance between the full set and its mean alone: what one scenario would have left."""
    order: int
    """1 or 2."""
    method: str
    """``forward-selection``, ``k-means`` or ``quantiles``."""
    scale: NDArray[np.float64]
    """(T, F) what differences were divided by, in the units of the data."""

    @property
    def count(self) -> int:
        """Kept scenarios, K."""
        return int(self.probabilities.size)

    @property
    def relative_distance(self) -> float:
        """``distance`` over ``spread``; 0 where all scenarios are the same."""
        return self.distance / self.spread if self.spread > 0.0 else 0.0


def reduce_scenarios(
    paths: NDArray[np.floating],
    count: int,
    *,
    probabilities: ArrayLike | None = None,
    method: Method = "auto",
    order: int = 2,
    scale: ArrayLike | None = None,
    seed: int = 0,
) -> Reduced:
    """At most ``count`` scenarios with probabilities that stand for ``paths`` (S, T, F).

    Scenarios that are equal count as one, with their probabilities added; those of probability zero are never
    kept. Where no more than ``count`` are left the result is they, at distance 0.

    Parameters
    ----------
    paths : array
        (S, T, F) in the units of the data.
    count : int
        1 to S.
    probabilities : array, optional
        (S,); equal where left out.
    method : str
        ``auto`` is forward selection up to `FORWARD_LIMIT` scenarios and for order 1, else k-means.
        ``quantiles``: see `hedgecast.scenarios.quantile_set`; the distance has no say in them.
    order : int
        Of the distance: 1 for costs Lipschitz in the scenario, 2 weighs far scenarios more.
    scale : array or float, optional
        Broadcast to (T, F): what differences are divided by. Left out, the root of each series' mean
        variance, so that units do not matter (1 for a series that never varies); 1.0 keeps the units.
    seed : int
        Of the starts of k-means; forward selection has none. Ties go to the scenario that stands first.

    Raises
    ------
    ShapeError, DataError, ConfigError
        Wrong shapes; values that are not finite or probabilities that are no distribution; an unknown method
        or order, a count out of range, a scale that is not positive.

    Notes
    -----
    Source: Heitsch and Roemisch (2003), Algorithm 2.4 and Theorem 2.5,
    https://doi.org/10.1023/A:1021805924152; Rujeerapaiboon et al. (2017) on scenarios that are free,
    https://arxiv.org/abs/1701.04072.
    """
    values, weights = checked_paths(paths, probabilities)
    chosen = _method(method, order, count, values.shape[0])
    scales = difference_scales(values, weights, scale)
    points = (values / scales).reshape(values.shape[0], -1)
    places, masses = _distinct(points, weights)
    spread = _to_order(float(weights @ pair_costs(points, (weights @ points)[None], order)[:, 0]), order)
    indices: NDArray[np.int64] | None = None
    if places.size <= count:
        chosen = "forward-selection"
    if chosen == "forward-selection":
        picks = forward_selection(points[places], masses, min(count, places.size), order)
        indices = places[picks]
        centers, kept = points[indices], values[indices]
    elif chosen == "k-means":
        centers = _clusters(points[places], masses, count, seed)
        kept = centers.reshape(-1, *scales.shape) * scales
    else:
        kept = quantile_set(values, weights, count)
        centers = (kept / scales).reshape(count, -1)
    assignment, nearest = nearest_of(points, centers, order)
    return Reduced(
        paths=kept,
        probabilities=(
            np.full(count, 1.0 / count)
            if chosen == "quantiles"
            else _masses(assignment, weights, centers.shape[0])
        ),
        indices=indices,
        assignment=assignment,
        distance=_to_order(float(weights @ nearest), order),
        spread=spread,
        order=order,
        method=chosen,
        scale=scales,
    )


def reduce_set(
    scenarios: ScenarioSet,
    count: int,
    *,
    method: Method = "auto",
    order: int = 2,
    scale: ArrayLike | None = None,
    seed: int = 0,
) -> tuple[ScenarioSet, list[Reduced]]:
    """The reduced set of every context, and how each was reduced; see `reduce_scenarios`.

    Where contexts keep different numbers, the shorter ones repeat their last scenario with probability zero,
    which programs pass over.
    """
    weights = scenarios.weights().detach().cpu().double().numpy()
    paths = scenarios.paths.detach().cpu().numpy()
    parts = [
        reduce_scenarios(
            path, count, probabilities=weight, method=method, order=order, scale=scale, seed=seed
        )
        for path, weight in zip(paths, weights, strict=True)
    ]
    longest = max(part.count for part in parts)
    like = scenarios.paths
    kept = np.stack([np.pad(p.paths, ((0, longest - p.count), (0, 0), (0, 0)), "edge") for p in parts])
    shares = np.stack([np.pad(part.probabilities, (0, longest - part.count)) for part in parts])
    reduced = dataclasses.replace(
        scenarios,
        paths=torch.from_numpy(kept).to(like),
        probabilities=torch.from_numpy(shares).to(like),
        source=f"{scenarios.source or 'scenarios'}, {parts[0].method} from {scenarios.num_scenarios}",
    )
    return reduced, parts


def _clusters(
    points: NDArray[np.float64], weights: NDArray[np.float64], count: int, seed: int
) -> NDArray[np.float64]:
    """(at most count, D) weighted means of the clusters of k-means, the likeliest first."""
    # Takes a second and, with pandas behind it, 65 MB: replicas that reduce nothing do without.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Raised where points nearly coincide: empty clusters are left out below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(count, n_init=_RESTARTS, random_state=seed % 2**32)
        labels = np.asarray(means.fit(points, sample_weight=weights * weights.size).labels_)
    # Summed again here: the threads of k-means add in any order.
    masses = _masses(labels, weights, count)
    sums = np.stack([_masses(labels, weights * column, count) for column in points.T], axis=1)
    filled = np.flatnonzero(masses > 0.0)
    centers = sums[filled] / masses[filled, None]
    # Masses by the nearest mean: they are what the caller will see.
    nearest, _ = nearest_of(points, centers, 2)
    masses = _masses(nearest, weights, filled.size)
    ranked = np.lexsort((*centers.T[::-1], -masses))
    return np.asarray(centers[ranked[: int((masses > 0.0).sum())]])


def _distinct(
    points: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places of the first of every group of equal points of positive weight, in order, and their weights."""
    positive = np.flatnonzero(weights > 0.0)
    _, firsts, groups = np.unique(points[positive], axis=0, return_index=True, return_inverse=True)
    masses = _masses(groups.ravel(), weights[positive], firsts.size)
    ranked = np.argsort(firsts)
    return positive[firsts[ranked]], masses[ranked]


def _masses(groups: NDArray[np.int64], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count,) sum of the weights of each group."""
    return np.bincount(groups, weights, minlength=count).astype(np.float64)


def checked_paths(
    paths: NDArray[np.floating], probabilities: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Paths (S, T, F) and probabilities (S,) in double precision, checked; see `reduce_scenarios`."""
    values = np.asarray(paths, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ShapeError(
            f"paths has shape {values.shape}: must be (scenarios, steps, series), none of them 0"
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if bad.size:
        raise DataError(
            f"scenario {bad[0]} has a value that is not finite ({bad.size} such scenarios): remove them",
            scenario=int(bad[0]),
            found=int(bad.size),
        )
    size = values.shape[0]
    if probabilities is None:
        return values, np.full(size, 1.0 / size)
    weights = np.asarray(probabilities, dtype=np.float64)
    if weights.shape != (size,):
        raise ShapeError(f"probabilities has shape {weights.shape}: must be ({size},), one for each scenario")
    total = float(weights.sum())
    # Written so that NaN is refused.
    if not (weights.min() >= 0.0 and abs(total - 1.0) <= _PROBABILITY_TOLERANCE):
        raise DataError(
            f"probabilities have minimum {weights.min():.6g} and sum {total:.9g}: must be at least 0, sum 1",
            minimum=float(weights.min()),
            total=total,
        )
    return values, weights / total


def _method(method: str, order: int, count: int, size: int) -> str:
    if method not in METHODS:
        raise ConfigError(f"method {method!r}: must be one of {', '.join(METHODS)}", key="method")
    if order not in (1, 2):
        raise ConfigError(f"order {order}: the distance has order 1 or 2", key="order")
    if not 1 <= count <= size:
        raise ConfigError(f"asked for {count} of {size} scenarios: give 1 to {size}", key="count")
    if method == "k-means" and order == 1:
        raise ConfigError(
            "k-means is for order 2: means are not nearest in order 1; use forward-selection", key="method"
        )
    if method != "auto":
        return method
    return "forward-selection" if size <= FORWARD_LIMIT or order == 1 else "k-means"


def difference_scales(
    values: NDArray[np.float64], weights: NDArray[np.float64], scale: ArrayLike | None
) -> NDArray[np.float64]:
    """(T, F) what differences are divided by; see `reduce_scenarios`."""
    shape = values.shape[1:]
    if scale is None:
        centered = values - np.tensordot(weights, values, axes=1)
        variance = np.tensordot(weights, centered**2, axes=1).mean(axis=0)
        # Rounding alone makes a constant series vary.
        noise = (64 * np.finfo(np.float64).eps * np.abs(values).max(axis=(0, 1))) ** 2
        return np.broadcast_to(np.where(variance > noise, np.sqrt(variance), 1.0), shape).copy()
    try:
        scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), shape).copy()
    except ValueError:
        raise ShapeError(
            f"scale has shape {np.shape(scale)}: must broadcast to (steps, series) = {shape}"
        ) from None
    if not (np.isfinite(scales).all() and (scales > 0.0).all()):
        raise ConfigError(
            "scale has an entry that is not positive and finite: drop the series or give its size",
            key="scale",
        )
    return scales


def _to_order(cost: float, order: int) -> float:
    return math.sqrt(cost) if order == 2 else cost
