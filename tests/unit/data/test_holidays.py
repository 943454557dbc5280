from __future__ import annotations

import datetime

import pytest

from hedgecast.data.holidays import easter, german_holidays


@pytest.mark.parametrize(
    "day",
    [
        "1818-03-22",
        "1943-04-25",
        "2000-04-23",
        "2017-04-16",
        "2018-04-01",
        "2019-04-21",
        "2020-04-12",
        "2038-04-25",
    ],
)
def test_easter(day):
    expected = datetime.date.fromisoformat(day)
    assert easter(expected.year) == expected


def test_easter_is_a_sunday_between_march_22_and_april_25():
    for year in range(1900, 2200):
        day = easter(year)
        assert day.weekday() == 6
        assert datetime.date(year, 3, 22) <= day <= datetime.date(year, 4, 25)


def test_holidays_of_2019():
    days = ["01-01", "04-19", "04-22", "05-01", "05-30", "06-10", "10-03", "12-25", "12-26"]
    assert sorted(day.strftime("%m-%d") for day in german_holidays(2019)) == days


def test_reformation_day_was_one_everywhere_in_2017_only():
    assert datetime.date(2017, 10, 31) in german_holidays(2017)
    assert len(german_holidays(2017)) == 10
    assert datetime.date(2018, 10, 31) not in german_holidays(2018)
