"""What a bulk run draws: decision days, and the settings that every part of it shares."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.fs
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, DataError
from hedgecast.data.config import DataConfig
from hedgecast.data.contexts import days_of_rows
from hedgecast.data.datasets import load_table
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.tables import read_arrow
from hedgecast.data.windows import Windows, build_windows
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.session import Context, context_of
from hedgecast_workers.storage import absolute, files_below, place

FORMAT = 1
SCENARIO, TIME = INDEX = ("scenario", "time")
_TABLES = (".csv", ".parquet")
# Rounding of the last bit may differ between these.
_PACKAGES = ("hedgecast", "numpy", "onnxruntime")
# What the study and the model must say alike for the study's tables to be the model's.
_SHARED = (
    *("timezone", "step_minutes", "issue_minutes", "history", "horizon"),
    *("targets", "observed", "known"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BulkSettings:
    """What all parts of a run share; a folder holds one run."""

    model: str
    """NAME@VERSION, or the name of a bundle."""
    fingerprint: str
    """Of the model's bundle."""
    names: tuple[str, ...]
    """F series names."""
    units: tuple[str, ...]
    """F units."""
    scenarios: int
    """Scenarios of each day."""
    seed: int
    """Seed of the draw."""
    contexts: str
    """SHA-256 of the contexts of all days."""
    versions: Mapping[str, str]
    """Of the packages whose rounding shows in the scenarios."""

    @classmethod
    def of(cls, bundle: Bundle, model: str, days: Sequence[Context], *, scenarios: int, seed: int) -> Self:
        """The settings of a run over ``days``.

        Raises
        ------
        ConfigError
            A series has the name of an index column.
        """
        shape = bundle.manifest.generator
        if taken := set(shape.names) & set(INDEX):
            raise ConfigError(
                f"a series is called {taken.pop()!r}, as the index column is: rename it", key="data.targets"
            )
        digest = hashlib.sha256("".join(digest_of(day) for day in days).encode())
        return cls(
            model=model,
            fingerprint=bundle.manifest.fingerprint,
            names=shape.names,
            units=shape.units,
            scenarios=scenarios,
            seed=seed,
            contexts=digest.hexdigest(),
            versions={name: version(name) for name in _PACKAGES},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        record = {"format": FORMAT, **dataclasses.asdict(self)}
        return {**record, "names": list(self.names), "units": list(self.units)}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What ``other``, the `to_dict` of another run, has otherwise; empty: it is the same run.

        Equal content under another name or version is the same model.
        """
        own = self.to_dict()
        keys = [key for key in own if key != "model" and own[key] != other.get(key)]
        return [f"{key} {_shown(other.get(key))} (asked: {_shown(own[key])})" for key in keys]

    def part_key(self, day: Context) -> str:
        """Sixteen hexadecimal digits that name the part of a day: equal exactly when all it is made of is."""
        made_of = {key: value for key, value in self.to_dict().items() if key not in ("model", "contexts")}
        text = json.dumps([made_of, digest_of(day)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(day: Context) -> str:
    """SHA-256 of all that a context is."""
    digest = hashlib.sha256(str(day.day_number).encode())
    for values, kind in ((day.features, "<f8"), (day.step_times, "<M8[ns]"), (day.step_slots, "<i8")):
        digest.update(np.ascontiguousarray(values.astype(kind)).tobytes())
    return digest.hexdigest()


def date_of(day: Context) -> str:
    """Local date of a context's issue time, YYYY-MM-DD."""
    return str(np.datetime64(day.day_number, "D"))


def to_table(days: Sequence[Context]) -> pa.Table:
    """Contexts as rows, in which form they travel to the actors."""
    return pa.table(
        {
            "day_number": pa.array([day.day_number for day in days], pa.int64()),
            "features": pa.array([day.features for day in days], pa.list_(pa.float64())),
            "step_times": pa.array([_nanoseconds(day) for day in days], pa.list_(pa.int64())),
            "step_slots": pa.array([day.step_slots for day in days], pa.list_(pa.int64())),
        }
    )


def of_table(table: pa.Table) -> list[Context]:
    """The contexts of `to_table`."""
    return [
        Context(
            features=np.asarray(row["features"], np.float64),
            day_number=row["day_number"],
            step_times=np.asarray(row["step_times"], np.int64).astype("datetime64[ns]"),
            step_slots=np.asarray(row["step_slots"], np.int64),
        )
        for row in table.to_pylist()
    ]


def check_study(data: DataConfig, schema: FeatureSchema, model: str) -> None:
    """Nothing, if the study's tables are those that the model reads.

    Raises
    ------
    ConfigError
        Names the first key that differs.
    """
    for key in _SHARED:
        found, needed = getattr(data, key), getattr(schema, key)
        if found != needed:
            raise ConfigError(
                f"the study has {key} = {found!r}, model {model} was made with {needed!r}: give the study "
                "that it was trained with",
                key=f"data.{key}",
            )


def days_of_study(data: DataConfig, schema: FeatureSchema) -> list[Context]:
    """A context for every decision day of the study's own data."""
    return _contexts(build_windows(load_table(data), schema))


def days_of_files(
    addresses: Sequence[str], data: DataConfig, schema: FeatureSchema, timestamp: str
) -> list[Context]:
    """A context for every decision day of tables, in the order of days.

    Parameters
    ----------
    addresses : sequence of str
        Files, or folders of them, on any filesystem of pyarrow.
    data : DataConfig
        The study's; names the columns.
    schema : FeatureSchema
        The model's.
    timestamp : str
        Time column, where the study's data are a dataset and name none.

    Raises
    ------
    DataError
        No such file, a defect in one, or two files with the same day.
    """
    config = dataclasses.replace(data, dataset=None, path="contexts", timestamp=data.timestamp or timestamp)
    found: dict[int, tuple[Context, str]] = {}
    for filesystem, path in _tables(addresses):
        with filesystem.open_input_file(path) as file:
            raw = read_arrow(file, path)
        for day in _contexts(days_of_rows(raw, config, schema, path)):
            if day.day_number in found:
                raise DataError(
                    f"{path} and {found[day.day_number][1]} both make the day {date_of(day)}: "
                    "give each day once",
                    file=path,
                )
            found[day.day_number] = day, path
    return [found[number][0] for number in sorted(found)]


def within(days: Sequence[Context], span: str) -> list[Context]:
    """The days from A to B, both included, of a span A..B of local dates; of one date A, that day.

    Raises
    ------
    ConfigError
        It is no span.
    DataError
        No day lies in it.
    """
    begin, separator, end = span.partition("..")
    try:
        first, last = (np.datetime64(text, "D").astype(int) for text in (begin, end if separator else begin))
    except ValueError:
        first, last = 0, -1
    if first > last:
        raise ConfigError(f"--days {span!r}: write A..B with dates YYYY-MM-DD, A not after B", key="days")
    kept = [day for day in days if first <= day.day_number <= last]
    if not kept:
        there = f"{date_of(days[0])} to {date_of(days[-1])}" if days else "none"
        raise DataError(f"--days {span}: no decision day lies in it: there are {len(days)} ({there})")
    return kept


def _contexts(windows: Windows) -> list[Context]:
    return [context_of(windows, row) for row in range(len(windows))]


def _tables(addresses: Sequence[str]) -> list[tuple[pyarrow.fs.FileSystem, str]]:
    tables = []
    for address in addresses:
        filesystem, path = place(absolute(address), "contexts")
        if filesystem.get_file_info(path).type == pyarrow.fs.FileType.File:
            tables.append((filesystem, path))
            continue
        names = sorted(name for name in files_below(filesystem, path) if name.lower().endswith(_TABLES))
        if not names:
            raise DataError(
                f"{address}: no such file, and no folder with .csv or .parquet files", file=address
            )
        tables += [(filesystem, f"{path}/{name}") for name in names]
    return tables


def _nanoseconds(day: Context) -> NDArray[np.int64]:
    return day.step_times.astype("datetime64[ns]").astype(np.int64)


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) > 40 and " " not in text else text
