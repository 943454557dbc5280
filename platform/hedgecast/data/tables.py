"""A checked, regular, sorted table on UTC times, and the strict reading of CSV and Parquet."""

from __future__ import annotations

import dataclasses
import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from hedgecast.core.errors import ConfigError, DataError
from hedgecast.data.clock import local_times, show, utc_offsets
from hedgecast.data.config import DataConfig, zone

_NANOSECONDS_PER_MINUTE = 60_000_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesTable:
    """Named series on one regular grid of UTC times, without a gap."""

    times: np.ndarray
    """(N,) datetime64[ns], UTC, start of each step; strictly increasing by ``step_minutes``."""
    columns: dict[str, np.ndarray]
    """(N,) float64 by name, all finite."""
    units: dict[str, str]
    """Unit by column; a column without one is missing here."""
    timezone: str
    """IANA name of the zone whose wall clock makes the days."""
    step_minutes: int
    """Length of a step."""
    source: str
    """File or dataset, for messages."""
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What reading counted: rows read and kept, columns not used, values filled (by the dataset's rules)."""

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, start: int, stop: int) -> SeriesTable:
        """Rows ``start`` to ``stop`` (exclusive)."""
        return dataclasses.replace(
            self,
            times=self.times[start:stop],
            columns={name: values[start:stop] for name, values in self.columns.items()},
        )


def read_table(path: Path | str, config: DataConfig) -> SeriesTable:
    """The columns that ``config`` names, from a CSV or Parquet file.

    Parameters
    ----------
    path : Path or str
        ``.csv`` or ``.parquet``.
    config : DataConfig
        Names the timestamp and the columns; its zone is that of naive times.

    Raises
    ------
    DataError
        The first defect found: file, column, row (counted from 1, without the header) or time, what was
        found and what to do. Nothing is dropped, sorted or filled.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file: correct data.path (now from {Path.cwd()})", file=str(path))
    table = table_of(read_arrow(path, str(path)), config, str(path))
    check_table(table, config)
    return table


def table_of(raw: pa.Table, config: DataConfig, source: str) -> SeriesTable:
    """The columns that ``config`` names, as they stand in ``raw``: neither times nor values are checked yet.

    Parameters
    ----------
    raw : pyarrow.Table
    config : DataConfig
        As for `read_table`.
    source : str
        For messages.

    Raises
    ------
    DataError
        A column is missing, stands twice or is of the wrong type, a time is missing, or there are no rows.
    """
    if config.timestamp is None:
        raise ConfigError("missing key 'data.timestamp': a file needs it", key="data.timestamp")
    missing = [name for name in (config.timestamp, *config.columns) if name not in raw.column_names]
    if missing:
        raise DataError(
            f"{source}: no column {missing[0]!r}: the file has {', '.join(raw.column_names)}",
            file=source,
            column=missing[0],
        )
    for name in (config.timestamp, *config.columns):
        if raw.column_names.count(name) > 1:
            raise DataError(
                f"{source}: {raw.column_names.count(name)} columns are called {name!r}: rename all but one",
                file=source,
                column=name,
            )
    if not raw.num_rows:
        raise DataError(f"{source}: the file has no rows: give at least one window", file=source)
    times = _utc_times(raw[config.timestamp], config, source)
    unused = [name for name in raw.column_names if name not in (config.timestamp, *config.columns)]
    return SeriesTable(
        times=times,
        columns={name: _numbers(raw[name], name, times, source) for name in config.columns},
        units=dict(config.units),
        timezone=config.timezone,
        step_minutes=config.step_minutes,
        source=source,
        report={"rows_read": raw.num_rows, "rows_kept": raw.num_rows, "columns_unused": unused},
    )


def check_table(table: SeriesTable, config: DataConfig) -> None:
    """Nothing, if the table serves ``config``.

    Raises
    ------
    DataError
        An unknown column, times off the grid, a value that is not finite, a constant target, or fewer rows
        than one window.
    """
    for name in config.columns:
        if name not in table.columns:
            raise DataError(
                f"{table.source}: no column {name!r}: it has {', '.join(table.columns)}",
                file=table.source,
                column=name,
            )
    check_grid(table.times, config.step_minutes, table.source)
    for name in config.columns:
        check_finite(table.columns[name], name, table.times, table.source)
    for name in config.targets:
        values = table.columns[name]
        if len(values) > 1 and np.all(values == values[0]):
            raise DataError(
                f"{table.source}: target {name!r} is {values[0]:g} in all {len(values)} rows: "
                "a constant has nothing to decide on; name another column",
                file=table.source,
                column=name,
            )
    check_wall_grid(table, config)
    window = config.history + config.horizon
    if len(table) < window:
        raise DataError(
            f"{table.source}: {len(table)} rows are fewer than one window of {window} "
            f"({config.history} history + {config.horizon} horizon): give more rows or a shorter history",
            file=table.source,
            rows=len(table),
            window=window,
        )


def check_grid(times: np.ndarray, step_minutes: int, source: str) -> None:
    """Nothing, if the UTC ``times`` rise by exactly one step.

    Raises
    ------
    DataError
        Duplicate or unsorted times, another step, or a gap.
    """
    steps = np.diff(times.astype("datetime64[ns]")).astype(np.int64)
    wanted = step_minutes * _NANOSECONDS_PER_MINUTE
    wrong = np.flatnonzero(steps != wanted)
    if not len(wrong):
        return
    row = int(wrong[0]) + 1
    step, facts = int(steps[row - 1]), {"file": source, "row": row + 1, "time": show(times[row])}
    where = f"{source}, row {row + 1}: time {show(times[row])} UTC"
    if step == 0:
        raise DataError(f"{where} stands twice: keep one row per time", **facts)
    if step < 0:
        raise DataError(f"{where} is before that of the row above: sort the rows by time", **facts)
    values, counts = np.unique(steps, return_counts=True)
    usual = int(values[np.argmax(counts)])
    if usual != wanted:
        raise DataError(
            f"{source}: most rows are {usual / _NANOSECONDS_PER_MINUTE:g} min apart, but the step is "
            f"{step_minutes} min: correct the step or resample the rows",
            **facts,
        )
    if step % wanted:
        raise DataError(
            f"{where} is {step / _NANOSECONDS_PER_MINUTE:g} min after the row above, no multiple of the "
            f"step of {step_minutes} min: take the row out or correct its time",
            **facts,
        )
    raise DataError(
        f"{where} follows {show(times[row - 1])}: a gap of {step // wanted - 1} steps of {step_minutes} min "
        f"(of {len(wrong)} irregular places): add the missing rows",
        **facts,
    )


def check_finite(values: np.ndarray, name: str, times: np.ndarray, source: str) -> None:
    """Nothing, if every value is finite.

    Raises
    ------
    DataError
        NaN, a missing value or infinity, with its row and time, and how many there are.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row = int(bad[0])
        found = "missing or NaN" if math.isnan(values[row]) else f"{values[row]:g}"
        raise DataError(
            f"{source}, column {name!r}, row {row + 1} ({show(times[row])} UTC): value is {found} "
            f"({len(bad)} such values): fill it in the file or leave the column out",
            file=source,
            column=name,
            row=row + 1,
            count=len(bad),
        )


