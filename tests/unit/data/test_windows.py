from __future__ import annotations

import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.data.clock import local_times
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.windows import average_by_slot, build_windows, fill_skipped

HOUR = np.timedelta64(1, "h")


@pytest.fixture
def cut(make_config, make_table):
    """Windows of a synthetic table whose target is its row number."""

    def make(start, rows, *, timezone="Europe/Berlin", step_minutes=60, **changes):
        table = make_table(start, rows, timezone=timezone, step_minutes=step_minutes)
        config = make_config(
            timezone=timezone, step=f"{step_minutes}min" if step_minutes < 60 else "1h", **changes
        )
        return build_windows(table, FeatureSchema.from_table(config, table))

    return make


def test_regular_days_are_slices_of_the_table(cut):
    windows = cut("2019-05-31T22:00", 5 * 24)
    assert windows.days.astype(str).tolist() == ["2019-06-02", "2019-06-03", "2019-06-04", "2019-06-05"]
    assert windows.history.shape == (4, 24, 2)
    for row in range(4):
        first = 24 * (row + 1)
        assert np.array_equal(windows.slots[row, :, 0], np.arange(first, first + 24))
        assert np.array_equal(windows.history[row, :, 0], np.arange(first - 24, first))
        assert np.array_equal(windows.realized(row)[:, 0], windows.slots[row, :, 0])
        times, slots = windows.steps_of(row)
        assert np.array_equal(slots, np.arange(24))
        assert np.array_equal(windows.slot_times[row], times)
    assert windows.report.days_without_history == 1
    assert windows.report.days_incomplete == 0
    assert windows.report.irregular_days == ()
    assert windows.report.slots_interpolated == windows.report.slots_averaged == 0


def test_incomplete_days_are_counted(cut):
    windows = cut("2019-05-31T20:00", 2 + 4 * 24 + 7)
    assert windows.report.days == len(windows) == 3
    assert windows.report.days_without_history == 2
    assert windows.report.days_incomplete == 1


def test_issue_time_moves_the_day(cut):
    windows = cut("2019-05-31T22:00", 5 * 24, issue_time="12:00", horizon=6)
    assert windows.days[0] == np.datetime64("2019-06-02")
    assert windows.slots[0, :, 0].tolist() == [36, 37, 38, 39, 40, 41]
    assert windows.history[0, -1, 0] == 35
    assert local_times(windows.step_times[0], windows.schema.zone)[0] == np.datetime64("2019-06-02T12:00")


def test_a_day_of_23_hours(cut):
    windows = cut("2019-03-28T23:00", 5 * 24)  # 2019-03-29 00:00 local
    row = windows.index("2019-03-31")
    times, slots = windows.steps_of(row)
    assert slots.tolist() == [0, 1, *range(3, 24)]
    assert np.all(np.diff(times) == HOUR)
    assert times[2] == np.datetime64("2019-03-31T01:00")
    assert np.array_equal(windows.realized(row)[:, 0], np.arange(48, 71))
    assert np.isnan(windows.slots[row, 2, 0])
    assert np.isnat(windows.slot_times[row, 2])
    assert not windows.regular[row]
    assert windows.num_steps[row] == 23
    # In the next day's history the skipped slot lies half-way: rows 49 and 50 stand around it.
    after = windows.history[row + 1, :, 0]
    assert after[1:4].tolist() == [49.0, 49.5, 50.0]
    assert windows.realized(row + 1)[0, 0] == 71
    assert windows.report.irregular_days == ("2019-03-31",)
    # one slot of 2 history columns of the day after, and of the 1 known column of the day itself
    assert windows.report.slots_interpolated == 3


def test_a_day_of_25_hours(cut):
    windows = cut("2019-10-24T22:00", 5 * 24)  # 2019-10-25 00:00 local
    row = windows.index("2019-10-27")
    times, slots = windows.steps_of(row)
    assert slots.tolist() == [0, 1, 2, 2, *range(3, 24)]
    assert np.all(np.diff(times) == HOUR)
    assert np.array_equal(windows.realized(row)[:, 0], np.arange(48, 73))
    assert np.isnan(windows.slots[row, 2, 0])
    assert windows.slot_times[row, 2] == times[2]
    assert windows.num_steps[row] == 25
    after = windows.history[row + 1, :, 0]
    assert after[1:4].tolist() == [49.0, 50.5, 52.0]
    known = windows.known[row, 2, 0]
    assert known == pytest.approx(windows.history[row + 1, 2, 1], rel=0, abs=0)
    assert windows.report.slots_averaged == 3


@pytest.mark.parametrize(
    ("start", "day", "slots"),
    [("2012-10-05T14:00", "2012-10-07", 46), ("2013-04-04T13:00", "2013-04-07", 50)],
)
def test_half_hours_in_melbourne(cut, start, day, slots):
    windows = cut(start, 6 * 48, timezone="Australia/Melbourne", step_minutes=30, history=48, horizon=48)
    row = windows.index(day)
    times, numbers = windows.steps_of(row)
    assert len(times) == len(numbers) == slots
    assert np.all(np.diff(windows.step_targets[row, :slots, 0]) == 1)


def test_half_hour_change_of_clocks(cut):
    windows = cut(
        "2019-04-04T13:00", 6 * 48, timezone="Australia/Lord_Howe", step_minutes=30, history=48, horizon=48
    )
    assert windows.num_steps[windows.index("2019-04-07")] == 49


