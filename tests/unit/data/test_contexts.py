"""Decision days from tables of raw rows: the days of the study, and the one that is to come."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.contexts import days_of_rows
from hedgecast.data.features import features
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.windows import build_windows


@pytest.fixture
def config(make_config):
    return make_config(timestamp="time")


@pytest.fixture
def table(make_table):
    # Over the change of clocks of 2021-03-28.
    return make_table("2021-03-24T23:00", 24 * 8 - 1)


@pytest.fixture
def schema(config, table):
    return FeatureSchema.from_table(config, table)


def raw(table, stop=None, *, hidden=0, **changes):
    """The first rows of a table as they stand in a file, the targets of the last ``hidden`` empty."""
    stop = len(table) if stop is None else stop
    load = [None if row >= stop - hidden else value for row, value in enumerate(table.columns["load"][:stop])]
    columns = {
        "time": pa.array(table.times[:stop], pa.timestamp("ns", "UTC")),
        "load": pa.array(load, pa.float64()),
        "temperature": pa.array(table.columns["temperature"][:stop]),
    }
    return pa.table({**columns, **changes})


def test_a_whole_table_gives_the_days_of_the_study(config, table, schema):
    found, expected = days_of_rows(raw(table), config, schema, "march.csv"), build_windows(table, schema)
    assert list(found.days) == list(expected.days)
    np.testing.assert_array_equal(features(found), features(expected))
    assert 23 in found.num_steps


@pytest.mark.parametrize(("day", "steps"), [("2021-03-27", 24), ("2021-03-28", 23)])
def test_rows_without_targets_are_the_day_to_come(config, table, schema, day, steps):
    known = build_windows(table, schema)
    row = known.index(day)
    stop = int(np.searchsorted(table.times, known.steps_of(row)[0][-1])) + 1
    found = days_of_rows(raw(table, stop, hidden=steps), config, schema, "march.csv")
    assert [str(found_day) for found_day in found.days] == [day]
    np.testing.assert_array_equal(found.steps_of(0)[0], known.steps_of(row)[0])
    np.testing.assert_array_equal(features(found)[0], features(known)[row])


def test_a_gap_in_the_history_is_refused_not_taken_for_the_day_to_come(config, table, schema):
    rows = raw(table)
    load = rows["load"].to_pylist()
    load[30] = None
    with pytest.raises(DataError, match=r"march.csv, column 'load', row 31 .* missing or NaN"):
        days_of_rows(raw(table, load=pa.array(load)), config, schema, "march.csv")


def test_what_is_known_ahead_must_reach_over_the_whole_period(config, table, schema):
    with pytest.raises(DataError, match="do not cover the period"):
        days_of_rows(raw(table, 24 * 3 - 2, hidden=22), config, schema, "march.csv")
    rows = raw(table, 24 * 3, hidden=24)
    ahead = rows["temperature"].to_pylist()
    ahead[-1] = None
    with pytest.raises(DataError, match="column 'temperature', row 72"):
        days_of_rows(raw(table, 24 * 3, hidden=24, temperature=pa.array(ahead)), config, schema, "march.csv")


def test_rows_without_any_history_are_refused(config, table, schema):
    with pytest.raises(DataError, match=r"march.csv: no row has a value of 'load'"):
        days_of_rows(raw(table, 24, hidden=24), config, schema, "march.csv")
    with pytest.raises(DataError, match="stands twice"):
        days_of_rows(
            pa.concat_tables([raw(table), raw(table).slice(len(table) - 1)]), config, schema, "x.csv"
        )
