"""What the decisions of a model version were worth: regret, cost, coverage and drift, with how sure each is.

All statements are about the latest outcomes at one look. Who looks again and again, after every outcome say,
sees a false alarm sooner or later: ``confidence`` is per look. What may be looked at any time is ``canary``.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from typing import Literal

import numpy as np

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.outcomes.figures import CoverageSeries, Figures
from hedgecast.outcomes.series import NORMAL, Mean, binomial_band, long_run_variance, mean_of

# Alarms of a right version with 24 points a day that follow each other (0.9), at confidence 0.99, for 30, 60
# and 365 days: 0.15, 0.08, 0.02 without, 0.00, 0.00, 0.01 with 20; scenarios a fifth too narrow are found
# at 180 days in 0.94 of cases with and without.
_PRIOR_DAYS = 20.0

# Means of equal shares differ by rounding.
_ROUNDING = 1e-9

State = Literal["in_band", "out_of_band", "too_few"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PerformanceConfig(Config):
    """How many outcomes are looked at, and how sure an alarm must be."""

    window: int = 365
    """Latest outcomes of a version that count."""
    recent: int = 60
    """Latest of these whose law is compared with that of the others, for drift."""
    min_count: int = 30
    """Outcomes below which nothing is said about coverage or drift."""
    confidence: float = 0.99
    """Probability that a version which is right gives no alarm at one look, over all names and levels."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to say."""
        if not 2 <= self.min_count <= self.recent < self.window:
            raise ConfigError(
                f"min_count = {self.min_count}, recent = {self.recent}, window = {self.window}: must be "
                "2 <= min_count <= recent < window",
                key="window",
            )
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"confidence = {self.confidence}: must be in (0, 1)", key="confidence")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How often what came true lay at or below a quantile, against how often it should."""

    name: str
    level: float
    expected: float
    """Share if the scenarios are right; see ``Band.expected``."""
    covered: float
    """Observed share, the mean over decisions."""
    low: float
    """Band within which ``covered`` lies if the scenarios are right."""
    high: float
    count: int
    """Decisions."""
    effective_count: float
    """Independent yes-or-no trials whose mean would vary as much."""
    state: State


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Whether realized costs lie elsewhere in the laws that scenarios gave them than they did before."""

    location: float
    """Mean level of recent costs less that of earlier ones; positive: costs come out higher than they did."""
    spread: float
    """Mean distance of the level from one half, recent less earlier; positive: more surprises."""
    p_value: float
    """Of the larger of both shifts, times two; NaN where too few."""
    recent_count: int
    earlier_count: int
    drifted: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Performance:
    """Figures of one model version over its latest outcomes."""

    model: str
    version: str
    total: int
    """Outcomes kept in all."""
    first_issued_at: datetime.datetime
    last_issued_at: datetime.datetime
    regret: Mean
    cost: Mean
    regret_excess: Mean
    """Realized less expected regret."""
    cost_excess: Mean
    """Realized less expected cost."""
    coverage: tuple[Coverage, ...]
    drift: Drift
    state: State
    """``out_of_band`` if any coverage is; drift apart."""

    @property
    def warning(self) -> str:
        """A sentence for an answer of this version; empty without an alarm."""
        outside = [coverage for coverage in self.coverage if coverage.state == "out_of_band"]
        parts = [
            f"{item.covered:.1%} of realized {item.name} lay at or below the {item.level:.1%} quantile over "
            f"{item.count} outcomes, outside [{item.low:.1%}, {item.high:.1%}]"
            for item in outside
        ]
        if self.drift.drifted:
            parts.append(
                f"realized costs of the last {self.drift.recent_count} outcomes lie elsewhere in their laws "
                f"than before (p = {self.drift.p_value:.2g})"
            )
        return f"model {self.model} version {self.version}: {'; '.join(parts)}" if parts else ""


