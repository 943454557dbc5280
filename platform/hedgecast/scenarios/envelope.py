"""What a model has seen, and what lies outside it: contexts, histories, scenarios.

Ranges come from training days alone. A figure outside them is no proof that an answer is wrong, only that
nothing was checked there; what follows from it is the policy of the study, `SafetyConfig`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError

Policy = Literal["warn", "baseline", "refuse"]

OUTSIDE_TRAINING = "CONTEXT_OUTSIDE_TRAINING"
STALE_HISTORY = "STALE_HISTORY"
UNREALISTIC = "UNREALISTIC_SCENARIOS"

# A column may stand still twice as long as it ever did, and four steps more.
_RUN_FACTOR, _RUN_EXTRA = 2, 4
# Scenarios leave the range of training days by right; half of it more is no longer weather.
_SERIES_MARGIN = 0.5
# A day's spread may be half the least and twice the largest of training days.
_SPREAD_FACTOR = 2.0
_FEWEST_FOR_SPREAD = 20
_NAMED = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SafetyConfig(Config):
    """What follows when an answer would rest on what the model has not seen."""

    context: Policy = "warn"
    """Features outside the range of training days."""
    history: Policy = "warn"
    """A history that is too old, or in which a column stands still."""
    scenarios: Policy = "baseline"
    """Scenarios outside every range of training days, or far too narrow or too wide."""
    margin: float = 0.1
    """Share of a feature's range by which it may lie outside."""
    max_age_hours: float = 0.0
    """Hours after its last row at which a history is too old, by the server's clock; 0: never."""

    def __post_init__(self) -> None:
        if not self.margin >= 0.0 or not self.max_age_hours >= 0.0:
            raise ConfigError(
                f"margin = {self.margin}, max_age_hours = {self.max_age_hours}: must not be negative",
                key="margin",
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Envelope(Config):
    """Ranges of the training days."""

    features: tuple[str, ...]
    """C names."""
    feature_low: tuple[float, ...]
    feature_high: tuple[float, ...]
    columns: tuple[str, ...]
    """Names of the history columns."""
    longest_runs: tuple[int, ...]
    """Steps that each column kept one value at most."""
    series: tuple[str, ...]
    """F names."""
    series_low: tuple[float, ...]
    series_high: tuple[float, ...]
    spread_low: tuple[float, ...]
    """Least standard deviation over scenarios, mean over steps, on training days."""
    spread_high: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something outside."""

    reason: str
    """Stable UPPER_SNAKE name."""
    message: str
    """With its figures, for people."""


def envelope_of(
    features: Mapping[str, NDArray[np.floating]],
    history: Mapping[str, NDArray[np.floating]],
    targets: Mapping[str, NDArray[np.floating]],
    spreads: Mapping[str, NDArray[np.floating]],
) -> Envelope:
    """The envelope of training days.

    Parameters
    ----------
    features : mapping
        Name to (B,).
    history : mapping
        Column to (B, H), rows before each day in the order of time.
    targets : mapping
        Series to (B, T).
    spreads : mapping
        Series to (days,) standard deviation over the model's scenarios, mean over steps.
    """
    return Envelope(
        features=tuple(features),
        feature_low=tuple(float(values.min()) for values in features.values()),
        feature_high=tuple(float(values.max()) for values in features.values()),
        columns=tuple(history),
        longest_runs=tuple(int(run_lengths(values).max()) for values in history.values()),
        series=tuple(targets),
        series_low=tuple(float(values.min()) for values in targets.values()),
        series_high=tuple(float(values.max()) for values in targets.values()),
        spread_low=tuple(float(spreads[name].min()) for name in targets),
        spread_high=tuple(float(spreads[name].max()) for name in targets),
    )


def run_lengths(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """(B,) longest run of equal consecutive entries in each row (B, H)."""
    best = np.ones(len(values), np.int64)
    current = best.copy()
    for column in range(1, values.shape[1]):
        current = np.where(values[:, column] == values[:, column - 1], current + 1, 1)
        best = np.maximum(best, current)
    return best


def context_findings(envelope: Envelope, features: NDArray[np.floating], margin: float) -> Iterator[Finding]:
    """What of one context (C,) lies outside the training days by more than ``margin`` of its range."""
    low, high = np.array(envelope.feature_low), np.array(envelope.feature_high)
    reach = margin * (high - low)
    # A feature that never changed has no range; what rounds to its value is inside.
    reach = np.maximum(reach, 1e-9 * np.maximum(np.abs(low), np.abs(high)))
    distance = np.maximum(low - features, features - high)
    outside = np.flatnonzero(~(distance <= reach))
    if not outside.size:
        return
    scale = np.maximum(high - low, 1e-300)
    worst = outside[np.argsort(-(distance / scale)[outside], kind="stable")][:_NAMED].tolist()
    named = "; ".join(
        f"{envelope.features[index]} is {features[index]:.5g}, seen {low[index]:.5g} to {high[index]:.5g}"
        for index in worst
    )
    yield Finding(
        reason=OUTSIDE_TRAINING,
        message=f"{outside.size} of {len(low)} features lie outside the training days: {named}",
    )


def history_findings(
    envelope: Envelope,
    columns: Mapping[str, NDArray[np.floating]],
    last_time: np.datetime64,
    *,
    now: datetime.datetime,
    max_age_hours: float,
) -> Iterator[Finding]:
    """Whether one history is too old, or ends in a value that does not move.

    Parameters
    ----------
    envelope : Envelope
    columns : mapping
        Column to (rows,) raw values.
    last_time : datetime64
        Start of the last row's step, UTC.
    now : datetime
        With a time zone.
    max_age_hours : float
        0: never too old.
    """
    wall = np.datetime64(now.astimezone(datetime.UTC).replace(tzinfo=None), "s")
    age = float((wall - last_time.astype("datetime64[s]")) / np.timedelta64(3600, "s"))
    if 0.0 < max_age_hours < age:
        yield Finding(
            reason=STALE_HISTORY,
            message=f"the last row of history is {age:.1f} h old, allowed are {max_age_hours:g} h",
        )
    for name, longest in zip(envelope.columns, envelope.longest_runs, strict=True):
        run = _last_run(columns[name])
        if run > _RUN_FACTOR * longest + _RUN_EXTRA:
            yield Finding(
                reason=STALE_HISTORY,
                message=f"{name} has stood at {columns[name][-1]:.5g} for the last {run} steps; on training "
                f"days it never did for more than {longest}",
            )


def scenario_findings(envelope: Envelope, paths: NDArray[np.floating]) -> Iterator[Finding]:
    """What is wrong with one context's scenarios (S, T, F)."""
    bad = int((~np.isfinite(paths)).sum())
    if bad:
        yield Finding(reason=UNREALISTIC, message=f"{bad} of {paths.size} entries are not finite")
        return
    for index, name in enumerate(envelope.series):
        values = paths[:, :, index]
        low, high = envelope.series_low[index], envelope.series_high[index]
        reach = _SERIES_MARGIN * (high - low)
        outside = (values < low - reach) | (values > high + reach)
        if outside.any():
            yield Finding(
                reason=UNREALISTIC,
                message=f"{name} reaches {values.min():.5g} to {values.max():.5g} in "
                f"{int(outside.any(axis=1).sum())} of {len(values)} scenarios; training days had {low:.5g} "
                f"to {high:.5g}",
            )
        if len(values) < _FEWEST_FOR_SPREAD:
            continue
        spread = float(values.std(axis=0, ddof=1).mean())
        least, most = (
            envelope.spread_low[index] / _SPREAD_FACTOR,
            envelope.spread_high[index] * _SPREAD_FACTOR,
        )
        if not least <= spread <= most:
            yield Finding(
                reason=UNREALISTIC,
                message=f"scenarios of {name} spread by {spread:.4g}; on training days between "
                f"{envelope.spread_low[index]:.4g} and {envelope.spread_high[index]:.4g}",
            )


def _last_run(values: NDArray[np.floating]) -> int:
    changed = np.flatnonzero(values[:-1] != values[-1])
    return len(values) - 1 - (int(changed[-1]) if changed.size else -1)
