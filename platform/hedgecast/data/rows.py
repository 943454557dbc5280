"""One decision day from raw named rows, as a planner sends them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hedgecast.core.errors import DataError
from hedgecast.data.clock import first_instant, local_times, period_start, show
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.tables import check_finite, check_grid
from hedgecast.data.windows import WindowReport, Windows, average_by_slot, fill_skipped

_HISTORY = "history rows"
_KNOWN = "known rows"


def window_from_rows(
    schema: FeatureSchema,
    *,
    times: np.ndarray,
    columns: Mapping[str, np.ndarray],
    known_times: np.ndarray | None = None,
    known: Mapping[str, np.ndarray] | None = None,
    day: np.datetime64 | None = None,
) -> Windows:
    """The one decision day that follows the history rows, its targets unknown.

    Parameters
    ----------
    schema : FeatureSchema
        That of the model.
    times, columns
        (N,) UTC datetime64 and (N,) values of every column of ``schema.columns``, up to the last step before
        the issue time. Rows older than the history are not used.
    known_times, known
        UTC times and values of every column of ``schema.known`` in the real steps of the decision period;
        rows outside it are not used. Not needed where ``schema.known`` is empty.
    day : datetime64
        Local date of the issue time asked for; None: the one right after the history.

    Raises
    ------
    DataError
        A missing column, a length that differs, gaps, duplicates, another step, a value that is not finite,
        a history that is too short, too old, or that reaches into the period.
    """
    step = np.timedelta64(schema.step_minutes, "m")
    past = _block(schema, schema.columns, times, columns, _HISTORY)
    times = np.asarray(times).astype("datetime64[ns]")
    wall = _issue_wall(schema, times[-1] + step, day)
    start = period_start(wall, schema.zone)
    _check_end(schema, times, start, wall)
    oldest = first_instant(wall - schema.history * step, schema.zone)
    if times[0] > oldest:
        needed = int((start - oldest) // step)
        raise DataError(
            f"{_HISTORY}: {len(times)} rows from {show(times[0])} UTC are too few: the history "
            f"of {schema.history} steps needs {needed}, from {show(oldest)} UTC to {show(start - step)} UTC",
            rows=len(times),
            needed=needed,
        )
    used = times >= oldest
    origin = wall - schema.history * step
    by_slot, shown = average_by_slot(past[used], _slots(times[used], origin, schema), schema.history)

    end = period_start(wall + schema.horizon * step, schema.zone)
    period = np.arange(start, end, step.astype("timedelta64[s]")).astype("datetime64[ns]")
    if not len(period) or not shown.any():
        raise DataError(
            f"the clock of {schema.timezone} skips the whole period or history at {show(wall)}: "
            "take another day"
        )
    slots = _slots(period, wall, schema)
    ahead, shown_ahead = average_by_slot(
        _known_block(schema, period, known_times, known), slots, schema.horizon
    )
    num_known, num_targets = len(schema.known), len(schema.targets)
    return Windows(
        schema=schema,
        days=wall.astype("datetime64[D]")[None],
        history=fill_skipped(by_slot[None]),
        known=fill_skipped(ahead[None]),
        slots=np.full((1, schema.horizon, num_targets), np.nan),
        step_times=period[None],
        step_slots=slots[None],
        step_targets=np.full((1, len(period), num_targets), np.nan),
        report=WindowReport(
            days=1,
            irregular_days=(str(wall.astype("datetime64[D]")),) if len(period) != schema.horizon else (),
            slots_interpolated=int((shown == 0).sum() * past.shape[1] + (shown_ahead == 0).sum() * num_known),
            slots_averaged=int((shown > 1).sum() * past.shape[1] + (shown_ahead > 1).sum() * num_known),
        ),
    )


def _block(
    schema: FeatureSchema,
    names: tuple[str, ...],
    times: np.ndarray,
    columns: Mapping[str, np.ndarray],
    source: str,
) -> np.ndarray:
    """(N, columns) float64 of checked rows."""
    times = np.asarray(times)
    if times.ndim != 1 or not len(times) or times.dtype.kind != "M" or np.isnat(times).any():
        raise DataError(
            f"{source}: times of shape {times.shape} and type {times.dtype}: "
            "give one UTC datetime64 per row, at least one row"
        )
    check_grid(times.astype("datetime64[ns]"), schema.step_minutes, source)
    values = np.empty((len(times), len(names)))
    for position, name in enumerate(names):
        if name not in columns:
            raise DataError(
                f"{source}: no column {name!r}: the model needs {', '.join(names)}; "
                f"given {', '.join(columns) or 'none'}",
                column=name,
            )
        column = np.asarray(columns[name])
        if column.dtype.kind not in "biuf":
            raise DataError(f"{source}, column {name!r}: holds {column.dtype}: give numbers", column=name)
        if column.shape != times.shape:
            raise DataError(
                f"{source}, column {name!r}: shape {column.shape} for {len(times)} times: "
                "give one value per time",
                column=name,
            )
        check_finite(column.astype(np.float64), name, times, source)
        values[:, position] = column
    return values


def _issue_wall(schema: FeatureSchema, following: np.datetime64, day: np.datetime64 | None) -> np.datetime64:
    """datetime64[s] on the wall clock at which the period begins."""
    issue = np.timedelta64(schema.issue_minutes, "m")
    if day is not None:
        asked: np.datetime64 = day.astype("datetime64[D]").astype("datetime64[s]") + issue
        return asked
    local = local_times(np.array([following]), schema.zone)[0]
    # A skipped issue time begins at the jump, so the clock may show later than it.
    wall: np.datetime64 = (local - issue).astype("datetime64[D]").astype("datetime64[s]") + issue
    if period_start(wall, schema.zone) != following:
        raise DataError(
            f"{_HISTORY}: the step after the last is {show(local)} in {schema.timezone}, but decisions "
            f"are issued at {_clock(schema)}: give rows up to the last step before it",
            time=show(local),
        )
    return wall


def _check_end(schema: FeatureSchema, times: np.ndarray, start: np.datetime64, wall: np.datetime64) -> None:
    step = np.timedelta64(schema.step_minutes, "m")
    missing = int((start - times[-1]) // step) - 1
    if missing > 0:
        raise DataError(
            f"{_HISTORY} end at {show(times[-1])} UTC, {missing} steps before the issue time {show(wall)} "
            f"in {schema.timezone} ({show(start)} UTC): give rows up to {show(start - step)} UTC",
            missing=missing,
        )
    if missing < 0:
        raise DataError(
            f"{_HISTORY} reach {show(times[-1])} UTC, into the period that begins at {show(start)} UTC "
            f"({show(wall)} in {schema.timezone}): end them at {show(start - step)} UTC "
            "or ask for a later day",
            extra=-missing,
        )
    if times[-1] + step != start:
        raise DataError(
            f"{_HISTORY}: {show(times[-1])} UTC is not a whole number of {schema.step_minutes} min steps "
            f"from the issue time {show(start)} UTC: give rows on the model's grid"
        )


def _known_block(
    schema: FeatureSchema,
    period: np.ndarray,
    known_times: np.ndarray | None,
    known: Mapping[str, np.ndarray] | None,
) -> np.ndarray:
    """(R, K) known values of the real steps."""
    if not schema.known:
        return np.empty((len(period), 0))
    span = f"{show(period[0])} UTC to {show(period[-1])} UTC ({len(period)} steps)"
    if known_times is None or known is None:
        raise DataError(f"{_KNOWN} are missing: give {', '.join(schema.known)} for {span}")
    values = _block(schema, schema.known, known_times, known, _KNOWN)
    known_times = np.asarray(known_times).astype("datetime64[ns]")
    first = int(np.searchsorted(known_times, period[0]))
    if not np.array_equal(known_times[first : first + len(period)], period):
        raise DataError(
            f"{_KNOWN} from {show(known_times[0])} UTC to {show(known_times[-1])} UTC do not cover the "
            f"period: give {', '.join(schema.known)} for {span}"
        )
    return values[first : first + len(period)]


def _slots(times: np.ndarray, origin: np.datetime64, schema: FeatureSchema) -> np.ndarray:
    step = np.timedelta64(schema.step_minutes, "m")
    numbers: np.ndarray = ((local_times(times, schema.zone) - origin) // step).astype(np.int64)
    return numbers


def _clock(schema: FeatureSchema) -> str:
    return f"{schema.issue_minutes // 60:02d}:{schema.issue_minutes % 60:02d}"