def performance_of(figures: Figures, config: PerformanceConfig | None = None) -> Performance:
    """What the latest outcomes of a version say.

    Parameters
    ----------
    figures : Figures
        With at least one outcome.
    config : PerformanceConfig, optional
    """
    config = PerformanceConfig() if config is None else config
    latest = slice(max(0, figures.cost.size - config.window), None)
    cost, regret = figures.cost[latest], figures.regret[latest]
    times = figures.issued_at[latest]
    # Bonferroni: one alarm among all names and levels is an alarm of the version.
    alpha = (1.0 - config.confidence) / max(1, len(figures.coverage))
    coverage = tuple(
        _coverage(name, level, series, alpha, config) for (name, level), series in figures.coverage.items()
    )
    return Performance(
        model=figures.model,
        version=figures.version,
        total=figures.total,
        first_issued_at=_time(times[0]),
        last_issued_at=_time(times[-1]),
        regret=mean_of(regret),
        cost=mean_of(cost),
        regret_excess=mean_of(regret - figures.expected_regret[latest]),
        cost_excess=mean_of(cost - figures.expected_cost[latest]),
        coverage=coverage,
        drift=_drift(figures.cost_level[latest], config),
        state=_state([item.state for item in coverage]),
    )


def _coverage(
    name: str, level: float, series: CoverageSeries, alpha: float, config: PerformanceConfig
) -> Coverage:
    latest = slice(max(0, series.shares.size - config.window), None)
    shares, expected = series.shares[latest], series.expected[latest]
    count = int(shares.size)
    center, covered = float(expected.mean()), float(shares.mean())
    trials = _effective_count(shares - expected, center, float(series.num_points[latest].sum()))
    low, high = binomial_band(trials, center, alpha)
    state: State = "too_few"
    if count >= config.min_count:
        state = "in_band" if low - _ROUNDING <= covered <= high + _ROUNDING else "out_of_band"
    return Coverage(
        name=name,
        level=level,
        expected=center,
        covered=covered,
        low=low,
        high=high,
        count=count,
        effective_count=trials,
        state=state,
    )


def _effective_count(differences: np.ndarray, center: float, num_points: float) -> float:
    """Yes-or-no trials whose mean varies as much as that of ``differences``, at most one a point.

    Notes
    -----
    A trial of probability p has variance p (1 - p). n days whose T points are independent are n T trials, n
    days whose points all fall together are n, days that follow each other are fewer: the long-run variance
    of the series holds all of this. Few days of a rare event say too little of it, so the estimate is
    averaged with that of ``_PRIOR_DAYS`` days whose points all fall together.
    """
    count, trial = differences.size, center * (1.0 - center)
    if count < 2:
        return 1.0
    variance = (count * long_run_variance(differences) + _PRIOR_DAYS * trial) / (count + _PRIOR_DAYS)
    return min(num_points, max(1.0, count * trial / variance)) if variance > 0.0 else num_points


def _drift(levels: np.ndarray, config: PerformanceConfig) -> Drift:
    known = levels[np.isfinite(levels)]
    earlier, recent = known[: -config.recent], known[-config.recent :]
    if min(earlier.size, recent.size) < config.min_count:
        return Drift(
            location=math.nan,
            spread=math.nan,
            p_value=math.nan,
            recent_count=int(recent.size),
            earlier_count=int(earlier.size),
            drifted=False,
        )
    location, p_location = _shift(recent, earlier)
    spread, p_spread = _shift(np.abs(recent - 0.5), np.abs(earlier - 0.5))
    p_value = min(1.0, 2.0 * min(p_location, p_spread))
    return Drift(
        location=location,
        spread=spread,
        p_value=p_value,
        recent_count=int(recent.size),
        earlier_count=int(earlier.size),
        drifted=p_value < 1.0 - config.confidence,
    )


def _shift(recent: np.ndarray, earlier: np.ndarray) -> tuple[float, float]:
    """Difference of the means and its two-sided p-value, normal with Newey-West variances."""
    shift = float(recent.mean() - earlier.mean())
    error = math.sqrt(long_run_variance(recent) / recent.size + long_run_variance(earlier) / earlier.size)
    if abs(shift) <= _ROUNDING:
        return shift, 1.0
    if error == 0.0:
        return shift, 0.0
    return shift, 2.0 * NORMAL.cdf(-abs(shift) / error)


def _state(states: list[State]) -> State:
    for state in ("out_of_band", "in_band"):
        if state in states:
            return state
    return "too_few"


def _time(value: np.datetime64) -> datetime.datetime:
    time = value.astype("datetime64[us]").item()
    assert isinstance(time, datetime.datetime)
    return time.replace(tzinfo=datetime.UTC)
