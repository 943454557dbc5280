from __future__ import annotations

import numpy as np
import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.config import SplitConfig
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import split_windows
from hedgecast.data.windows import build_windows


@pytest.fixture
def year(make_config, make_table):
    """Days of 2019 in Berlin, from 2 January on with a day of history."""

    def make(**changes):
        table = make_table("2018-12-31T23:00", 365 * 24)
        return build_windows(table, FeatureSchema.from_table(make_config(**changes), table))

    return make


CONFIG = SplitConfig(validation="2019-07-01", test="2019-10-01")


def test_parts_in_order_of_time(year):
    windows = year()
    split = split_windows(windows, CONFIG)
    assert split.train.days[0] == np.datetime64("2019-01-02")
    # A day of history: the last day before each border is an input of the next part.
    assert split.train.days[-1] == np.datetime64("2019-06-29")
    assert split.validation.days[[0, -1]].astype(str).tolist() == ["2019-07-01", "2019-09-29"]
    assert split.test.days[[0, -1]].astype(str).tolist() == ["2019-10-01", "2019-12-31"]
    assert split.report.purged_train == ("2019-06-30",)
    assert split.report.purged_validation == ("2019-09-30",)
    assert split.report.after_test == 0


def test_every_day_is_counted_once(year):
    windows = year(history=72)
    report = split_windows(
        windows, SplitConfig(validation="2019-07-01", test="2019-10-01", test_end="2019-12-01")
    ).report
    counted = report.train + report.validation + report.test + report.after_test
    counted += len(report.purged_train) + len(report.purged_validation)
    counted += len(report.irregular_train) + len(report.irregular_validation)
    assert counted == len(windows)
    assert report.after_test == 31


@pytest.mark.parametrize(
    ("history", "issue_time", "purged"),
    [
        (1, "00:00", 1),
        (24, "00:00", 1),
        (25, "00:00", 2),
        (168, "00:00", 7),
        (12, "12:00", 1),
        (24, "06:00", 1),
    ],
)
def test_no_target_is_an_input_of_a_later_part(year, history, issue_time, purged):
    windows = year(history=history, issue_time=issue_time)
    split = split_windows(windows, CONFIG)
    assert len(split.report.purged_train) == len(split.report.purged_validation) == purged
    step = np.timedelta64(1, "h")
    for earlier, later in ((split.train, split.validation), (split.validation, split.test)):
        last_target = earlier.step_times[~np.isnat(earlier.step_times)].max()
        first_input = later.step_times[0, 0] - history * step
        assert last_target < first_input
    # and purging took no more than that asks for
    again = windows.index(split.report.purged_train[0])
    first_input = split.validation.step_times[0, 0] - history * step
    assert windows.steps_of(again)[0].max() >= first_input


def test_irregular_days_stand_in_the_test_only(year):
    split = split_windows(year(), SplitConfig(validation="2019-07-01", test="2019-10-01"))
    assert split.report.irregular_train == ("2019-03-31",)
    assert split.train.regular.all()
    assert split.validation.regular.all()
    assert split.test.num_steps[split.test.index("2019-10-27")] == 25


def test_irregular_days_are_left_out_of_validation(year):
    split = split_windows(year(), SplitConfig(validation="2019-10-01", test="2019-12-01"))
    assert split.report.irregular_validation == ("2019-10-27",)


def test_training_targets_are_finite(year):
    split = split_windows(year(), CONFIG)
    assert np.isfinite(split.train.slots).all()
    assert np.isfinite(split.validation.slots).all()


@pytest.mark.parametrize(
    ("key", "dates"),
    [
        ("validation", {"validation": "2018-06-01", "test": "2019-10-01"}),
        ("validation", {"validation": "2019-01-02", "test": "2019-10-01"}),
        ("test", {"validation": "2019-07-01", "test": "2020-01-01"}),
        ("test_end", {"validation": "2019-07-01", "test": "2019-10-01", "test_end": "2020-01-02"}),
    ],
)
def test_dates_outside_the_data(year, key, dates):
    with pytest.raises(DataError) as caught:
        split_windows(year(), SplitConfig(**dates))
    assert (
        f"split.{key} = '{dates[key]}' lies outside the data: decision days run from 2019-01-02 to 2019-12-31"
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("part", "dates"),
    [
        ("train", {"validation": "2019-01-07", "test": "2019-10-01"}),
        ("validation", {"validation": "2019-07-01", "test": "2019-07-04"}),
    ],
)
def test_part_that_purging_empties(year, part, dates):
    """With three days of history the first day is 4 January; three days are purged before a border."""
    with pytest.raises(DataError, match=rf"the {part} part has no day: 3 days by date, 3 purged") as caught:
        split_windows(year(history=72), SplitConfig(**dates))
    assert "looks back 72 steps" in str(caught.value)
    assert caught.value.facts["part"] == part
