"""Rows that a planner keeps in a CSV or Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from hedgecast.core.errors import DataError
from hedgecast.rpc.codec import NamedRows


def rows_from_file(path: Path, timestamp: str, columns: Sequence[str]) -> NamedRows:
    """The named columns of a file as raw rows; the service checks gaps, steps and finiteness.

    Parameters
    ----------
    path : Path
        ``.csv`` or ``.parquet``.
    timestamp : str
        Time column: with an offset, or UTC where it has none.
    columns : sequence of str
        Numeric columns wanted; others are not sent.

    Raises
    ------
    DataError
        No such file, another ending, a column that is missing, is no time or is no number.
    """
    table = _read(path)
    for name in (timestamp, *columns):
        if name not in table.column_names:
            raise DataError(
                f"{path} has no column {name!r}: it has {', '.join(table.column_names)}; the model needs "
                f"{', '.join(columns)} and a time column (--timestamp)",
                file=str(path),
                column=name,
            )
    return NamedRows(
        times=_times(table.column(timestamp), path, timestamp),
        columns={name: _numbers(table.column(name), path, name) for name in columns},
    )


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path}: no such file", file=str(path))
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read: {error}", file=str(path)) from error
    raise DataError(f"{path}: its name must end in .csv or .parquet", file=str(path))


def _times(column: pa.ChunkedArray, path: Path, name: str) -> np.ndarray:
    try:
        if pa.types.is_string(column.type):
            column = pc.strptime(column, format="%Y-%m-%dT%H:%M:%SZ", unit="s")
        times = column.cast(
            pa.timestamp("ns", column.type.tz if pa.types.is_timestamp(column.type) else None)
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{path}, column {name!r} is no time: write 2020-01-31 23:00:00 (UTC) or 2020-01-31T23:00:00Z",
            file=str(path),
            column=name,
        ) from error
    return np.asarray(times.to_numpy(), dtype="datetime64[ns]")


def _numbers(column: pa.ChunkedArray, path: Path, name: str) -> np.ndarray:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{path}, column {name!r} holds {kind}, not numbers", file=str(path), column=name)
    # Through float64 whatever the source; an empty cell becomes NaN, which the service refuses by time.
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
