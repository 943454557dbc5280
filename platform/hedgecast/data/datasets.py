"""Real data that ship in wheels on the package index, cached as Parquet."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from hedgecast.core.errors import ConfigError, DataError
from hedgecast.data import german_grid
from hedgecast.data.config import DataConfig
from hedgecast.data.tables import SeriesTable, check_table, read_table
from hedgecast.data.wheel import fetch_members

_LOG = logging.getLogger(__name__)
_META = b"hedgecast"
_DATASETS = {"german_grid": german_grid}


def load_table(config: DataConfig) -> SeriesTable:
    """The table that a study's ``[data]`` names.

    Raises
    ------
    DataError, ConfigError
        As ``read_table`` and ``load_dataset``; or a zone or step that is not the dataset's.
    """
    if config.path is not None:
        return read_table(config.path, config)
    assert config.dataset is not None
    table = load_dataset(config.dataset)
    if config.timezone != table.timezone:
        raise ConfigError(
            f"data.timezone = {config.timezone!r}: the days of {config.dataset} are those of "
            f"{table.timezone}: use that",
            key="data.timezone",
        )
    if config.step_minutes != table.step_minutes:
        raise ConfigError(
            f"data.step = {config.step!r}: {config.dataset} has steps of {table.step_minutes} min: use that",
            key="data.step",
        )
    check_table(table, config)
    return table


def load_dataset(name: str) -> SeriesTable:
    """A shipped dataset by name, from the cache or, the first time, from the package index.

    Raises
    ------
    ConfigError
        No dataset of that name.
    DataError
        Neither in the cache nor to be fetched, or not what was pinned.
    """
    if name not in _DATASETS:
        raise ConfigError(
            f"data.dataset = {name!r}: no such dataset: there are {', '.join(sorted(_DATASETS))}",
            key="data.dataset",
        )
    recipe = _DATASETS[name]
    path = cache_folder() / f"{name}-{recipe.RECIPE}.parquet"
    table = _read_cached(path)
    if table is None:
        try:
            contents = fetch_members(recipe.PIN)
        except DataError as error:
            raise DataError(
                f"dataset {name!r} is not in the cache ({path}) and cannot be fetched: {error}", **error.facts
            ) from error
        table = recipe.build(contents)
        _write_cached(path, table)
    return table


def cache_folder() -> Path:
    """``$HEDGECAST_CACHE``, or ``hedgecast`` in the user's cache folder."""
    named = os.environ.get("HEDGECAST_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hedgecast"


def fingerprint(table: SeriesTable) -> str:
    """Hexadecimal SHA-256 of times, names and values."""
    digest = hashlib.sha256(np.ascontiguousarray(table.times.astype("<M8[ns]")).tobytes())
    for name, values in table.columns.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values, "<f8").tobytes())
    return digest.hexdigest()


def _write_cached(path: Path, table: SeriesTable) -> None:
    meta = {
        "units": table.units,
        "timezone": table.timezone,
        "step_minutes": table.step_minutes,
        "source": table.source,
        "report": table.report,
        "fingerprint": fingerprint(table),
    }
    columns: dict[str, Any] = {"timestamp_utc": pa.array(table.times, pa.timestamp("ns", "UTC"))}
    arrow = pa.table({**columns, **table.columns}).replace_schema_metadata({_META: json.dumps(meta).encode()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    except OSError as error:
        raise DataError(
            f"the cache folder {path.parent} cannot be written: {error}: set HEDGECAST_CACHE to one that can"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            pa.parquet.write_table(arrow, file, compression="zstd")
        # Atomic: a reader sees the whole file or none.
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_cached(path: Path) -> SeriesTable | None:
    """The cached table, or None when there is none or it is damaged (which is logged)."""
    if not path.exists():
        return None
    try:
        arrow = pa.parquet.read_table(path)
        meta = json.loads(arrow.schema.metadata[_META])
        table = SeriesTable(
            times=arrow["timestamp_utc"].to_numpy().astype("datetime64[ns]"),
            columns={name: arrow[name].to_numpy() for name in arrow.column_names if name != "timestamp_utc"},
            units=meta["units"],
            timezone=meta["timezone"],
            step_minutes=meta["step_minutes"],
            source=meta["source"],
            report=meta["report"],
        )
        if fingerprint(table) == meta["fingerprint"]:
            return table
        found = "its values differ from their fingerprint"
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        found = str(error)
    _LOG.warning("cache file %s is damaged (%s): fetching the data again", path, found)
    return None
