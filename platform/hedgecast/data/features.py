"""A context as one row of numbers; the same code for training and for the server."""

from __future__ import annotations

import numpy as np

from hedgecast.core.errors import DataError
from hedgecast.data.clock import daylight_saving
from hedgecast.data.schema import DAYS_PER_WEEK, FeatureSchema
from hedgecast.data.windows import Windows

__all__ = ["FeatureSchema", "features"]

_DAYS_PER_YEAR = 365.25


def features(windows: Windows) -> np.ndarray:
    """(B, C) float64 context of each day; ``windows.schema.names`` are the columns.

    Each row depends on its day alone, bit for bit: one day from raw rows gives the row it has in training.

    Raises
    ------
    DataError
        A column that was constant within every day of training is not so here.
    """
    schema = windows.schema
    hourly = [schema.columns.index(name) for name in schema.hourly]
    # (B, columns, H), contiguous, so that a mean is summed in the same order for one day as for many.
    past = np.ascontiguousarray(np.swapaxes(windows.history[:, :, hourly], 1, 2))
    num_slots, num_days = schema.slots_per_day, schema.history // schema.slots_per_day
    blocks = [past[:, :, -min(num_slots, schema.history) :]]
    if schema.looks_back_a_week:
        week = schema.history - DAYS_PER_WEEK * num_slots
        blocks.append(past[:, :, week : week + schema.horizon])
    if num_days:
        recent = past[:, :, schema.history - num_days * num_slots :]
        daily_means = recent.reshape(*past.shape[:2], num_days, num_slots).mean(axis=3)
        blocks.append(daily_means[:, :, ::-1])
    flat = [block.reshape(len(windows), -1) for block in blocks]
    flat += [_known(windows, column) for column in range(len(schema.known))]
    row = np.concatenate([*flat, _calendar(windows)], axis=1)
    assert row.shape[1] == len(schema.names)
    return row


def _known(windows: Windows, column: int) -> np.ndarray:
    schema = windows.schema
    name = schema.known[column]
    ahead = windows.known[:, :, column]
    if name not in schema.daily:
        return ahead
    uneven = np.flatnonzero(np.any(ahead != ahead[:, :1], axis=1))
    if len(uneven):
        raise DataError(
            f"known column {name!r} varies within {windows.days[uneven[0]]}, but was constant within "
            "each day of the training table: give one value for the whole day, or train where it varies",
            column=name,
            day=str(windows.days[uneven[0]]),
        )
    past = windows.history[:, :, schema.columns.index(name)]
    values = [ahead[:, 0], past[:, -1]]
    if schema.looks_back_a_week:
        values.append(past[:, schema.history - DAYS_PER_WEEK * schema.slots_per_day])
    return np.stack(values, axis=1)


def _calendar(windows: Windows) -> np.ndarray:
    days = windows.days
    # 1970-01-01 was a Thursday, the fourth day of the week.
    weekday = (days.astype(np.int64) + 3) % DAYS_PER_WEEK
    one_hot = np.eye(DAYS_PER_WEEK)[weekday]
    day_of_year = (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64)
    angle = 2 * np.pi * day_of_year / _DAYS_PER_YEAR
    year = [function(order * angle) for order in (1, 2) for function in (np.cos, np.sin)]
    saving = daylight_saving(windows.step_times[:, 0], windows.schema.zone)
    return np.column_stack([one_hot, weekday >= 5, *year, saving]).astype(np.float64)
