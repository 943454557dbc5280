"""What is kept of a decision when it is answered, and of what really happened.

Records are plain data. Arrays are float64 in C order once they are kept; times are in UTC.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

import numpy as np

from hedgecast.core.errors import ShapeError

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Band:
    """Quantiles of one uncertain quantity in a decision's own scenarios, point by point."""

    levels: np.ndarray
    """(L,) at least two, increasing, in (0, 1)."""
    quantiles: np.ndarray
    """(L, *shape), increasing along the first axis, in the unit of the quantity."""
    expected: np.ndarray
    """(L,) share of what comes true that lies at or below the quantiles if the scenarios are right. Not
    exactly ``levels``: scenarios are finite in number and a quantity may have a mass at one value."""

    @property
    def uncertain(self) -> np.ndarray:
        """(*shape) whether a point's lowest and highest quantile differ: no other says anything."""
        return np.asarray(self.quantiles[0] < self.quantiles[-1])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Covered:
    """How much of what came true lay at or below the quantiles of a band."""

    levels: np.ndarray
    """(L,) as in the band."""
    shares: np.ndarray
    """(L,) observed shares of the points that were uncertain, in [0, 1]."""
    expected: np.ndarray
    """(L,) as in the band."""
    num_points: int
    """Points that were uncertain; at least 1."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecisionRecord:
    """One answered decision: all that is needed to judge it when the outcome is known."""

    decision_id: str
    """Unique in a store; not empty."""
    model: str
    model_version: str
    program: str
    program_version: str
    issued_at: datetime.datetime
    """When it was answered; with a time zone."""
    decision: Arrays
    """By name of the decision variable, in its unit."""
    expected_cost: float
    """Over the scenarios, in the currency of the program."""
    expected_regret: float
    request_id: str = ""
    """The caller's, unique for a principal; empty: the call had none."""
    principal: str = ""
    """Who asked; empty: no authentication."""
    fingerprint: str = ""
    """Of the scenarios."""
    seed: int = 0
    """Below 2**63."""
    given: Arrays = dataclasses.field(default_factory=dict)
    """Given parameters by name."""
    risk: str = ""
    """The measure of risk as text; empty: expectation."""
    cost: Band | None = None
    """Of the cost of this decision over the scenarios: quantiles of shape (L,)."""
    bands: Mapping[str, Band] = dataclasses.field(default_factory=dict)
    """By name of the uncertain parameter; an outcome must name exactly these."""
    shadow_of: str = ""
    """Id of the decision that the planner was given, where this one was made beside it for a canary."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OutcomeRecord:
    """What really happened after a decision, and what the decision was worth then."""

    realized: Arrays
    """By name of the uncertain parameter, shapes as in the decision's bands."""
    cost: float
    """Of the decision under what came true, in the currency of the program."""
    regret: float
    """``cost`` less the cost of the best decision for what came true (wait and see)."""
    recorded_at: datetime.datetime
    """With a time zone."""
    request_id: str = ""
    """The caller's, unique for a principal; empty: the call had none."""
    principal: str = ""
    covered: Mapping[str, Covered] = dataclasses.field(default_factory=dict)
    """By name of the uncertain parameter; a name without an uncertain point is left out."""
    cost_level: float = float("nan")
    """Where the realized cost lies in the law that the scenarios gave it, in (0, 1); NaN: not known."""

    @classmethod
    def of(
        cls,
        decision: DecisionRecord,
        *,
        realized: Arrays,
        cost: float,
        regret: float,
        recorded_at: datetime.datetime,
        request_id: str = "",
        principal: str = "",
    ) -> OutcomeRecord:
        """The outcome of ``decision`` with its coverage, which follows from the decision's bands.

        Raises
        ------
        ShapeError
            A realized array has another shape than the band of its name.
        """
        covered = {
            name: covered_shares(band, realized[name], name=name)
            for name, band in decision.bands.items()
            if name in realized and bool(band.uncertain.any())
        }
        return cls(
            realized=realized,
            cost=cost,
            regret=regret,
            recorded_at=recorded_at,
            request_id=request_id,
            principal=principal,
            covered=covered,
            cost_level=float("nan") if decision.cost is None else level_of(decision.cost, cost),
        )