def check_wall_grid(table: SeriesTable, config: DataConfig) -> None:
    """Nothing, if every time is a whole number of steps from the issue time, on the wall clock.

    Raises
    ------
    DataError
        One is not.
    """
    local = local_times(table.times, zone(config.timezone, key="data.timezone"))
    seconds = (local - local.astype("datetime64[D]")).astype(np.int64)
    off = np.flatnonzero((seconds - 60 * config.issue_minutes) % (60 * config.step_minutes))
    if len(off):
        raise DataError(
            f"{table.source}, row {off[0] + 1}: {show(table.times[off[0]])} UTC is "
            f"{show(local[off[0]])} in {config.timezone}, not a whole number of {config.step} steps from "
            f"issue_time {config.issue_time}: correct data.timezone, data.issue_time or the times",
            file=table.source,
            row=int(off[0]) + 1,
        )


def read_arrow(file: Any, source: str) -> pa.Table:
    """All columns of a CSV or Parquet file, told apart by the ending of ``source``.

    Parameters
    ----------
    file : Path or pyarrow.NativeFile
    source : str
        Its name, for messages too.

    Raises
    ------
    DataError
        Another ending, or the file cannot be read.
    """
    suffix = Path(source).suffix.lower()
    try:
        if suffix == ".parquet":
            return pa.parquet.read_table(file)
        if suffix == ".csv":
            options = pa.csv.ConvertOptions(strings_can_be_null=True)
            return pa.csv.read_csv(file, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{source}: cannot be read as {suffix[1:]}: {error}", file=source) from error
    raise DataError(f"{source}: ends in {suffix!r}: give a .csv or .parquet file", file=source)


def _utc_times(column: pa.ChunkedArray, config: DataConfig, source: str) -> np.ndarray:
    name = config.timestamp
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py() + 1
        raise DataError(
            f"{source}, column {name!r}, row {row}: the time is missing ({column.null_count} such rows): "
            "every row needs its time",
            file=source,
            column=name,
            row=row,
        )
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parse_times(column, name, source)
    elif pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(column.type):
        raise DataError(
            f"{source}, column {name!r}: holds {column.type} where times are needed: "
            "write them as 2020-01-31T14:00:00Z or as a timestamp type",
            file=source,
            column=name,
        )
    try:
        nanoseconds = column.cast(pa.timestamp("ns", column.type.tz))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{source}, column {name!r}: a time lies outside the years 1678 to 2261: {error}",
            file=source,
            column=name,
        ) from error
    times: np.ndarray = nanoseconds.to_numpy().astype("datetime64[ns]")
    return times if column.type.tz else _from_local(times, config, source)


