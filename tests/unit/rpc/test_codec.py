"""Round trips are exact; what cannot be used is refused with the field's path."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hedgecast.core.errors import DataError, HedgecastError, ShapeError
from hedgecast.rpc import codec
from hedgecast.rpc.v1.rows_pb2 import Column, Rows
from hedgecast.rpc.v1.tensor_pb2 import Tensor


def _decode(message: Tensor, most_entries: int = 1000) -> np.ndarray:
    return codec.decode_tensor(message, field="given[x]", most_entries=most_entries)


@given(
    npst.arrays(
        dtype=st.sampled_from(["f8", "f4", "i8", ">f8"]),
        shape=npst.array_shapes(min_dims=0, max_dims=4, max_side=5),
        elements={"min_value": -1000, "max_value": 1000},
    )
)
def test_a_tensor_comes_back_bit_for_bit(array: np.ndarray) -> None:
    if array.dtype.byteorder == ">":
        array = array.astype("<f8")
    back = _decode(codec.encode_tensor(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_the_bytes_are_little_endian_in_c_order() -> None:
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    message = codec.encode_tensor(array)
    assert message.data == np.arange(6.0).astype("<f8").tobytes()
    assert list(message.shape) == [2, 3]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Tensor(shape=[1], data=b"\0" * 8), "given[x].data_type"),
        (Tensor(shape=[1], data_type=9, data=b"\0" * 8), "given[x].data_type"),
        (Tensor(shape=[0], data_type=Tensor.FLOAT64), "given[x].shape"),
        (Tensor(shape=[-1, -1], data_type=Tensor.FLOAT64, data=b"\0" * 8), "given[x].shape"),
        (Tensor(shape=[1] * 9, data_type=Tensor.FLOAT64, data=b"\0" * 8), "given[x].shape"),
        (Tensor(shape=[2**62, 4], data_type=Tensor.FLOAT64), "given[x].shape"),
        (Tensor(shape=[1001], data_type=Tensor.FLOAT32, data=b"\0" * 4004), "given[x].shape"),
        (Tensor(shape=[2], data_type=Tensor.FLOAT64, data=b"\0" * 15), "given[x].data"),
        (
            Tensor(shape=[2], data_type=Tensor.FLOAT64, data=np.array([1, np.nan]).tobytes()),
            "given[x].data[1]",
        ),
        (Tensor(shape=[1], data_type=Tensor.FLOAT64, data=np.array([np.inf]).tobytes()), "given[x].data[0]"),
    ],
)
def test_a_bad_tensor_is_refused(message: Tensor, field: str) -> None:
    with pytest.raises((ShapeError, DataError)) as caught:
        _decode(message)
    assert caught.value.facts["field"] == field


@pytest.mark.parametrize("array", [np.zeros(0), np.zeros(1, np.complex128), np.array(["a"])])
def test_what_cannot_be_sent_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ShapeError):
        codec.encode_tensor(array)


@given(st.lists(st.integers(-(2**62), 2**62), max_size=5))
def test_times_come_back_to_the_nanosecond(nanoseconds: list[int]) -> None:
    times = np.array(nanoseconds, "datetime64[ns]")
    back = codec.decode_times(codec.encode_times(times), field="t")
    np.testing.assert_array_equal(back, times)


@pytest.mark.parametrize("message", [Timestamp(seconds=2**62), Timestamp(nanos=-1), Timestamp(nanos=10**9)])
def test_times_outside_the_calendar_are_refused(message: Timestamp) -> None:
    with pytest.raises(DataError, match=r"t\[1\]"):
        codec.decode_times([Timestamp(), message], field="t")


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.25, 12345.678])
def test_durations_come_back(seconds: float) -> None:
    assert codec.decode_duration(codec.encode_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


def _times(count: int) -> np.ndarray:
    return np.datetime64("2020-03-29T00:00", "ns") + np.arange(count) * np.timedelta64(1, "h")


def test_rows_come_back() -> None:
    rows = codec.NamedRows(times=_times(3), columns={"b": np.array([1.0, 2, 3]), "a": np.zeros(3)})
    back = codec.decode_rows(codec.encode_rows(rows), field="history", most_entries=6)
    np.testing.assert_array_equal(back.times, rows.times)
    assert list(back.columns) == ["b", "a"]
    np.testing.assert_array_equal(back.columns["b"], [1, 2, 3])
    empty = codec.decode_rows(Rows(), field="known", most_entries=0)
    assert empty.num_rows == 0


def _message(times: np.ndarray, *columns: Column) -> Rows:
    return Rows(row_times=codec.encode_times(times), columns=columns)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (_message(_times(2)[::-1], Column(name="a", values=[1, 2])), "h.row_times[1]"),
        (_message(_times(2)[[0, 0]], Column(name="a", values=[1, 2])), "h.row_times[1]"),
        (_message(_times(2), Column(name="", values=[1, 2])), "h.columns[0].name"),
        (
            _message(_times(1), Column(name="a", values=[1]), Column(name="a", values=[1])),
            "h.columns[1].name",
        ),
        (_message(_times(2), Column(name="a", values=[1])), "h.columns[0].values"),
        (_message(_times(2), Column(name="a", values=[1, np.nan])), "h.columns[0].values[1]"),
        (_message(_times(2), Column(name="a", values=[-np.inf, 1])), "h.columns[0].values[0]"),
        (_message(_times(11), Column(name="a", values=range(11))), "h"),
    ],
)
def test_bad_rows_are_refused(message: Rows, field: str) -> None:
    with pytest.raises(HedgecastError) as caught:
        codec.decode_rows(message, field="h", most_entries=10)
    assert caught.value.facts["field"] == field


def test_hostile_bytes_end_in_an_error_of_ours() -> None:
    """Random tensors and rows: decoded or refused by a `HedgecastError`, nothing else."""
    draws = np.random.default_rng(5)
    refused = 0
    for _ in range(2000):
        content = draws.integers(0, 256, draws.integers(0, 60), np.uint8).tobytes()
        shape = draws.choice([-(2**63), -1, 0, 1, 2, 7, 2**31, 2**63 - 1], draws.integers(0, 4)).tolist()
        message = Tensor(shape=shape, data_type=int(draws.integers(0, 6)), data=content)
        try:
            assert np.isfinite(_decode(message)).all()
        except HedgecastError:
            refused += 1
    assert refused > 1900
