"""One day from raw rows: the same bits as in training, and a clear refusal of what does not make a day."""

from __future__ import annotations

import numpy as np
import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.features import features
from hedgecast.data.rows import window_from_rows
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.windows import build_windows

DST_DAYS = ["2019-03-31", "2019-10-27", "2020-03-29", "2020-10-25"]


@pytest.fixture(scope="module")
def whole(german_table):
    """German days with a week of history; hourly wind stands in for a known column that varies in the day."""
    schema = FeatureSchema(
        timezone="Europe/Berlin",
        step_minutes=60,
        issue_minutes=0,
        history=168,
        horizon=24,
        targets=("residual_load_gw",),
        observed=("solar_gw",),
        known=("wind_gw", "holiday"),
        daily=("holiday",),
    )
    return build_windows(german_table, schema)


def rows_of(table, windows, day, *, extra=0, history=None):
    """Keyword arguments for the raw rows of one day, ``extra`` older rows included."""
    schema = windows.schema
    times, _ = windows.steps_of(windows.index(day))
    start = int(np.searchsorted(table.times, times[0]))
    # One more than the slots: a history with a repeated slot has that many rows.
    first = max(0, start - (schema.history if history is None else history) - 1 - extra)
    past, ahead = slice(first, start), slice(start, start + len(times))
    return {
        "times": table.times[past].copy(),
        "columns": {name: table.columns[name][past].copy() for name in schema.columns},
        "known_times": table.times[ahead].copy(),
        "known": {name: table.columns[name][ahead].copy() for name in schema.known},
    }


def test_raw_rows_give_the_features_of_training_bit_for_bit(german_table, whole):
    """Every day within eight days of a change of clocks, and every ninth of the rest."""
    expected = features(whole)
    near = np.zeros(len(whole), dtype=bool)
    for day in whole.report.irregular_days:
        near |= np.abs((whole.days - np.datetime64(day)).astype(int)) <= 8
    near[::9] = True
    assert near.sum() > 250
    for row in np.flatnonzero(near):
        day = str(whole.days[row])
        window = window_from_rows(whole.schema, **rows_of(german_table, whole, day))
        assert window.days[0] == whole.days[row]
        assert np.array_equal(window.history[0], whole.history[row])
        assert np.array_equal(window.known[0], whole.known[row])
        assert np.array_equal(features(window)[0], expected[row]), day
        for of_rows, of_table in zip(window.steps_of(0), whole.steps_of(row), strict=True):
            assert np.array_equal(of_rows, of_table)


@pytest.mark.parametrize("day", DST_DAYS)
def test_counts_of_a_day_with_a_change_of_clocks(german_table, whole, day):
    window = window_from_rows(whole.schema, **rows_of(german_table, whole, day))
    assert window.report.irregular_days == (day,)
    assert window.report.slots_interpolated == (2 if "-03-" in day else 0)
    assert window.report.slots_averaged == (2 if "-10-" in day else 0)
    assert window.num_steps[0] == (23 if "-03-" in day else 25)


@pytest.mark.parametrize("minutes", [0, 180, 720])
def test_other_issue_times_and_half_hours(make_config, make_table, minutes):
    """Melbourne half hours around both changes, with histories that begin at any slot."""
    table = make_table("2013-03-25T13:00", 48 * 210, timezone="Australia/Melbourne", step_minutes=30)
    for history in (1, 5, 96, 337):
        schema = FeatureSchema(
            timezone="Australia/Melbourne",
            step_minutes=30,
            issue_minutes=minutes,
            history=history,
            horizon=48,
            targets=("load",),
            known=("temperature",),
        )
        windows = build_windows(table, schema)
        expected = features(windows)
        for row, day in enumerate(windows.days.astype(str)):
            if not ("2013-04-05" < day < "2013-04-17" or "2013-10-04" < day < "2013-10-16"):
                continue
            window = window_from_rows(schema, **rows_of(table, windows, day, extra=1))
            assert np.array_equal(features(window)[0], expected[row]), (day, history)


def test_older_rows_and_other_known_rows_change_nothing(german_table, whole):
    wanted = features(window_from_rows(whole.schema, **rows_of(german_table, whole, "2019-06-05")))
    more = rows_of(german_table, whole, "2019-06-05", extra=500)
    start = int(np.searchsorted(german_table.times, more["known_times"][0]))
    around = slice(start - 30, start + 50)
    more["known_times"] = german_table.times[around]
    more["known"] = {name: german_table.columns[name][around] for name in whole.schema.known}
    assert np.array_equal(features(window_from_rows(whole.schema, **more)), wanted)


def test_the_day_asked_for_is_the_day_given(german_table, whole):
    raw = rows_of(german_table, whole, "2019-06-05")
    asked = window_from_rows(whole.schema, **raw, day=np.datetime64("2019-06-05"))
    assert asked.days[0] == np.datetime64("2019-06-05")


def test_targets_are_not_known(german_table, whole):
    window = window_from_rows(whole.schema, **rows_of(german_table, whole, "2019-06-05"))
    with pytest.raises(DataError, match="the targets of 2019-06-05 are not known"):
        window.realized(0)


