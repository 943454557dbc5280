from __future__ import annotations

import datetime
import zoneinfo

import numpy as np
import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.clock import daylight_saving, first_instant, local_times, period_start, utc_offsets

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
ZONES = [
    "Europe/Berlin",
    "Australia/Melbourne",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "UTC",
]

# Brazil gave up daylight saving in 2019.
NUM_CHANGES = {"Asia/Kolkata": 0, "UTC": 0, "America/Sao_Paulo": 5}


@pytest.mark.parametrize("name", ZONES)
def test_offsets_equal_a_loop_over_zoneinfo(name):
    zone = zoneinfo.ZoneInfo(name)
    times = np.datetime64("2016-12-31T22:00", "ns") + np.arange(3 * 366 * 48) * np.timedelta64(30, "m")
    shuffled = np.random.default_rng(3).permutation(times)[:4000]
    expected = [
        time.astype("datetime64[s]").astype(object).replace(tzinfo=datetime.UTC).astimezone(zone).utcoffset()
        for time in shuffled
    ]
    assert np.array_equal(utc_offsets(shuffled, zone), np.array(expected, dtype="timedelta64[s]"))
    changes = np.flatnonzero(np.diff(local_times(times, zone)) != np.timedelta64(1800, "s"))
    assert len(changes) == NUM_CHANGES.get(name, 6)


def test_no_time_has_no_offset():
    assert len(utc_offsets(np.array([], dtype="datetime64[ns]"), BERLIN)) == 0


@pytest.mark.parametrize(
    ("wall", "zone", "utc"),
    [
        ("2019-06-01T00:00", "Europe/Berlin", "2019-05-31T22:00"),
        ("2019-03-31T02:00", "Europe/Berlin", "2019-03-31T01:00"),  # skipped: the jump
        ("2019-03-31T02:45", "Europe/Berlin", "2019-03-31T01:00"),
        ("2019-03-31T03:00", "Europe/Berlin", "2019-03-31T01:00"),
        ("2019-10-27T02:00", "Europe/Berlin", "2019-10-27T00:00"),  # repeated: the first
        ("2019-10-27T03:00", "Europe/Berlin", "2019-10-27T02:00"),
        ("2018-11-04T00:00", "America/Sao_Paulo", "2018-11-04T03:00"),  # midnight is skipped there
        ("2018-02-18T00:00", "America/Sao_Paulo", "2018-02-18T03:00"),
    ],
)
def test_first_instant(wall, zone, utc):
    assert first_instant(np.datetime64(wall, "s"), zoneinfo.ZoneInfo(zone)) == np.datetime64(utc)
    assert period_start(np.datetime64(wall, "s"), zoneinfo.ZoneInfo(zone)) == np.datetime64(utc)


def test_a_period_cannot_start_inside_a_repeated_hour():
    wall = np.datetime64("2019-10-27T02:30", "s")
    assert first_instant(wall, BERLIN) == np.datetime64("2019-10-27T00:30")
    with pytest.raises(
        DataError, match=r"2019-10-27 02:30 occurs twice in Europe/Berlin.*another issue_time"
    ):
        period_start(wall, BERLIN)


def test_daylight_saving_is_that_of_summer():
    times = np.array(["2019-01-15T12:00", "2019-07-15T12:00"], dtype="datetime64[s]")
    assert daylight_saving(times, BERLIN).tolist() == [False, True]
    assert daylight_saving(times, zoneinfo.ZoneInfo("Australia/Melbourne")).tolist() == [True, False]
