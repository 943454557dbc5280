"""Public holidays by rule."""

from __future__ import annotations

import datetime


def easter(year: int) -> datetime.date:
    """Easter Sunday of a Gregorian year.

    Notes
    -----
    Source: Meeus (1991), Astronomical Algorithms, chapter 8 (the anonymous Gregorian algorithm).
    """
    golden = year % 19
    century, in_century = divmod(year, 100)
    leap_centuries, century_rest = divmod(century, 4)
    moon_correction = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - leap_centuries - moon_correction + 15) % 30
    leap_years, year_rest = divmod(in_century, 4)
    to_sunday = (32 + 2 * century_rest + 2 * leap_years - epact - year_rest) % 7
    full_moon_fix = (golden + 11 * epact + 22 * to_sunday) // 451
    month, day = divmod(epact + to_sunday - 7 * full_moon_fix + 114, 31)
    return datetime.date(year, month, day + 1)


def german_holidays(year: int) -> frozenset[datetime.date]:
    """The holidays of all German states: nine each year since 1990, and Reformation Day in 2017."""
    sunday = easter(year)
    # Good Friday, Easter Monday, Ascension, Whit Monday
    movable = {sunday + datetime.timedelta(days=days) for days in (-2, 1, 39, 50)}
    fixed = {datetime.date(year, month, day) for month, day in ((1, 1), (5, 1), (10, 3), (12, 25), (12, 26))}
    once = {datetime.date(2017, 10, 31)} if year == 2017 else set()
    return frozenset(movable | fixed | once)
