"""What a store takes in: bounds on sizes, and no number that is not one.

Whatever passes is normalized: arrays are own copies in float64 and C order, times in UTC.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping

import numpy as np

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError, DataError, ShapeError
from hedgecast.outcomes.records import Arrays, Band, Covered, DecisionRecord, OutcomeRecord

# Sums of squares of a million such numbers are still finite.
_LARGEST = 1e140
_MOST_DIMS = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits(Config):
    """Bounds of one record."""

    max_text: int = 256
    """Characters of an id, a name or any other text."""
    max_arrays: int = 64
    """Arrays under one field (given, decision, bands, realized)."""
    max_numbers: int = 1_000_000
    """Numbers in one record, all arrays together."""
    max_levels: int = 32
    """Levels of a band."""

    def __post_init__(self) -> None:
        """Refuse what is not positive."""
        for name in ("max_text", "max_arrays", "max_numbers", "max_levels"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} = {value}: must be at least 1", key=name)


def admit_decision(record: DecisionRecord, limits: Limits) -> DecisionRecord:
    """``record`` checked and normalized.

    Raises
    ------
    DataError, ShapeError
        What is wrong, where (``field`` among the facts) and what the bound is.
    """
    _required(record.decision_id, "decision_id")
    _required(record.model, "model")
    for name in (
        "decision_id", "request_id", "principal", "model", "model_version", "program", "program_version",
        "fingerprint", "risk", "shadow_of",
    ):  # fmt: skip
        _text(getattr(record, name), name, limits)
    if not 0 <= record.seed < 2**63:
        raise DataError(f"seed = {record.seed}: must be in [0, 2**63)", field="seed")
    _number(record.expected_cost, "expected_cost")
    _number(record.expected_regret, "expected_regret")
    _count(record.bands, "bands", limits)
    admitted = dataclasses.replace(
        record,
        issued_at=_time(record.issued_at, "issued_at"),
        given=_arrays(record.given, "given", limits),
        decision=_arrays(record.decision, "decision", limits),
        cost=None if record.cost is None else _band(record.cost, "cost", limits),
        bands={name: _band(band, f"bands[{name!r}]", limits) for name, band in record.bands.items()},
    )
    if admitted.cost is not None and admitted.cost.quantiles.ndim != 1:
        raise ShapeError(
            f"cost.quantiles has shape {admitted.cost.quantiles.shape}: must be (L,)", field="cost.quantiles"
        )
    total = sum(array.size for array in (*admitted.given.values(), *admitted.decision.values()))
    _total(total + sum(band.quantiles.size for band in admitted.bands.values()), "decision", limits)
    return admitted


def admit_outcome(record: OutcomeRecord, decision: DecisionRecord, limits: Limits) -> OutcomeRecord:
    """``record`` checked against the decision it belongs to, and normalized.

    Raises
    ------
    DataError, ShapeError
        What is wrong, where (``field`` among the facts) and what the bound is.
    """
    _text(record.request_id, "request_id", limits)
    _text(record.principal, "principal", limits)
    _number(record.cost, "cost")
    _number(record.regret, "regret")
    if not (math.isnan(record.cost_level) or 0.0 < record.cost_level < 1.0):
        raise DataError(f"cost_level = {record.cost_level}: must be in (0, 1) or NaN", field="cost_level")
    realized = _arrays(record.realized, "realized", limits)
    if decision.bands:
        _same_shapes(realized, decision.bands)
    _count(record.covered, "covered", limits)
    for name, covered in record.covered.items():
        _covered(covered, f"covered[{name!r}]", limits)
    return dataclasses.replace(
        record, realized=realized, recorded_at=_time(record.recorded_at, "recorded_at")
    )


def _same_shapes(realized: Arrays, bands: Mapping[str, Band]) -> None:
    for name in realized:
        if name not in bands:
            raise DataError(
                f"realized[{name!r}]: the decision knows no such uncertain parameter, it has "
                f"{', '.join(sorted(bands))}",
                field=f"realized[{name!r}]",
            )
    for name, band in bands.items():
        if name not in realized:
            raise DataError(f"realized[{name!r}] is missing: give all or nothing", field="realized")
        if realized[name].shape != band.quantiles.shape[1:]:
            raise ShapeError(
                f"realized[{name!r}] has shape {realized[name].shape}: the decision was made for "
                f"{band.quantiles.shape[1:]}",
                field=f"realized[{name!r}]",
            )


def _band(band: Band, field: str, limits: Limits) -> Band:
    levels = _levels(band.levels, field, limits)
    quantiles = _array(band.quantiles, f"{field}.quantiles")
    if quantiles.ndim < 1 or quantiles.shape[0] != levels.size:
        raise ShapeError(
            f"{field}.quantiles has shape {quantiles.shape}: the first axis must hold {levels.size} levels",
            field=f"{field}.quantiles",
        )
    if np.any(np.diff(quantiles, axis=0) < 0):
        raise DataError(f"{field}.quantiles fall with the level: they must not", field=f"{field}.quantiles")
    return Band(
        levels=levels,
        quantiles=quantiles,
        expected=_shares(band.expected, levels.size, f"{field}.expected"),
    )


def _covered(covered: Covered, field: str, limits: Limits) -> None:
    levels = _levels(covered.levels, field, limits)
    _shares(covered.shares, levels.size, f"{field}.shares")
    _shares(covered.expected, levels.size, f"{field}.expected")
    if covered.num_points < 1:
        raise DataError(f"{field}.num_points = {covered.num_points}: must be at least 1", field=field)


def _levels(values: np.ndarray, field: str, limits: Limits) -> np.ndarray:
    levels = _array(values, f"{field}.levels")
    if levels.ndim != 1 or not 2 <= levels.size <= limits.max_levels:
        raise ShapeError(
            f"{field}.levels has shape {levels.shape}: must be (L,) with L from 2 to {limits.max_levels}",
            field=f"{field}.levels",
        )
    if np.any(np.diff(levels) <= 0) or levels[0] <= 0 or levels[-1] >= 1:
        raise DataError(f"{field}.levels must increase within (0, 1)", field=f"{field}.levels")
    return levels


def _shares(values: np.ndarray, count: int, field: str) -> np.ndarray:
    shares = _array(values, field)
    if shares.shape != (count,) or np.any(shares < 0) or np.any(shares > 1):
        raise DataError(f"{field} must hold {count} shares in [0, 1], shape {shares.shape}", field=field)
    return shares


def _arrays(arrays: Arrays, field: str, limits: Limits) -> dict[str, np.ndarray]:
    _count(arrays, field, limits)
    # Before the copies are made.
    _total(sum(np.size(values) for values in arrays.values()), field, limits)
    return {name: _array(values, f"{field}[{name!r}]") for name, values in arrays.items()}


def _count(items: Mapping[str, object], field: str, limits: Limits) -> None:
    if len(items) > limits.max_arrays:
        raise DataError(f"{field} holds {len(items)} arrays: at most {limits.max_arrays}", field=field)
    for name in items:
        _required(name, f"{field}: a name")
        _text(name, f"{field}: a name", limits)


def _array(values: np.ndarray, field: str) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind not in "iufb":
        raise DataError(f"{field} holds {found.dtype}: must be real numbers", field=field)
    if found.ndim > _MOST_DIMS:
        raise ShapeError(f"{field} has {found.ndim} axes: at most {_MOST_DIMS}", field=field)
    array = np.array(found, dtype=np.float64, order="C")
    # Written so that NaN fails it too.
    wrong = ~(np.abs(array) <= _LARGEST)
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), array.shape)
        raise DataError(
            f"{field}[{', '.join(map(str, place))}] is {array[place]}: must be finite, at most "
            f"{_LARGEST:.0e} in size ({int(wrong.sum())} of {array.size} numbers are not)",
            field=field,
        )
    return array


def _total(count: int, field: str, limits: Limits) -> None:
    if count > limits.max_numbers:
        raise DataError(f"{field} holds {count} numbers: at most {limits.max_numbers}", field=field)


def _number(value: float, field: str) -> None:
    if not abs(value) <= _LARGEST:
        raise DataError(f"{field} is {value}: must be finite, at most {_LARGEST:.0e} in size", field=field)


def _required(text: str, field: str) -> None:
    if not text:
        raise DataError(f"{field} is empty: it must not be", field=field)


def _text(text: str, field: str, limits: Limits) -> None:
    if len(text) > limits.max_text:
        raise DataError(f"{field} has {len(text)} characters: at most {limits.max_text}", field=field)
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise DataError(f"{field} holds half of a surrogate pair: it is no Unicode text", field=field)


def _time(time: datetime.datetime, field: str) -> datetime.datetime:
    if time.tzinfo is None:
        raise DataError(f"{field} = {time.isoformat()} has no time zone: give one", field=field)
    return time.astimezone(datetime.UTC)
