"""Arrays by name as Arrow columns, and back.

One value of such a column is a list of (name, shape, values): plain Arrow types that Parquet and its readers
know, for arrays whose names and shapes differ from record to record.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from hedgecast.outcomes.records import Arrays, Band, Covered

_NUMBERS = pa.list_(pa.float64())
_SHAPE = pa.list_(pa.int32())

ARRAYS = pa.list_(pa.struct([("name", pa.string()), ("shape", _SHAPE), ("values", _NUMBERS)]))
"""Values in C order."""

BANDS = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            ("levels", _NUMBERS),
            ("shape", _SHAPE),
            ("quantiles", _NUMBERS),
            ("expected", _NUMBERS),
        ]
    )
)
"""``shape`` is that of the quantity; ``quantiles`` hold one such array a level."""

COVERED = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            ("levels", _NUMBERS),
            ("shares", _NUMBERS),
            ("expected", _NUMBERS),
            ("num_points", pa.int64()),
        ]
    )
)


def arrays_value(arrays: Arrays) -> list[dict[str, object]]:
    """What Arrow takes for a value of type ``ARRAYS``; names in order."""
    return [
        {"name": name, "shape": list(arrays[name].shape), "values": arrays[name].reshape(-1)}
        for name in sorted(arrays)
    ]


def bands_value(bands: Mapping[str, Band]) -> list[dict[str, object]]:
    """What Arrow takes for a value of type ``BANDS``; names in order."""
    return [
        {
            "name": name,
            "levels": bands[name].levels,
            "shape": list(bands[name].quantiles.shape[1:]),
            "quantiles": bands[name].quantiles.reshape(-1),
            "expected": bands[name].expected,
        }
        for name in sorted(bands)
    ]


def covered_value(covered: Mapping[str, Covered]) -> list[dict[str, object]]:
    """What Arrow takes for a value of type ``COVERED``; names in order."""
    return [
        {
            "name": name,
            "levels": covered[name].levels,
            "shares": covered[name].shares,
            "expected": covered[name].expected,
            "num_points": covered[name].num_points,
        }
        for name in sorted(covered)
    ]


def arrays_of(scalar: pa.Scalar) -> dict[str, np.ndarray]:
    """The arrays of a value of type ``ARRAYS``."""
    return {item["name"].as_py(): _numbers(item["values"]).reshape(item["shape"].as_py()) for item in scalar}


def bands_of(scalar: pa.Scalar) -> dict[str, Band]:
    """The bands of a value of type ``BANDS``."""
    bands = {}
    for item in scalar:
        levels = _numbers(item["levels"])
        quantiles = _numbers(item["quantiles"]).reshape(levels.size, *item["shape"].as_py())
        bands[item["name"].as_py()] = Band(
            levels=levels, quantiles=quantiles, expected=_numbers(item["expected"])
        )
    return bands


def covered_of(scalar: pa.Scalar) -> dict[str, Covered]:
    """The shares of a value of type ``COVERED``."""
    return {
        item["name"].as_py(): Covered(
            levels=_numbers(item["levels"]),
            shares=_numbers(item["shares"]),
            expected=_numbers(item["expected"]),
            num_points=item["num_points"].as_py(),
        )
        for item in scalar
    }


def _numbers(scalar: pa.Scalar) -> np.ndarray:
    # A copy: a view would keep the whole batch alive.
    return np.array(scalar.values.to_numpy(zero_copy_only=False), dtype=np.float64)
