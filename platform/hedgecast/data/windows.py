"""Decision days: what is known at the issue time, and what then came true.

A context is one day. Its slots are wall-clock steps from ``issue_time``: a day of 23 hours skips one,
a day of 25 hours repeats one. Scenarios are drawn by slot; before a program sees them they are mapped to the
day's real steps, so a schedule has 23 or 25 entries on such days and no value is invented.

Context (history and known values) is held by slot as well: a repeated slot there is the mean of its two
values, a skipped one lies on the line between its neighbors in the same array. Both are counted.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np
from torch import Tensor

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.data.clock import local_times, period_start
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.tables import SeriesTable

_DAY = np.timedelta64(1, "D")
ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WindowReport:
    """What was counted while days were cut from a table."""

    days: int
    """Days kept."""
    days_without_history: int = 0
    """Days at the start whose history begins before the table."""
    days_incomplete: int = 0
    """Days at the end of which steps are missing."""
    days_skipped: int = 0
    """Days whose whole period or history the clock skips."""
    irregular_days: tuple[str, ...] = ()
    """Days kept whose clock skips or repeats a slot."""
    slots_interpolated: int = 0
    """Slots of history and known values that the clock skipped, over all days and columns."""
    slots_averaged: int = 0
    """Slots of history and known values that the clock showed twice, over all days and columns."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Decision days, one row each."""

    schema: FeatureSchema
    """Columns, slots and zone."""
    days: np.ndarray
    """(B,) datetime64[D], local date of each issue time."""
    history: np.ndarray
    """(B, H, columns) values before the issue time by slot, oldest first; ``schema.columns`` in order."""
    known: np.ndarray
    """(B, T, K) values known ahead, by slot."""
    slots: np.ndarray
    """(B, T, F) targets by slot; NaN where the clock shows the slot not exactly once, or not yet known."""
    step_times: np.ndarray
    """(B, R) datetime64[ns], UTC, the day's real steps; NaT after the last."""
    step_slots: np.ndarray
    """(B, R) slot of each real step; -1 after the last."""
    step_targets: np.ndarray
    """(B, R, F) realized targets of the real steps; NaN after the last, or not yet known."""
    report: WindowReport
    """Counts of the cut that made these days; a selection keeps the report of the whole."""

    def __len__(self) -> int:
        return len(self.days)

    @property
    def num_steps(self) -> np.ndarray:
        """(B,) real steps of each day."""
        count: np.ndarray = (self.step_slots >= 0).sum(axis=1)
        return count

    @property
    def regular(self) -> np.ndarray:
        """(B,) bool: the clock shows each slot exactly once.

        Clocks change once on a day at most, so a day of the usual number of steps skips and repeats none.
        """
        regular: np.ndarray = self.num_steps == self.schema.horizon
        return regular

    @property
    def slot_times(self) -> np.ndarray:
        """(B, T) datetime64[ns], UTC starts of slots; of a repeated one the first, of a skipped one NaT."""
        times = np.full((len(self), self.schema.horizon), np.datetime64("NaT", "ns"))
        for step in range(self.step_slots.shape[1] - 1, -1, -1):
            rows = np.flatnonzero(self.step_slots[:, step] >= 0)
            times[rows, self.step_slots[rows, step]] = self.step_times[rows, step]
        return times

    def select(self, rows: np.ndarray | slice) -> Windows:
        """The days at ``rows``: indices, a mask or a slice."""
        return dataclasses.replace(
            self,
            **{
                name: getattr(self, name)[rows]
                for name in ("days", "history", "known", "slots", "step_times", "step_slots", "step_targets")
            },
        )

    def index(self, day: str) -> int:
        """Row of a local date, YYYY-MM-DD.

        Raises
        ------
        DataError
            The day is not among these.
        """
        found = np.flatnonzero(self.days == np.datetime64(day, "D"))
        if not len(found):
            span = f"{self.days[0]} to {self.days[-1]}" if len(self) else "none"
            raise DataError(f"no decision day {day}: there are {len(self)} days ({span})", day=str(day))
        return int(found[0])

    def steps_of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """UTC times (R,) and slots (R,) of the real steps of one day."""
        count = int(self.num_steps[row])
        return self.step_times[row, :count], self.step_slots[row, :count]

    def realized(self, row: int) -> np.ndarray:
        """(R, F) targets that came true in the real steps of one day.

        Raises
        ------
        DataError
            They are not known: the day was made from rows that end at the issue time.
        """
        values = self.step_targets[row, : int(self.num_steps[row])]
        if not np.all(np.isfinite(values)):
            raise DataError(
                f"the targets of {self.days[row]} are not known: use a day from a table",
                day=str(self.days[row]),
            )
        return values

    def to_steps(self, paths: ArrayOrTensor, row: int) -> ArrayOrTensor:
        """(..., R, F) of one day's real steps from ``paths`` (..., T, F) by slot.

        A skipped slot is left out, a repeated one is given twice. Gradients pass.

        Raises
        ------
        ShapeError
            ``paths`` has not ``horizon`` slots.
        """
        if paths.shape[-2] != self.schema.horizon:
            raise ShapeError(
                f"paths has {paths.shape[-2]} slots in shape {tuple(paths.shape)}: must be (..., "
                f"{self.schema.horizon}, series)"
            )
        _, slots = self.steps_of(row)
        return paths[..., slots, :]


