from __future__ import annotations

import json

import numpy as np
import pytest

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.data.scaling import Standardizer


def test_closed_form():
    scaling = Standardizer.fit(np.array([[1.0, 10.0], [3.0, 10.0]]))
    assert scaling.mean.tolist() == [2.0, 10.0]
    assert scaling.scale.tolist() == [1.0, 1.0]  # a constant keeps its own unit
    assert scaling.transform(np.array([4.0, 10.5])).tolist() == [2.0, 0.5]


def test_constant_with_rounding_keeps_its_unit():
    values = np.full((1000, 1), 0.1) * 3e6
    values[::2] = np.nextafter(values[::2], np.inf)
    assert Standardizer.fit(values).scale[0] == 1.0


def test_training_days_have_mean_zero_and_spread_one():
    values = np.random.default_rng(1).normal(50.0, 8.0, size=(200, 24, 2))
    scaled = Standardizer.fit(values).transform(values)
    assert np.abs(scaled.mean(axis=0)).max() < 1e-12
    assert np.abs(scaled.std(axis=0) - 1).max() < 1e-12


def test_inverse_and_change_of_units():
    values = np.random.default_rng(2).normal(size=(50, 4))
    scaling = Standardizer.fit(values)
    assert np.allclose(scaling.inverse(scaling.transform(values)), values, rtol=0, atol=1e-14)
    in_mw = Standardizer.fit(1000 * values)
    assert np.allclose(in_mw.transform(1000 * values), scaling.transform(values), rtol=1e-12)


def test_groups_hold_the_small_spreads_up():
    """Spreads 4, 0.01 and 0: in one group the least scale is 5 % of 4; alone they keep theirs."""
    sign = np.array([[1.0], [-1.0]])
    values = sign * np.array([[4.0, 0.01, 0.0, 0.01]])
    scaling = Standardizer.fit(values, groups=["a", "a", "a", "b"])
    assert scaling.scale == pytest.approx([4.0, 0.2, 0.2, 0.01], rel=1e-12)
    assert Standardizer.fit(values).scale == pytest.approx([4.0, 0.01, 1.0, 0.01], rel=1e-12)


def test_json_keeps_every_bit():
    scaling = Standardizer.fit(np.random.default_rng(3).normal(size=(9, 3, 2)))
    again = Standardizer.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert np.array_equal(again.mean, scaling.mean)
    assert np.array_equal(again.scale, scaling.scale)


def test_no_training_day():
    with pytest.raises(DataError, match="no training day"):
        Standardizer.fit(np.empty((0, 3)))


def test_value_that_is_not_finite():
    with pytest.raises(
        DataError, match="row 1 of the values to scale is not finite: leave irregular days out"
    ):
        Standardizer.fit(np.array([[1.0], [np.nan]]))


def test_damaged_statistics():
    with pytest.raises(ShapeError, match="they must agree"):
        Standardizer(np.zeros(2), np.ones(3))
    with pytest.raises(DataError, match="scale finite and positive"):
        Standardizer(np.zeros(2), np.array([1.0, 0.0]))