def test_midnight_that_the_clock_skips(cut):
    windows = cut("2018-11-02T03:00", 5 * 24, timezone="America/Sao_Paulo")
    row = windows.index("2018-11-04")
    times, slots = windows.steps_of(row)
    assert slots.tolist() == list(range(1, 24))
    assert local_times(times, windows.schema.zone)[0] == np.datetime64("2018-11-04T01:00")
    # The first slot has no neighbor on its left inside the period: the known value is held.
    assert windows.known[row, 0, 0] == windows.known[row, 1, 0]


def test_history_that_ends_at_a_skipped_slot_takes_nothing_from_the_period(cut):
    windows = cut("2019-03-28T23:00", 5 * 24, issue_time="03:00", history=6, horizon=6)
    row = windows.index("2019-03-31")
    assert windows.history[row, :, 0].tolist() == [
        45,
        46,
        47,
        48,
        49,
        49,
    ]  # slots 21, 22, 23, 0, 1 and the skipped 2


def test_period_and_history_that_the_clock_skips_are_counted(cut):
    windows = cut("2019-03-28T23:00", 5 * 24, issue_time="02:00", history=2, horizon=1)
    assert "2019-03-31" not in windows.days.astype(str)
    assert windows.report.days_skipped == 1


def test_issue_time_inside_a_repeated_hour_is_refused(cut):
    with pytest.raises(DataError, match="2019-10-27 02:30 occurs twice"):
        cut("2019-10-24T22:00", 240, step_minutes=30, issue_time="02:30")


def test_fewer_rows_than_a_day_are_refused(cut):
    with pytest.raises(DataError, match="none of 2 days has 24 steps of history and 24 steps"):
        cut("2019-06-01T10:00", 30)


def test_select_keeps_days_together(cut):
    windows = cut("2019-05-31T22:00", 5 * 24)
    some = windows.select(np.array([2, 0]))
    assert some.days.tolist() == windows.days[[2, 0]].tolist()
    assert np.array_equal(some.slots, windows.slots[[2, 0]])
    assert len(windows.select(slice(1, 3))) == 2
    assert len(windows.select(windows.days > windows.days[1])) == 2


def test_unknown_day(cut):
    with pytest.raises(
        DataError, match=r"no decision day 2020-01-01: there are 4 days \(2019-06-02 to 2019-06-05\)"
    ):
        cut("2019-05-31T22:00", 5 * 24).index("2020-01-01")


@pytest.mark.parametrize("day", ["2019-03-31", "2019-03-30", "2019-10-27"])
def test_paths_by_slot_become_paths_by_real_step(cut, day):
    windows = cut("2019-03-20T23:00", 240 * 24)
    row = windows.index(day)
    _, slots = windows.steps_of(row)
    paths = torch.arange(3.0 * 24 * 1).reshape(3, 24, 1).requires_grad_()
    real = windows.to_steps(paths, row)
    assert real.shape == (3, len(slots), 1)
    expected = torch.stack([paths[:, slot] for slot in slots.tolist()], dim=1)
    assert torch.equal(real, expected)
    assert np.array_equal(windows.to_steps(paths.detach().numpy(), row), real.detach().numpy())
    real.sum().backward()
    assert np.array_equal(paths.grad[0, :, 0].numpy(), np.bincount(slots, minlength=24))


def test_paths_of_another_length_are_refused(cut):
    with pytest.raises(ShapeError, match="paths has 23 slots"):
        cut("2019-05-31T22:00", 5 * 24).to_steps(np.zeros((2, 23, 1)), 0)


def test_average_by_slot_in_closed_form():
    values = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [7.0, 70.0], [9.0, 90.0]])
    mean, shown = average_by_slot(values, np.array([-1, 0, 0, 2, 3]), 3)
    assert shown.tolist() == [2, 0, 1]
    assert mean[0].tolist() == [3.0, 30.0]
    assert np.isnan(mean[1]).all()
    assert mean[2].tolist() == [7.0, 70.0]


def test_fill_skipped_in_closed_form():
    gap = np.nan
    filled = fill_skipped(
        np.array([[[gap], [1.0], [gap], [gap], [4.0], [gap]], [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]])
    )
    assert filled[0, :, 0].tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert filled[1, :, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_german_days_equal_a_loop_over_the_clock(german_table, make_config):
    """Each day's real steps are exactly the rows whose local date is the day's."""
    config = make_config(
        path=None,
        timestamp=None,
        dataset="german_grid",
        targets=["residual_load_gw"],
        known=["holiday"],
        history=168,
    )
    windows = build_windows(german_table, FeatureSchema.from_table(config, german_table))
    dates = local_times(german_table.times, windows.schema.zone).astype("datetime64[D]")
    load = german_table.columns["residual_load_gw"]
    assert len(windows) == 1461 - 7
    assert windows.report.days_without_history == 7
    for row in range(len(windows)):
        assert np.array_equal(windows.realized(row)[:, 0], load[dates == windows.days[row]])
    irregular = {
        day: int(count)
        for day, count in zip(windows.days.astype(str), windows.num_steps, strict=True)
        if count != 24
    }
    short = ["2017-03-26", "2018-03-25", "2019-03-31", "2020-03-29"]
    long = ["2017-10-29", "2018-10-28", "2019-10-27", "2020-10-25"]
    assert irregular == dict.fromkeys(short, 23) | dict.fromkeys(long, 25)
    assert windows.report.irregular_days == tuple(irregular)
