"""Chronological parts by decision day, purged at their borders."""

from __future__ import annotations

import dataclasses

import numpy as np

from hedgecast.core.errors import DataError
from hedgecast.data.clock import first_instant
from hedgecast.data.config import SplitConfig
from hedgecast.data.windows import Windows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """Days of each part, and those left out."""

    train: int
    """Training days."""
    validation: int
    """Validation days."""
    test: int
    """Test days, irregular ones included."""
    purged_train: tuple[str, ...]
    """Days before validation whose period is an input of a validation day."""
    purged_validation: tuple[str, ...]
    """Days before the test whose period is an input of a test day."""
    irregular_train: tuple[str, ...]
    """Days of another length left out of training."""
    irregular_validation: tuple[str, ...]
    """Days of another length left out of validation."""
    after_test: int
    """Days from ``test_end`` on, not used."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Three parts in the order of time; no value is a target in one and an input or target in a later one."""

    train: Windows
    """Regular days only."""
    validation: Windows
    """Regular days only."""
    test: Windows
    """Every day, those of 23 and 25 hours too."""
    report: SplitReport
    """Counts."""


def split_windows(windows: Windows, config: SplitConfig) -> Split:
    """Training, validation and test days.

    A day belongs to the part of its local date. It is then purged when its decision period ends after the
    history of the next part's first day begins: its targets would be inputs there. Purging so takes the last
    days of the earlier part, as many as the history covers, and leaves the later part whole.

    Raises
    ------
    DataError
        A date lies outside the days, or a part has no day left.
    """
    days = windows.days
    validation = np.datetime64(config.validation, "D")
    test = np.datetime64(config.test, "D")
    stop = np.datetime64(config.test_end, "D") if config.test_end is not None else days[-1] + 1
    for key, date in (("validation", validation), ("test", test)):
        if not days[0] < date <= days[-1]:
            raise _outside(key, date, windows)
    if stop > days[-1] + 1:
        raise _outside("test_end", stop, windows)
    parts = {
        "train": days < validation,
        "validation": (days >= validation) & (days < test),
        "test": (days >= test) & (days < stop),
    }
    purged = {
        "train": parts["train"] & _overlaps(windows, parts["validation"]),
        "validation": parts["validation"] & _overlaps(windows, parts["test"]),
    }
    irregular = {name: parts[name] & ~purged[name] & ~windows.regular for name in purged}
    for name, mask in parts.items():
        if name in purged:
            parts[name] = mask & ~purged[name] & ~irregular[name]
        if not parts[name].any():
            lost = int(purged[name].sum()) if name in purged else 0
            raise DataError(
                f"the {name} part has no day: {int(mask.sum())} days by date, {lost} purged because the next "
                f"part looks back {windows.schema.history} steps on them: move the split's dates apart",
                part=name,
            )
    return Split(
        train=windows.select(parts["train"]),
        validation=windows.select(parts["validation"]),
        test=windows.select(parts["test"]),
        report=SplitReport(
            train=int(parts["train"].sum()),
            validation=int(parts["validation"].sum()),
            test=int(parts["test"].sum()),
            purged_train=_names(days[purged["train"]]),
            purged_validation=_names(days[purged["validation"]]),
            irregular_train=_names(days[irregular["train"]]),
            irregular_validation=_names(days[irregular["validation"]]),
            after_test=int((days >= stop).sum()),
        ),
    )


def _overlaps(windows: Windows, later: np.ndarray) -> np.ndarray:
    """(B,) bool: the day's last step lies in the history of the first day of ``later``, or after it."""
    if not later.any():
        return np.zeros(len(windows), dtype=bool)
    schema = windows.schema
    first = windows.days[later][0]
    wall = first.astype("datetime64[s]") + np.timedelta64(
        schema.issue_minutes - schema.history * schema.step_minutes, "m"
    )
    begins = first_instant(wall, schema.zone)
    overlap: np.ndarray = np.nanmax(windows.step_times, axis=1) >= begins
    return overlap


def _outside(key: str, date: np.datetime64, windows: Windows) -> DataError:
    days = windows.days
    return DataError(
        f"split.{key} = '{date}' lies outside the data: decision days run from {days[0]} to {days[-1]} "
        f"({len(days)} days): choose a date in between",
        key=f"split.{key}",
    )


def _names(days: np.ndarray) -> tuple[str, ...]:
    return tuple(str(day) for day in days)