def _parse_times(column: pa.ChunkedArray, name: str | None, source: str) -> pa.ChunkedArray:
    parsed = []
    for row, text in enumerate(column.to_pylist()):
        try:
            parsed.append(datetime.datetime.fromisoformat(text))
        except ValueError as error:
            raise DataError(
                f"{source}, column {name!r}, row {row + 1}: {text!r} is not a time: "
                "write 2020-01-31T14:00:00Z or 2020-01-31 14:00",
                file=source,
                column=name,
                row=row + 1,
            ) from error
    aware = [time.tzinfo is not None for time in parsed]
    if any(aware) and not all(aware):
        row = aware.index(not aware[0])
        raise DataError(
            f"{source}, column {name!r}, row {row + 1}: {column[row].as_py()!r} and the rows above differ in "
            "whether they have a UTC offset: give all of them one, or none",
            file=source,
            column=name,
            row=row + 1,
        )
    if aware[0]:
        utc = [time.astimezone(datetime.UTC) for time in parsed]
        return pa.chunked_array([pa.array(utc, pa.timestamp("us", "UTC"))])
    return pa.chunked_array([pa.array(parsed, pa.timestamp("us"))])


def _from_local(local: np.ndarray, config: DataConfig, source: str) -> np.ndarray:
    """UTC of naive local times; a time that does not exist or occurs twice is refused.

    A local time is read with the offset in force 36 h before and the one 36 h after. Away from a change of
    clocks both give one instant; a skipped time contradicts both, a repeated one agrees with both.
    """
    tz = zone(config.timezone, key="data.timezone")
    readings = []
    for shift in (np.timedelta64(-36, "h"), np.timedelta64(36, "h")):
        utc = local - utc_offsets(local + shift, tz)
        readings.append((utc, utc + utc_offsets(utc, tz) == local))
    (before, before_fits), (after, after_fits) = readings
    skipped = ~before_fits & ~after_fits
    repeated = before_fits & after_fits & (before != after)
    for bad, found in ((skipped, "is skipped"), (repeated, "occurs twice")):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{source}, column {config.timestamp!r}, row {row + 1}: local time {show(local[row])} "
                f"{found} when clocks change in {config.timezone} ({int(bad.sum())} such rows): give UTC "
                "times or times with their offset, or correct data.timezone",
                file=source,
                column=config.timestamp,
                row=row + 1,
            )
    utc_times: np.ndarray = np.where(before_fits, before, after)
    return utc_times


def _numbers(column: pa.ChunkedArray, name: str, times: np.ndarray, source: str) -> np.ndarray:
    """(N,) float64; missing values become NaN, which ``check_finite`` refuses."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(times), np.nan)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        _refuse_text(column, name, times, source)
    values: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    return values


def _refuse_text(column: pa.ChunkedArray, name: str, times: np.ndarray, source: str) -> None:
    """Raise at the first value that is no number."""
    values = column.to_pylist()
    row = next((row for row, value in enumerate(values) if not _is_number(value)), 0)
    raise DataError(
        f"{source}, column {name!r}, row {row + 1} ({show(times[row])} UTC): {values[row]!r} is not a "
        f"number (the column is read as {column.type}): write numbers, with a point and without a unit",
        file=source,
        column=name,
        row=row + 1,
    )


def _is_number(value: object) -> bool:
    try:
        float(value if isinstance(value, str) else "nan")
    except ValueError:
        return False
    return value is None or isinstance(value, str)