def build_windows(table: SeriesTable, schema: FeatureSchema) -> Windows:
    """All decision days of ``table`` whose history and period lie in it.

    Raises
    ------
    DataError
        No day does, or a period begins or ends inside a repeated hour.
    """
    step = np.timedelta64(schema.step_minutes, "m")
    local = local_times(table.times, schema.zone)
    origin = local.min()
    # Slot numbers on the wall clock: they jump where clocks change.
    numbers = ((local - origin) // step).astype(np.int64)
    days = np.arange(local[0].astype("datetime64[D]"), local[-1].astype("datetime64[D]") + _DAY)
    walls = days.astype("datetime64[s]") + np.timedelta64(schema.issue_minutes, "m")
    begin = _row_numbers([period_start(wall, schema.zone) for wall in walls], table)
    end = _row_numbers([period_start(wall + schema.horizon * step, schema.zone) for wall in walls], table)
    first = ((walls - origin) // step).astype(np.int64)
    values = np.stack([table.columns[name] for name in schema.columns], axis=1)
    by_slot, shown = average_by_slot(values, numbers, int(numbers.max()) + 1)

    early = first < schema.history
    late = ~early & (end > len(table))
    kept = np.flatnonzero(~early & ~late)
    past = first[kept, None] + np.arange(-schema.history, 0)
    ahead = first[kept, None] + np.arange(schema.horizon)
    # A period or a history that the clock skips as a whole; only very short ones can be.
    some = (shown[past] > 0).any(axis=1) & (shown[ahead] > 0).any(axis=1)
    skipped_days = int((~some).sum())
    kept, past, ahead = kept[some], past[some], ahead[some]
    if not len(kept):
        raise DataError(
            f"{table.source}: none of {len(days)} days has {schema.history} steps of history and "
            f"{schema.horizon} steps from the issue time on in {len(table)} rows: "
            "give more rows or a shorter history",
            file=table.source,
        )
    num_targets, num_known = len(schema.targets), len(schema.known)
    known_columns = slice(len(schema.columns) - num_known, None)
    windows = Windows(
        schema=schema,
        days=days[kept],
        history=fill_skipped(by_slot[past]),
        known=fill_skipped(by_slot[ahead][:, :, known_columns]),
        slots=np.where((shown[ahead] == 1)[:, :, None], by_slot[ahead][:, :, :num_targets], np.nan),
        **_real_steps(table.times, values[:, :num_targets], numbers, begin[kept], end[kept], first[kept]),
        report=WindowReport(days=len(kept)),
    )
    report = WindowReport(
        days=len(kept),
        days_without_history=int(early.sum()),
        days_incomplete=int(late.sum()),
        days_skipped=skipped_days,
        irregular_days=tuple(str(day) for day in windows.days[~windows.regular]),
        slots_interpolated=int(
            (shown[past] == 0).sum() * values.shape[1] + (shown[ahead] == 0).sum() * num_known
        ),
        slots_averaged=int((shown[past] > 1).sum() * values.shape[1] + (shown[ahead] > 1).sum() * num_known),
    )
    return dataclasses.replace(windows, report=report)


def average_by_slot(values: np.ndarray, numbers: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, columns) mean of the rows of each slot, NaN without one, and (count,) rows per slot.

    Rows whose slot number is not in 0 .. count - 1 are left out.
    """
    inside = (numbers >= 0) & (numbers < count)
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, numbers[inside], values[inside])
    shown = np.bincount(numbers[inside], minlength=count)
    mean = np.full_like(total, np.nan)
    np.divide(total, shown[:, None], out=mean, where=shown[:, None] > 0)
    return mean, shown


def fill_skipped(by_slot: np.ndarray) -> np.ndarray:
    """``by_slot`` (B, L, columns) with NaN on the line between neighbors, or held at an end; in place.

    Only the row's own values are used, so nothing after a history's end can enter it.
    """
    for row in np.flatnonzero(np.isnan(by_slot).any(axis=(1, 2))):
        for column in by_slot[row].T:
            gap = np.isnan(column)
            column[gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), column[~gap])
    return by_slot


def _row_numbers(instants: list[np.datetime64], table: SeriesTable) -> np.ndarray:
    since = np.array(instants).astype("datetime64[ns]") - table.times[0]
    rows: np.ndarray = (since // np.timedelta64(table.step_minutes, "m")).astype(np.int64)
    return rows


def _real_steps(
    times: np.ndarray,
    targets: np.ndarray,
    numbers: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    first: np.ndarray,
) -> dict[str, np.ndarray]:
    rows = begin[:, None] + np.arange((end - begin).max())
    real = rows < end[:, None]
    rows = np.where(real, rows, 0)
    return {
        "step_times": np.where(real, times[rows], np.datetime64("NaT", "ns")),
        "step_slots": np.where(real, numbers[rows] - first[:, None], -1),
        "step_targets": np.where(real[:, :, None], targets[rows], np.nan),
    }
