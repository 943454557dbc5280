"""Decision days from a table of raw rows, as they are drawn for in bulk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hedgecast.core.errors import DataError
from hedgecast.data.config import DataConfig
from hedgecast.data.rows import window_from_rows
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.tables import SeriesTable, check_finite, check_grid, check_wall_grid, table_of
from hedgecast.data.windows import Windows, build_windows


def days_of_rows(raw: pa.Table, config: DataConfig, schema: FeatureSchema, source: str) -> Windows:
    """The decision days of a table: all whose history and period lie in it, or the one that is to come.

    A table whose last rows leave every target and observed column empty ends in the period to come: those
    rows hold what is known ahead, and the one day that they make is given.

    Parameters
    ----------
    raw : pyarrow.Table
        Rows as in a study's data.
    config : DataConfig
        Names the columns; its zone is that of naive times.
    schema : FeatureSchema
        That of the model.
    source : str
        For messages.

    Raises
    ------
    DataError
        A defect of the table, as `hedgecast.data.tables.read_table` finds them, or no day.
    """
    table = table_of(raw, config, source)
    check_grid(table.times, config.step_minutes, source)
    check_wall_grid(table, config)
    past = _rows_with_values(table, config.targets + config.observed)
    if not past:
        raise DataError(
            f"{source}: no row has a value of {config.targets[0]!r}: there is no history", file=source
        )
    for name in config.columns:
        stop = len(table) if name in config.known else past
        check_finite(table.columns[name][:stop], name, table.times, source)
    if past == len(table):
        return build_windows(table, schema)
    return window_from_rows(
        schema,
        times=table.times[:past],
        columns={name: values[:past] for name, values in table.columns.items()},
        known_times=table.times[past:],
        known={name: table.columns[name][past:] for name in config.known},
    )


def _rows_with_values(table: SeriesTable, names: tuple[str, ...]) -> int:
    """Rows up to the last in which one of the columns has a value."""
    some = np.any([~np.isnan(table.columns[name]) for name in names], axis=0)
    return int(np.flatnonzero(some)[-1]) + 1 if some.any() else 0
