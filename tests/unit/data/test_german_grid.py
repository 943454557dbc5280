"""The real hours, against the decisions that the module states, and its rules on small members."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.clock import local_times
from hedgecast.data.config import zone
from hedgecast.data.german_grid import NUM_HOURS, PIN, build

BERLIN = zone("Europe/Berlin", key="timezone")


def test_every_hour_of_four_years(german_table):
    assert len(german_table) == NUM_HOURS == (365 * 3 + 366) * 24
    local = local_times(german_table.times, BERLIN)
    assert local[0] == np.datetime64("2017-01-01T00:00")
    assert local[-1] == np.datetime64("2020-12-31T23:00")
    assert np.all(np.diff(german_table.times) == np.timedelta64(1, "h"))


def test_residual_load_is_total_less_wind_and_sun(german_table):
    columns = german_table.columns
    rest = columns["total_gw"] - columns["wind_gw"] - columns["solar_gw"]
    assert np.array_equal(columns["residual_load_gw"], rest)
    assert all(np.isfinite(values).all() for values in columns.values())
    assert 16 < rest.min() < rest.max() < 74


def test_report_counts_what_was_done(german_table):
    report = german_table.report
    assert report["rows_read"] == 140_256
    assert report["hours_kept"] == NUM_HOURS
    assert report["rows_dropped"] == 0
    assert report["wheel_sha256"] == PIN.sha256
    done = {
        name: (entry["quarter_hours"], entry["done"])
        for name, entry in report["missing_quarter_hours"].items()
    }
    assert done == {
        "Solar": (1, "interpolated"),
        "Wind Onshore": (3, "interpolated"),
        "Fossil Oil": (1344, "counted as 0"),
        "Fossil Coal-derived gas": (105_216, "counted as 0"),
        "Fossil Oil shale": (136_117, "counted as 0"),
        "Fossil Peat": (136_117, "counted as 0"),
        "Marine": (136_117, "counted as 0"),
    }
    assert report["negative_quarter_hours_set_to_zero"] == {"Hydro Pumped Storage": 18_357}


def test_sun_stands_highest_at_noon(german_table):
    """A shift by one hour, or a mix-up of summer and winter time, would move the middle of the day."""
    hour = (german_table.times - german_table.times.astype("datetime64[D]")) // np.timedelta64(1, "h")
    profile = np.bincount(hour, german_table.columns["solar_gw"]) / np.bincount(hour)
    middle = (profile * (np.arange(24) + 0.5)).sum() / profile.sum()
    # Solar noon in the middle of Germany, 10 degrees east, is at 11:20 UTC.
    assert middle == pytest.approx(11 + 20 / 60, abs=0.2)


def test_holidays_are_whole_local_days(german_table):
    days = local_times(german_table.times, BERLIN).astype("datetime64[D]")
    holidays = np.unique(days[german_table.columns["holiday"] == 1])
    assert len(holidays) == 4 * 9 + 1
    assert np.datetime64("2020-04-13") in holidays
    assert german_table.columns["holiday"][days == np.datetime64("2020-04-13")].all()


def member(times, **columns):
    sink = io.BytesIO()
    index = pa.array(times, pa.timestamp("ms", "Europe/Berlin"))
    pq.write_table(pa.table({**columns, "__index_level_0__": index}), sink)
    return sink.getvalue()


@pytest.fixture
def contents():
    """The four members with simple numbers; 2018's can be changed."""
    bounds = [f"{year - 1}-12-31T23:00" for year in range(2017, 2022)]
    result = {}
    for path, start, stop in zip(PIN.members, bounds[:-1], bounds[1:], strict=True):
        times = np.arange(np.datetime64(start), np.datetime64(stop), np.timedelta64(15, "m")).astype(
            "datetime64[ms]"
        )
        quarter = np.arange(len(times)) % 4
        result[path] = {
            "times": times,
            "Hydro Pumped Storage": np.where(quarter == 0, -400.0, 400.0),
            "Nuclear": 1000.0 + 4 * quarter,
            "Solar": np.full(len(times), 100.0),
            "Wind Onshore": np.full(len(times), 200.0),
            "Wind Offshore": np.full(len(times), 50.0),
        }
    return result


def members(contents):
    return {path: member(**columns) for path, columns in contents.items()}


def test_rules_in_closed_form(contents):
    second = contents[list(PIN.members)[1]]
    second["Fossil Oil"] = np.where(np.arange(len(second["times"])) < 8, np.nan, 80.0)
    second["Solar"][5:7] = np.nan
    second["Solar"][7:] = 130.0
    table = build(members(contents))
    first = 8760
    # Nuclear 1.006; storage 0, 400, 400, 400 gives 0.3; oil 0 where it is missing, then 0.08.
    assert table.columns["residual_load_gw"][0] == pytest.approx(1.306, abs=1e-12)
    assert table.columns["residual_load_gw"][first : first + 3] == pytest.approx(
        [1.306, 1.306, 1.386], abs=1e-12
    )
    assert table.columns["wind_gw"][0] == pytest.approx(0.25, abs=1e-12)
    # the line from 100 to 130 over two missing quarter hours: 100, 110, 120, 130
    assert table.columns["solar_gw"][first + 1] == pytest.approx(0.115, abs=1e-12)
    missing = table.report["missing_quarter_hours"]
    assert missing["Solar"] == {"quarter_hours": 2, "done": "interpolated", "longest_gap": 2}
    assert missing["Fossil Oil"]["quarter_hours"] == 8 + 2 * 35_040 + 35_136


@pytest.mark.parametrize(("column", "length"), [("Wind Onshore", 5), ("Nuclear", 1)])
def test_gap_without_a_rule(contents, column, length):
    contents[next(iter(PIN.members))][column][100 : 100 + length] = np.nan
    with pytest.raises(DataError, match=f"column '{column}': {length} quarter hours in a row are missing"):
        build(members(contents))


def test_missing_rows(contents):
    last = contents[list(PIN.members)[3]]
    for name in last:
        last[name] = last[name][:-4]
    with pytest.raises(DataError, match="35063 hours, must be 35064"):
        build(members(contents))
