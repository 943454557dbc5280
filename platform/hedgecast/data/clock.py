"""Wall clocks: UTC instants, local times, and the days on which clocks change."""

from __future__ import annotations

import datetime
import zoneinfo

import numpy as np

from hedgecast.core.errors import DataError

_DAY = np.timedelta64(1, "D")
_MINUTE = datetime.timedelta(minutes=1)


def utc_offsets(times: np.ndarray, zone: zoneinfo.ZoneInfo) -> np.ndarray:
    """(N,) timedelta64[s]: offset of the wall clock from UTC at each of the UTC ``times``.

    Notes
    -----
    The zone is asked once per UTC day; only days at whose ends the offsets differ are asked per time.
    """
    offsets = np.empty(len(times), dtype="timedelta64[s]")
    if not len(times):
        return offsets
    days = times.astype("datetime64[D]")
    edges = np.arange(days.min(), days.max() + 2 * _DAY)
    at_edges = np.array([_offset(edge, zone) for edge in edges], dtype="timedelta64[s]")
    position = (days - edges[0]).astype(np.int64)
    offsets[:] = at_edges[position]
    for index in np.flatnonzero(at_edges[position] != at_edges[position + 1]):
        offsets[index] = _offset(times[index], zone)
    return offsets


def local_times(times: np.ndarray, zone: zoneinfo.ZoneInfo) -> np.ndarray:
    """(N,) datetime64[s]: what the wall clock shows at each of the UTC ``times``."""
    local: np.ndarray = times.astype("datetime64[s]") + utc_offsets(times, zone)
    return local


def daylight_saving(times: np.ndarray, zone: zoneinfo.ZoneInfo) -> np.ndarray:
    """(N,) bool: whether daylight saving is in force at each UTC time."""
    return np.array([bool(_aware(time).astimezone(zone).dst()) for time in times], dtype=bool)


def first_instant(wall: np.datetime64, zone: zoneinfo.ZoneInfo) -> np.datetime64:
    """The first UTC instant, datetime64[s], at which the wall clock shows ``wall`` or later.

    A skipped ``wall`` gives the moment at which the clock jumps over it; of a repeated one, the first.
    """
    naive = _datetime(wall)
    instant = naive.replace(tzinfo=zone).astimezone(datetime.UTC)
    while (instant - _MINUTE).astimezone(zone).replace(tzinfo=None) >= naive:
        instant -= _MINUTE
    return np.datetime64(instant.replace(tzinfo=None), "s")


def period_start(wall: np.datetime64, zone: zoneinfo.ZoneInfo) -> np.datetime64:
    """The instant of ``first_instant``, of a time before and after which the clock agrees.

    Raises
    ------
    DataError
        The clock is set back past ``wall`` after it first shows it: nothing then tells the steps
        before ``wall`` from those after.
    """
    naive = _datetime(wall)
    last = naive.replace(tzinfo=zone, fold=1).astimezone(datetime.UTC)
    first = first_instant(wall, zone)
    if np.datetime64(last.replace(tzinfo=None), "s") > first:
        before = (last - _MINUTE).astimezone(zone).replace(tzinfo=None)
        if before < naive:
            raise DataError(
                f"{naive:%Y-%m-%d %H:%M} occurs twice in {zone.key}, where clocks are set back: "
                "choose another issue_time or horizon, whose ends lie outside the repeated hour",
                time=str(naive),
            )
    return first


def show(time: np.datetime64) -> str:
    """A time as messages write it, to the second."""
    return str(time.astype("datetime64[s]")).replace("T", " ")


def _offset(time: np.datetime64, zone: zoneinfo.ZoneInfo) -> datetime.timedelta:
    offset = _aware(time).astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _aware(time: np.datetime64) -> datetime.datetime:
    return _datetime(time).replace(tzinfo=datetime.UTC)


def _datetime(time: np.datetime64) -> datetime.datetime:
    value = time.astype("datetime64[s]").astype(object)
    assert isinstance(value, datetime.datetime)
    return value
