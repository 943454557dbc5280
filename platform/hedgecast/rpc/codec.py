"""Arrays, times and rows on the wire: numpy in, numpy out, strict on the way in.

Every refusal names the field by its path in the request (``known.columns[2].values[5]``) in the
message and in the fact ``field``, from which the service makes ``google.rpc.BadRequest``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.rpc.v1.rows_pb2 import Column, Rows
from hedgecast.rpc.v1.tensor_pb2 import Tensor

# numpy's datetime64[ns] ends in 2262; whole seconds keep clear of its edge.
_LAST_SECOND = 2**63 // 10**9 - 1
_MOST_AXES = 8
_TYPES: Mapping[Tensor.DataType.ValueType, np.dtype[Any]] = {
    Tensor.FLOAT64: np.dtype("<f8"),
    Tensor.FLOAT32: np.dtype("<f4"),
    Tensor.INT64: np.dtype("<i8"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class NamedRows:
    """Raw rows by column name on a grid of UTC times."""

    times: NDArray[np.datetime64]
    """(rows,) datetime64[ns], start of each step, strictly increasing."""
    columns: Mapping[str, NDArray[np.float64]]
    """Column name to (rows,) values."""

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return int(self.times.shape[0])


EMPTY_ROWS = NamedRows(times=np.empty(0, "datetime64[ns]"), columns={})


def encode_tensor(array: NDArray[np.generic]) -> Tensor:
    """A message with the entries of ``array``, little-endian, in C order.

    Raises
    ------
    ShapeError
        The type is not float64, float32 or int64, or an axis is empty.
    """
    data_type = next((key for key, dtype in _TYPES.items() if dtype == array.dtype), None)
    if data_type is None:
        raise ShapeError(f"type {array.dtype} cannot be sent: convert to float64, float32 or int64")
    if array.size == 0:
        raise ShapeError(f"an array of shape {array.shape} has no entries: leave it out", shape=array.shape)
    content = np.ascontiguousarray(array, _TYPES[data_type]).tobytes()
    return Tensor(shape=array.shape, data_type=data_type, data=content)


def decode_tensor(message: Tensor, *, field: str, most_entries: int) -> NDArray[np.generic]:
    """The array in ``message``: a view of its bytes, read only.

    Parameters
    ----------
    message : Tensor
        As it came.
    field : str
        Its path in the request.
    most_entries : int
        Limit on the number of entries, checked before anything is allocated.

    Raises
    ------
    ShapeError
        Unknown type, an axis under 1, too many entries or axes, bytes that do not fit the shape.
    DataError
        A floating entry is NaN or infinite.
    """
    dtype = _TYPES.get(message.data_type)
    if dtype is None:
        raise ShapeError(
            f"{field}.data_type is {message.data_type}: must be FLOAT64, FLOAT32 or INT64",
            field=f"{field}.data_type",
        )
    shape = tuple(message.shape)
    if len(shape) > _MOST_AXES or any(length < 1 for length in shape):
        raise ShapeError(
            f"{field}.shape is {list(shape[:_MOST_AXES])}{'...' if len(shape) > _MOST_AXES else ''}: "
            f"must have at most {_MOST_AXES} axes, each at least 1",
            field=f"{field}.shape",
        )
    # Python integers: a product over int64 axes must not wrap round.
    entries = math.prod(shape)
    if entries > most_entries:
        raise ShapeError(
            f"{field} has {entries} entries: at most {most_entries}",
            field=f"{field}.shape",
            limit=most_entries,
        )
    if len(message.data) != entries * dtype.itemsize:
        raise ShapeError(
            f"{field}.data has {len(message.data)} bytes: shape {list(shape)} of {dtype.name} needs "
            f"{entries * dtype.itemsize}",
            field=f"{field}.data",
        )
    array = np.frombuffer(message.data, dtype).reshape(shape)
    _require_finite(array.reshape(-1), field=f"{field}.data")
    return array


def encode_times(times: NDArray[np.datetime64]) -> list[Timestamp]:
    """One timestamp per entry of a datetime64 array, taken as UTC."""
    return [Timestamp(seconds=seconds, nanos=nanos) for seconds, nanos in _seconds_and_nanos(times)]


def _seconds_and_nanos(times: NDArray[np.datetime64]) -> Iterable[tuple[int, int]]:
    parts = np.divmod(times.astype("datetime64[ns]").astype(np.int64), 10**9)
    return zip(*(part.tolist() for part in parts), strict=True)


def decode_times(messages: Sequence[Timestamp], *, field: str) -> NDArray[np.datetime64]:
    """(len,) datetime64[ns], UTC.

    Raises
    ------
    DataError
        A timestamp outside the years 1678 to 2262, or with nanoseconds outside [0, 1e9).
    """
    values = np.empty(len(messages), np.int64)
    for index, message in enumerate(messages):
        if abs(message.seconds) > _LAST_SECOND or not 0 <= message.nanos < 10**9:
            raise DataError(
                f"{field}[{index}] is {message.seconds} s + {message.nanos} ns: must be a time between the "
                "years 1678 and 2262 with nanos in [0, 1e9)",
                field=f"{field}[{index}]",
            )
        values[index] = message.seconds * 10**9 + message.nanos
    return values.view("datetime64[ns]")


def encode_duration(seconds: float) -> Duration:
    """A duration, rounded to nanoseconds."""
    nanoseconds = round(seconds * 1e9)
    return Duration(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def decode_duration(message: Duration) -> float:
    """Seconds."""
    return message.seconds + message.nanos * 1e-9


def encode_rows(rows: NamedRows) -> Rows:
    """The rows as a message; columns keep their order."""
    message = Rows(columns=[Column(name=name, values=one.tolist()) for name, one in rows.columns.items()])
    # In place: the constructor would copy each of hundreds of timestamps.
    for seconds, nanos in _seconds_and_nanos(rows.times):
        message.row_times.add(seconds=seconds, nanos=nanos)
    return message


def decode_rows(message: Rows, *, field: str, most_entries: int) -> NamedRows:
    """The rows of ``message``, checked.

    Parameters
    ----------
    message : Rows
        As it came.
    field : str
        Its path in the request.
    most_entries : int
        Limit on rows times columns.

    Raises
    ------
    DataError
        Times that do not increase, an empty or repeated column name, a column whose length is not the
        number of rows, NaN or infinity.
    ShapeError
        Too many entries.
    """
    entries = len(message.row_times) * max(len(message.columns), 1)
    if entries > most_entries:
        raise ShapeError(
            f"{field} has {len(message.row_times)} rows x {len(message.columns)} columns: at most "
            f"{most_entries} entries",
            field=field,
            limit=most_entries,
        )
    times = decode_times(message.row_times, field=f"{field}.row_times")
    _require_increasing(times, field=f"{field}.row_times")
    return NamedRows(times=times, columns=_decode_columns(message.columns, len(times), field=field))


def _decode_columns(
    messages: Iterable[Column], num_rows: int, *, field: str
) -> dict[str, NDArray[np.float64]]:
    columns: dict[str, NDArray[np.float64]] = {}
    for index, column in enumerate(messages):
        where = f"{field}.columns[{index}]"
        if not column.name or column.name in columns:
            what = "is repeated" if column.name else "is empty"
            raise DataError(
                f"{where}.name {column.name!r} {what}: names must be unique", field=f"{where}.name"
            )
        if len(column.values) != num_rows:
            raise DataError(
                f"{where} ({column.name}) has {len(column.values)} values for {num_rows} rows: give one per "
                "row time",
                field=f"{where}.values",
            )
        values = np.fromiter(column.values, np.float64, count=num_rows)
        _require_finite(values, field=f"{where}.values", name=column.name)
        columns[column.name] = values
    return columns


def _require_finite(values: NDArray[np.generic], *, field: str, name: str = "") -> None:
    if values.dtype.kind != "f":
        return
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        column = f" ({name})" if name else ""
        raise DataError(
            f"{field}[{bad[0]}]{column} is {values[bad[0]]}: must be finite ({bad.size} such entries)",
            field=f"{field}[{bad[0]}]",
        )


def _require_increasing(times: NDArray[np.datetime64], *, field: str) -> None:
    steps = np.diff(times).astype(np.int64)
    bad = np.flatnonzero(steps <= 0)
    if bad.size:
        row = int(bad[0]) + 1
        raise DataError(
            f"{field}[{row}] is {times[row]} after {times[row - 1]}: row times must increase",
            field=f"{field}[{row}]",
        )
