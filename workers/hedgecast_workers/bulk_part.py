"""One part of a bulk run: a day's scenarios, drawn and written block by block.

A part is a Parquet file in long form, one row a scenario and step, in that order: `scenario` (int32),
`time` (UTC, start of the step) and a float32 column a series. So days of 23, 24 and 25 steps have one schema
and a folder of them is one table, any engine groups by step without unnesting, and a series' column as an
array is (S, T).

Nothing here grows with the number of scenarios.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from hedgecast.registry.session import Context, ScenarioSession
from hedgecast.scenarios.fingerprint import RunningFingerprint
from hedgecast_workers.bulk_files import BulkFiles
from hedgecast_workers.bulk_plan import SCENARIO, TIME, BulkSettings, date_of
from hedgecast_workers.storage import written_whole

# Rows of a group, in memory; a reader of one column holds a fraction of it.
ROW_GROUP_BYTES = 16 * 2**20
# Drawn at a time: the number after which a session begins its next pass through the network, so that the same
# scenarios are in a pass as online and not even rounding differs.
_DRAWN = 4096
_INDEX_BYTES, _VALUE_BYTES = 4 + 8, 4
_META = b"hedgecast"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What became of one day."""

    record: dict[str, Any]
    """What the manifest holds: file, rows, bytes, checksum, fingerprint of the scenario set."""
    made: bool
    """False: it was there already."""
    seconds: float
    """To make, or to check."""
    process: int
    """That did it."""
    peak_bytes: int
    """Of memory that the process ever held."""


class PartWriter:
    """Makes parts, one after another.

    Parameters
    ----------
    session : ScenarioSession
        The network.
    files : BulkFiles
        Where parts go.
    settings : BulkSettings
        What they share.
    """

    def __init__(self, session: ScenarioSession, files: BulkFiles, settings: BulkSettings) -> None:
        self.session, self.files, self.settings = session, files, settings

    def make(self, day: Context) -> Part:
        """A day's part, which is now in the folder, whole; one that is there already is checked and stays."""
        begun = time.perf_counter()
        record = self.files.finished(self.settings, day)
        made = record is None
        if record is None:
            record = self._written(day)
            self.files.enter(day, record)
        return Part(
            record=record,
            made=made,
            seconds=time.perf_counter() - begun,
            process=os.getpid(),
            peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        )

    def _written(self, day: Context) -> dict[str, Any]:
        settings, num_steps = self.settings, len(day.step_times)
        shape = (1, settings.scenarios, num_steps, len(settings.names))
        fingerprint = RunningFingerprint(shape, settings.names, settings.units, day.step_times[None])
        # Whole scenarios; the last pass of a draw may leave a short one.
        group = max(1, ROW_GROUP_BYTES // (num_steps * self._row_bytes))
        name = self.files.part_name(settings, day)
        with written_whole(self.files.filesystem, self.files.path(name)) as stream:
            file = _Hashing(stream)
            with pyarrow.parquet.ParquetWriter(file, self._schema(day), **self._options) as writer:
                for start, paths in self._drawn(day, max(_DRAWN, group // _DRAWN * _DRAWN)):
                    fingerprint.update(paths)
                    writer.write_table(self._table(day, start, paths), row_group_size=group * num_steps)
        return {
            "day": date_of(day),
            "file": name,
            "rows": settings.scenarios * num_steps,
            "scenarios": settings.scenarios,
            "steps": num_steps,
            "bytes": file.size,
            "sha256": file.digest.hexdigest(),
            "fingerprint": fingerprint.hexdigest(),
        }

    def _drawn(self, day: Context, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Numbers of first scenarios, and paths (size, R, F) from there on."""
        count, seed = self.settings.scenarios, self.settings.seed
        for start in range(0, count, size):
            block = min(size, count - start)
            (paths,) = self.session.draw(day.features[None], [day.day_number], block, seed, start=start)
            yield start, paths[:, day.step_slots]

    def _table(self, day: Context, start: int, paths: NDArray[np.float32]) -> pa.Table:
        count, num_steps, _ = paths.shape
        columns = [
            pa.array(np.repeat(np.arange(start, start + count, dtype=np.int32), num_steps)),
            pa.array(np.tile(day.step_times.astype("datetime64[us]"), count), _TIME_TYPE),
            *(pa.array(np.ascontiguousarray(values).ravel()) for values in np.moveaxis(paths, 2, 0)),
        ]
        return pa.Table.from_arrays(columns, schema=self._schema(day))

    def _schema(self, day: Context) -> pa.Schema:
        settings = self.settings
        fields = [pa.field(SCENARIO, pa.int32(), False), pa.field(TIME, _TIME_TYPE, False)]
        for name, unit in zip(settings.names, settings.units, strict=True):
            fields.append(pa.field(name, pa.float32(), False, {"unit": unit}))
        about = {
            **settings.to_dict(),
            "day": date_of(day),
            "key": settings.part_key(day),
            "times": [f"{time}Z" for time in np.datetime_as_string(day.step_times, unit="s")],
        }
        return pa.schema(fields, {_META: json.dumps(about).encode()})

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "compression": "zstd",
            "compression_level": 1,
            # Values never repeat: their bytes by significance are what compresses, and what reads fastest.
            "use_dictionary": [SCENARIO, TIME],
            "use_byte_stream_split": list(self.settings.names),
        }

    @property
    def _row_bytes(self) -> int:
        return _INDEX_BYTES + _VALUE_BYTES * len(self.settings.names)


class _Hashing:
    """A stream to write into, and the checksum of what went through; Parquet is written without seeking."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self._stream.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True


_TIME_TYPE = pa.timestamp("us", "UTC")