def test_a_model_without_known_columns_needs_no_known_rows(german_table, whole):
    schema = FeatureSchema.from_dict({**whole.schema.to_dict(), "known": [], "daily": []})
    raw = rows_of(german_table, whole, "2019-06-05")
    window = window_from_rows(schema, times=raw["times"], columns=raw["columns"])
    assert window.known.shape == (1, 24, 0)


def drop_column(raw):
    del raw["columns"]["solar_gw"]


def drop_known_column(raw):
    del raw["known"]["holiday"]


def drop_known(raw):
    raw["known_times"] = raw["known"] = None


def shorten(raw):
    raw["times"] = raw["times"][100:]
    raw["columns"] = {name: values[100:] for name, values in raw["columns"].items()}


def cut_end(raw):
    raw["times"] = raw["times"][:-3]
    raw["columns"] = {name: values[:-3] for name, values in raw["columns"].items()}


def gap(raw):
    raw["times"] = np.delete(raw["times"], 50)
    raw["columns"] = {name: np.delete(values, 50) for name, values in raw["columns"].items()}


def duplicate(raw):
    raw["times"][51] = raw["times"][50]


def unsorted(raw):
    raw["times"] = raw["times"][::-1]


def half_hours(raw):
    raw["times"] = raw["times"][-1] - np.arange(len(raw["times"]))[::-1] * np.timedelta64(30, "m")


def off_grid(raw):
    raw["times"] = raw["times"] - np.timedelta64(10, "m")


def not_finite(raw):
    raw["columns"]["solar_gw"][7] = np.nan


def known_not_finite(raw):
    raw["known"]["wind_gw"][7] = np.inf


def text(raw):
    raw["columns"]["solar_gw"] = np.array(["much"] * len(raw["times"]))


def other_length(raw):
    raw["columns"]["solar_gw"] = raw["columns"]["solar_gw"][1:]


def known_too_short(raw):
    raw["known_times"] = raw["known_times"][:-1]
    raw["known"] = {name: values[:-1] for name, values in raw["known"].items()}


def known_of_another_day(raw):
    raw["known_times"] = raw["known_times"] + np.timedelta64(1, "D")


def no_rows(raw):
    raw["times"] = raw["times"][:0]


def numbers_for_times(raw):
    raw["times"] = np.arange(len(raw["times"]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_column, ["history rows: no column 'solar_gw'", "the model needs residual_load_gw, solar_gw"]),
        (drop_known_column, ["known rows: no column 'holiday'"]),
        (
            drop_known,
            ["known rows are missing: give wind_gw, holiday for 2019-06-04 22:00:00 UTC", "(24 steps)"],
        ),
        (shorten, ["69 rows from", "are too few", "needs 168, from 2019-05-28 22:00:00 UTC"]),
        (cut_end, ["the step after the last is 2019-06-04 21:00:00 in Europe/Berlin", "issued at 00:00"]),
        (gap, ["history rows, row 51", "a gap of 1 steps of 60 min"]),
        (duplicate, ["history rows, row 52", "stands twice"]),
        (unsorted, ["row 2", "sort the rows"]),
        (half_hours, ["most rows are 30 min apart, but the step is 60 min"]),
        (off_grid, ["the step after the last is 2019-06-04 23:50:00"]),
        (not_finite, ["history rows, column 'solar_gw', row 8", "missing or NaN"]),
        (known_not_finite, ["known rows, column 'wind_gw', row 8", "value is inf"]),
        (text, ["column 'solar_gw': holds <U4: give numbers"]),
        (other_length, ["column 'solar_gw': shape (168,) for 169 times"]),
        (known_too_short, ["known rows from", "do not cover the period", "(24 steps)"]),
        (known_of_another_day, ["do not cover the period"]),
        (no_rows, ["history rows: times of shape (0,)"]),
        (numbers_for_times, ["type int64: give one UTC datetime64 per row"]),
    ],
)
def test_rows_that_make_no_day(german_table, whole, spoil, words):
    raw = rows_of(german_table, whole, "2019-06-05")
    spoil(raw)
    with pytest.raises(DataError) as caught:
        window_from_rows(whole.schema, **raw)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_stale_history(german_table, whole):
    raw = rows_of(german_table, whole, "2019-06-05")
    with pytest.raises(
        DataError, match=r"end at 2019-06-04 21:00:00 UTC, 48 steps before the issue time 2019-06-07"
    ):
        window_from_rows(whole.schema, **raw, day=np.datetime64("2019-06-07"))


def test_history_that_reaches_into_the_period(german_table, whole):
    raw = rows_of(german_table, whole, "2019-06-05")
    with pytest.raises(
        DataError, match=r"reach 2019-06-04 21:00:00 UTC, into the period that begins at 2019-06-03 22"
    ):
        window_from_rows(whole.schema, **raw, day=np.datetime64("2019-06-04"))


def test_day_asked_for_off_the_grid(german_table, whole):
    raw = rows_of(german_table, whole, "2019-06-05")
    off_grid(raw)
    with pytest.raises(DataError, match="is not a whole number of 60 min steps from the issue time"):
        window_from_rows(whole.schema, **raw, day=np.datetime64("2019-06-05"))
