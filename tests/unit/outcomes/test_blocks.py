"""Arrays of any shape come back from Arrow's plain types."""

import numpy as np
import pyarrow as pa
import pytest

from hedgecast.outcomes.blocks import (
    ARRAYS,
    BANDS,
    COVERED,
    arrays_of,
    arrays_value,
    bands_of,
    bands_value,
    covered_of,
    covered_value,
)
from hedgecast.outcomes.records import band_of, covered_shares


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4)])
def test_an_array_of_any_shape_comes_back(shape) -> None:
    array = np.random.default_rng(1).normal(size=shape)
    found = arrays_of(pa.array([arrays_value({"a": array})], type=ARRAYS)[0])["a"]
    assert found.shape == shape
    assert np.array_equal(found, array)


def test_names_are_in_order_and_what_comes_back_is_a_copy() -> None:
    column = pa.array([arrays_value({"b": np.ones(2), "a": np.zeros(1)}), arrays_value({})], type=ARRAYS)
    found = arrays_of(column[0])
    assert list(found) == ["a", "b"]
    found["b"][:] = 7.0
    assert arrays_of(column[0])["b"].tolist() == [1.0, 1.0]
    assert arrays_of(column[1]) == {}


def test_bands_and_shares_come_back() -> None:
    rng = np.random.default_rng(2)
    band = band_of(rng.normal(size=(30, 4, 2)), np.array([0.1, 0.5, 0.9]))
    found = bands_of(pa.array([bands_value({"y": band})], type=BANDS)[0])["y"]
    for name in ("levels", "quantiles", "expected"):
        assert np.array_equal(getattr(found, name), getattr(band, name))
    covered = covered_shares(band, rng.normal(size=(4, 2)), name="y")
    again = covered_of(pa.array([covered_value({"y": covered})], type=COVERED)[0])["y"]
    for name in ("levels", "shares", "expected", "num_points"):
        assert np.array_equal(getattr(again, name), getattr(covered, name))