def band_of(scenarios: np.ndarray, levels: np.ndarray) -> Band:
    """The band of equally likely scenarios.

    Parameters
    ----------
    scenarios : ndarray
        (S, *shape).
    levels : ndarray
        (L,) at least two, increasing, in (0, 1).

    Raises
    ------
    ShapeError
        Fewer than two levels, or levels that do not increase within (0, 1), or no scenarios.

    Notes
    -----
    A quantile is a scenario's own value (the k-th smallest, k = ceil(level S)). If what comes true is one
    more draw of the same law, it is at or below that with probability k / (S + 1), whatever the law,
    where it is continuous. ``expected`` is this, with k counting ties, over the points that are uncertain.
    """
    levels = np.asarray(levels, dtype=np.float64)
    scenarios = np.asarray(scenarios, dtype=np.float64)
    if levels.ndim != 1 or levels.size < 2 or not _increase_within(levels, 0.0, 1.0):
        raise ShapeError(f"levels = {levels.tolist()}: must be two or more, increasing, within (0, 1)")
    if scenarios.ndim < 1 or scenarios.shape[0] < 1:
        raise ShapeError(f"scenarios of shape {scenarios.shape}: the first axis must hold one or more")
    quantiles = np.quantile(scenarios, levels, axis=0, method="inverted_cdf")
    band = Band(levels=levels, quantiles=quantiles, expected=levels)
    if not band.uncertain.any():
        return band
    below = (scenarios[None] <= quantiles[:, None]).sum(axis=1) / (scenarios.shape[0] + 1)
    return dataclasses.replace(band, expected=below[:, band.uncertain].mean(axis=1))


def covered_shares(band: Band, realized: np.ndarray, *, name: str) -> Covered:
    """The shares of the uncertain points of ``realized`` at or below each quantile.

    Parameters
    ----------
    band : Band
        With at least one uncertain point.
    realized : ndarray
        (*shape).
    name : str
        For messages.

    Raises
    ------
    ShapeError
        ``realized`` has another shape than the band.
    """
    realized = np.asarray(realized, dtype=np.float64)
    if realized.shape != band.quantiles.shape[1:]:
        raise ShapeError(
            f"realized[{name!r}] has shape {realized.shape}: the decision was made for "
            f"{band.quantiles.shape[1:]}",
            field=f"realized[{name!r}]",
        )
    uncertain = band.uncertain
    shares = (realized[None] <= band.quantiles)[:, uncertain].mean(axis=1)
    return Covered(levels=band.levels, shares=shares, expected=band.expected, num_points=int(uncertain.sum()))


def level_of(band: Band, value: float) -> float:
    """Where ``value`` lies in the law of a single quantity, in (0, 1).

    Notes
    -----
    Linear between quantiles; half of the lowest level below the lowest quantile, half way to one above
    the highest. Where quantiles coincide with the value: the middle of their levels.
    """
    levels = np.concatenate([[0.0], band.levels, [1.0]])
    quantiles = band.quantiles.reshape(-1)
    below = int(np.searchsorted(quantiles, value, side="left"))
    at_or_below = int(np.searchsorted(quantiles, value, side="right"))
    if at_or_below > below:
        return float((levels[below + 1] + levels[at_or_below]) / 2)
    if below in (0, quantiles.size):
        return float((levels[below] + levels[below + 1]) / 2)
    share = (value - quantiles[below - 1]) / (quantiles[below] - quantiles[below - 1])
    return float(levels[below] + share * (levels[below + 1] - levels[below]))


def _increase_within(levels: np.ndarray, low: float, high: float) -> bool:
    return bool(np.all(np.diff(levels) > 0) and levels[0] > low and levels[-1] < high)
