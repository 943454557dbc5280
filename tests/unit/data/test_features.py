from __future__ import annotations

import json

import numpy as np
import pytest

from hedgecast.core.errors import ConfigError, DataError
from hedgecast.data.features import features
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.windows import build_windows


@pytest.fixture
def made(make_config, make_table):
    """Windows of ten days after a week of history from 2019-06-01, and their features by name."""

    def make(**changes):
        days = np.arange(17 * 24) // 24
        table = make_table("2019-05-31T22:00", 17 * 24, holiday=(days == 9).astype(float))
        values = {"history": 168, "known": ["temperature", "holiday"], **changes}
        config = make_config(**values)
        windows = build_windows(table, FeatureSchema.from_table(config, table))
        block = features(windows)
        assert block.shape == (len(windows), len(windows.schema.names))
        assert block.dtype == np.float64
        return windows, {name: block[:, column] for column, name in enumerate(windows.schema.names)}

    return make


def test_names_are_unique(made):
    windows, _ = made()
    assert len(set(windows.schema.names)) == len(windows.schema.names)
    assert len(windows.schema.groups) == len(windows.schema.names)


def test_lags_and_means_in_closed_form(made):
    """The target is its row number, so each lag is a known number."""
    windows, value = made()
    assert windows.days[0] == np.datetime64("2019-06-08")
    start = 7 * 24.0
    assert value["load.back1[-1]"][0] == start - 1
    assert value["load.back1[-24]"][0] == start - 24
    assert value["load.back7[0]"][0] == 0.0
    assert value["load.back7[23]"][0] == 23.0
    assert value["load.mean_back1"][0] == start - 12.5
    assert value["load.mean_back7"][0] == 11.5
    assert np.array_equal(value["temperature[5]"], windows.known[:, 5, 0])


def test_a_known_column_constant_within_days_gives_single_values(made):
    windows, value = made()
    assert windows.schema.daily == ("holiday",)
    assert "holiday[0]" not in value
    assert windows.days[value["holiday"] == 1].astype(str).tolist() == ["2019-06-10"]
    assert windows.days[value["holiday.back1"] == 1].astype(str).tolist() == ["2019-06-11"]
    assert windows.days[value["holiday.back7"] == 1].astype(str).tolist() == ["2019-06-17"]


def test_calendar_in_closed_form(made):
    windows, value = made()
    names = [name for name in value if name.startswith("weekday.")]
    assert len(names) == 7
    for row, day in enumerate(windows.days.astype(object)):
        assert [value[name][row] for name in names] == [float(day.weekday() == k) for k in range(7)]
        assert value["weekend"][row] == float(day.weekday() >= 5)
        angle = 2 * np.pi * (day.timetuple().tm_yday - 1) / 365.25
        assert value["year.cos1"][row] == pytest.approx(np.cos(angle), abs=1e-15)
        assert value["year.sin2"][row] == pytest.approx(np.sin(2 * angle), abs=1e-15)
        assert value["daylight_saving"][row] == 1.0


def test_short_history_has_no_week_back_and_no_daily_mean(made):
    windows, value = made(history=12)
    assert not windows.schema.looks_back_a_week
    assert [name for name in value if name.startswith("load.")] == [f"load.back1[{k}]" for k in range(-12, 0)]


def test_short_horizon_takes_the_same_hours_a_week_back(made):
    _, value = made(horizon=6, issue_time="06:00")
    assert [name for name in value if name.startswith("load.back7")] == [f"load.back7[{k}]" for k in range(6)]
    assert value["load.back7[0]"][0] == 6.0


def test_one_day_equals_many_bit_for_bit(made):
    windows, _ = made()
    together = features(windows)
    for row in range(len(windows)):
        assert np.array_equal(features(windows.select(slice(row, row + 1)))[0], together[row])


def test_order_of_days_changes_nothing(made):
    windows, _ = made()
    order = np.random.default_rng(0).permutation(len(windows))
    assert np.array_equal(features(windows.select(order)), features(windows)[order])


def test_a_daily_column_that_varies_is_refused(made):
    windows, _ = made()
    windows.known[3, 5, 1] = 1.0
    with pytest.raises(DataError, match="known column 'holiday' varies within 2019-06-11, but was constant"):
        features(windows)


def test_schema_survives_json(made):
    schema = made()[0].schema
    again = FeatureSchema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    assert again.names == schema.names
    assert again.target_units == ("GW",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timezone": "Mars/Olympus"}, "not a time zone"),
        ({"history": 0}, "history = 0: must be at least 1"),
        ({"daily": ["wind"]}, "each must be among known"),
        ({"holidays": True}, "unknown key 'holidays'"),
    ],
)
def test_damaged_schema_is_refused(made, change, words):
    with pytest.raises(ConfigError, match=words):
        FeatureSchema.from_dict({**made()[0].schema.to_dict(), **change})
