"""Strict reading: one test per defect, each with what its message must say."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.tables import check_grid, read_table

ROWS = 96


@pytest.fixture
def rows():
    """Hourly rows from 2020-01-01 in UTC, as text."""
    start = np.datetime64("2020-01-01T00:00")
    return [
        {
            "time": f"{start + np.timedelta64(hour, 'h')}:00Z",
            "load": str(40 + hour % 24),
            "temperature": f"{hour / 8}",
            "note": "ok",
        }
        for hour in range(ROWS)
    ]


@pytest.fixture
def write(tmp_path):
    def write_csv(rows, name="load.csv"):
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write_csv


def refuse(path: Path, config, *words: str) -> DataError:
    with pytest.raises(DataError) as caught:
        read_table(path, config)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message, message
    assert message.isascii()
    return caught.value


def test_csv_reads_what_it_holds(rows, write, make_config):
    table = read_table(write(rows), make_config(units={"load": "GW"}))
    assert len(table) == ROWS
    assert table.times[0] == np.datetime64("2020-01-01T00:00")
    assert table.times.dtype == np.dtype("datetime64[ns]")
    assert np.array_equal(table.columns["load"], 40.0 + np.arange(ROWS) % 24)
    assert list(table.columns) == ["load", "temperature"]
    assert table.units == {"load": "GW"}
    assert table.report == {"rows_read": ROWS, "rows_kept": ROWS, "columns_unused": ["note"]}


def test_parquet_equals_csv(rows, write, tmp_path, make_config):
    from_csv = read_table(write(rows), make_config())
    path = tmp_path / "load.parquet"
    pq.write_table(
        pa.table({"time": pa.array(from_csv.times, pa.timestamp("ns", "UTC")), **from_csv.columns}), path
    )
    from_parquet = read_table(path, make_config())
    assert np.array_equal(from_parquet.times, from_csv.times)
    assert all(
        np.array_equal(from_parquet.columns[name], from_csv.columns[name]) for name in from_csv.columns
    )


def test_booleans_and_integers_become_numbers(tmp_path, make_config):
    times = np.datetime64("2020-01-01", "ns") + np.arange(ROWS) * np.timedelta64(1, "h")
    path = tmp_path / "load.parquet"
    holiday = np.arange(ROWS) % 2 == 0
    arrow = pa.table(
        {"time": pa.array(times, pa.timestamp("ms", "UTC")), "load": np.arange(ROWS), "holiday": holiday}
    )
    pq.write_table(arrow, path)
    table = read_table(path, make_config(known=["holiday"]))
    assert table.columns["load"].dtype == table.columns["holiday"].dtype == np.float64
    assert np.array_equal(table.columns["holiday"], holiday.astype(float))


def test_times_of_another_zone_are_the_same_instants(rows, write, make_config):
    utc = read_table(write(rows), make_config())
    for row in rows:
        moment = np.datetime64(row["time"][:-1]) - np.timedelta64(5, "h")
        row["time"] = f"{moment}-05:00"
    assert np.array_equal(read_table(write(rows), make_config()).times, utc.times)


def test_naive_times_are_those_of_the_zone(rows, write, make_config):
    for row in rows:
        row["time"] = row["time"].replace("T", " ").removesuffix(":00Z")
    table = read_table(write(rows), make_config())
    assert table.times[0] == np.datetime64("2019-12-31T23:00")


def test_naive_times_across_a_summer(tmp_path, write, make_config):
    """April to September has no change of clocks inside: every local time has one reading."""
    local = np.datetime64("2019-04-01T00:00") + np.arange(180 * 24) * np.timedelta64(1, "h")
    rows = [{"time": f"{time}", "load": i, "temperature": 0.5} for i, time in enumerate(local)]
    table = read_table(write(rows), make_config())
    assert np.array_equal(table.times, local - np.timedelta64(2, "h"))


def test_missing_file(tmp_path, make_config):
    refuse(tmp_path / "none.csv", make_config(), "no such file", "data.path")


def test_other_kind_of_file(tmp_path, make_config):
    path = tmp_path / "load.xlsx"
    path.write_bytes(b"x")
    refuse(path, make_config(), "ends in '.xlsx'", "give a .csv or .parquet file")


def test_damaged_parquet(tmp_path, make_config):
    path = tmp_path / "load.parquet"
    path.write_bytes(b"not parquet at all")
    refuse(path, make_config(), "cannot be read as parquet")


def test_empty_csv(tmp_path, make_config):
    path = tmp_path / "load.csv"
    path.write_text("")
    refuse(path, make_config(), "cannot be read as csv")


def test_header_without_rows(tmp_path, make_config):
    path = tmp_path / "load.csv"
    path.write_text("time,load,temperature\n")
    refuse(path, make_config(), "the file has no rows")


def test_unknown_column(rows, write, make_config):
    error = refuse(
        write(rows),
        make_config(targets=["lode"]),
        "no column 'lode'",
        "the file has time, load, temperature, note",
    )
    assert error.facts["column"] == "lode"


def test_column_named_twice(tmp_path, make_config):
    path = tmp_path / "load.csv"
    path.write_text("time,load,load,temperature\n2020-01-01T00:00:00Z,1,2,3\n")
    refuse(path, make_config(), "2 columns are called 'load'", "rename")


def test_missing_time(rows, write, make_config):
    rows[6]["time"] = ""
    error = refuse(write(rows), make_config(), "column 'time', row 7", "the time is missing (1 such rows)")
    assert error.facts["row"] == 7


def test_text_for_a_time(rows, write, make_config):
    rows[4]["time"] = "yesterday"
    refuse(
        write(rows),
        make_config(),
        "column 'time', row 5",
        "'yesterday' is not a time",
        "2020-01-31T14:00:00Z",
    )


def test_numbers_for_times(rows, write, make_config):
    for hour, row in enumerate(rows):
        row["time"] = str(hour)
    refuse(write(rows), make_config(), "column 'time'", "holds int64 where times are needed")


def test_offsets_in_some_rows_only(rows, write, make_config):
    rows[9]["time"] = rows[9]["time"].removesuffix("Z")
    refuse(write(rows), make_config(), "row 10", "differ in whether they have a UTC offset")


def test_time_outside_the_years_of_nanoseconds(rows, write, make_config):
    rows[-1]["time"] = "9999-12-31T00:00:00Z"
    refuse(write(rows), make_config(), "column 'time'", "outside the years 1678 to 2261")


def test_duplicate_time(rows, write, make_config):
    rows.insert(31, rows[30])
    error = refuse(
        write(rows), make_config(), "row 32", "2020-01-02 06:00:00 UTC stands twice", "keep one row"
    )
    assert error.facts["row"] == 32


def test_gap(rows, write, make_config):
    del rows[50:53]
    error = refuse(
        write(rows),
        make_config(),
        "row 51: time 2020-01-03 05:00:00 UTC follows 2020-01-03 01:00:00",
        "a gap of 3 steps of 60 min",
        "add the missing rows",
    )
    assert error.facts["row"] == 51


def test_row_between_steps(rows, write, make_config):
    rows.insert(11, {**rows[10], "time": "2020-01-01T10:15:00Z"})
    refuse(write(rows), make_config(), "row 12", "is 15 min after the row above", "take the row out")


def test_unsorted_rows(rows, write, make_config):
    rows[20], rows[21] = rows[21], rows[20]
    refuse(
        write(sorted(rows, key=lambda row: row["time"], reverse=True)),
        make_config(),
        "row 2",
        "sort the rows",
    )


def test_wrong_step(rows, write, make_config):
    refuse(write(rows), make_config(step="30min"), "most rows are 60 min apart, but the step is 30 min")


def test_step_off_by_less_than_a_second():
    times = np.datetime64("2020-01-01", "ns") + np.arange(5) * np.timedelta64(1, "h")
    times[3] += np.timedelta64(1, "ms")
    with pytest.raises(DataError, match="row 4"):
        check_grid(times, 60, "x")


@pytest.mark.parametrize(
    ("day", "words"),
    [
        ("2019-03-31", ["row 3: local time 2019-03-31 02:00:00 is skipped", "1 such rows"]),
        ("2019-10-27", ["row 3: local time 2019-10-27 02:00:00 occurs twice", "1 such rows"]),
    ],
)
def test_naive_time_that_the_clock_skips_or_repeats(day, words, write, make_config):
    local = np.datetime64(f"{day}T00:00") + np.arange(ROWS) * np.timedelta64(1, "h")
    rows = [{"time": f"{time}", "load": i, "temperature": 0} for i, time in enumerate(local)]
    refuse(write(rows), make_config(), *words, "Europe/Berlin", "give UTC times or times with their offset")


def test_zone_that_does_not_fit_the_grid(rows, write, make_config):
    refuse(
        write(rows),
        make_config(timezone="Asia/Kolkata"),
        "2020-01-01 00:00:00 UTC is 2020-01-01 05:30:00 in Asia/Kolkata",
        "correct data.timezone",
    )


@pytest.mark.parametrize("column", ["load", "temperature"])
@pytest.mark.parametrize(
    ("text", "found"), [("", "missing or NaN"), ("NaN", "missing or NaN"), ("inf", "inf"), ("-inf", "-inf")]
)
def test_value_that_is_not_finite(rows, write, make_config, column, text, found):
    rows[13][column] = rows[40][column] = text
    refuse(
        write(rows),
        make_config(),
        f"column '{column}', row 14 (2020-01-01 13:00:00 UTC): value is {found} (2 such values)",
        "fill it in the file",
    )


def test_column_without_any_value(rows, write, make_config):
    for row in rows:
        row["temperature"] = ""
    refuse(write(rows), make_config(), "column 'temperature', row 1", f"{ROWS} such values")


@pytest.mark.parametrize("text", ["12,5", "high", "7 GW"])
def test_text_in_a_numeric_column(rows, write, make_config, text):
    rows[17]["load"] = text
    refuse(
        write(rows),
        make_config(),
        "column 'load', row 18 (2020-01-01 17:00:00 UTC)",
        f"{text!r} is not a number",
    )


def test_dates_in_a_numeric_column(rows, write, make_config):
    for row in rows:
        row["load"] = "2020-01-01"
    refuse(write(rows), make_config(), "column 'load', row 1", "is not a number", "read as date32")


def test_constant_target(rows, write, make_config):
    for row in rows:
        row["load"] = "7.5"
    refuse(write(rows), make_config(), "target 'load' is 7.5 in all 96 rows")


def test_fewer_rows_than_a_window(rows, write, make_config):
    error = refuse(
        write(rows),
        make_config(history=168),
        "96 rows are fewer than one window of 192 (168 history + 24 horizon)",
    )
    assert error.facts["rows"] == 96
    assert error.facts["window"] == 192
