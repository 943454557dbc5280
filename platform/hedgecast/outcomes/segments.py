"""A closed log as two Parquet files in a folder that appears and goes as a whole.

``segments/00000007/decisions.parquet`` and ``outcomes.parquet`` hold what log 7 held, in its order. They are
never changed, so that any reader of Parquet may have them open.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hedgecast.core.errors import OutcomeError
from hedgecast.outcomes.encoding import Kind
from hedgecast.outcomes.log import sync_folder

# One decision is read back by reading one group: small groups make that cheap, large ones compress better.
_MOST_ROWS_PER_GROUP = 256
_BYTES_PER_GROUP = 2 * 2**20
_FILES = {Kind.DECISION: "decisions.parquet", Kind.OUTCOME: "outcomes.parquet"}
_TIMES = {Kind.DECISION: "issued_at", Kind.OUTCOME: "recorded_at"}
_UNFINISHED = ".unfinished"


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind that are to become a file, read a group at a time."""

    count: int
    nbytes: int
    """About so many in all."""
    read: Callable[[int, int], pa.Table]
    """Those from a place to before another."""


class Segment:
    """One such folder, opened for reading.

    Raises
    ------
    OutcomeError
        A file is missing or damaged; page checksums are verified on every read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = int(folder.name)
        # Nothing says that a ParquetFile may be read by two threads at a time.
        self._lock = threading.Lock()
        self._files = {kind: self._open(kind) for kind in Kind}
        self.size = sum((folder / name).stat().st_size for name in _FILES.values())
        self.newest = max(filter(None, map(self._newest, Kind)), default=None)

    def table(self, kind: Kind, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows; ``columns`` None: all of them."""
        try:
            with self._lock:
                return self._files[kind].read(columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(kind, error) from error

    def row(self, kind: Kind, row: int) -> tuple[pa.Table, int]:
        """A table with the row in it, and its place there."""
        try:
            with self._lock:
                file = self._files[kind]
                rows = file.metadata.row_group(0).num_rows
                group = file.read_row_group(row // rows)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(kind, error) from error
        return group, row % rows

    def close(self) -> None:
        """Close both files."""
        with self._lock:
            for file in self._files.values():
                file.close()

    def remove(self) -> None:
        """Take the whole folder away; what dies half way is finished by ``clear_unfinished``.

        Who reads it meanwhile reads on: the files go with their last reader.
        """
        gone = self.folder.with_name(self.folder.name + _UNFINISHED)
        os.replace(self.folder, gone)
        sync_folder(self.folder.parent)
        shutil.rmtree(gone)

    def _open(self, kind: Kind) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.folder / _FILES[kind], page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(kind, error) from error

    def _damaged(self, kind: Kind, error: Exception) -> OutcomeError:
        return OutcomeError(
            f"{self.folder / _FILES[kind]} cannot be read ({error}): restore the folder {self.folder.name} "
            "from a backup, or move it away to go on without it"
        )

    def _newest(self, kind: Kind) -> datetime.datetime | None:
        times = self.table(kind, [_TIMES[kind]]).column(0)
        newest: datetime.datetime | None = pc.max(times).as_py() if len(times) else None
        return newest


def write_segment(folder: Path, number: int, rows: Mapping[Kind, Rows]) -> Segment:
    """The segment of log ``number`` under ``folder``, written as a whole or not at all."""
    unfinished = folder / f"{number:08d}{_UNFINISHED}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for kind, name in _FILES.items():
        _write(unfinished / name, kind, rows[kind])
    sync_folder(unfinished)
    os.replace(unfinished, folder / f"{number:08d}")
    sync_folder(folder)
    return Segment(folder / f"{number:08d}")


def clear_unfinished(folder: Path) -> None:
    """Remove what a writer that died left half written or half removed."""
    for path in folder.glob(f"*{_UNFINISHED}"):
        shutil.rmtree(path)


def segments_in(folder: Path) -> list[Segment]:
    """The segments under ``folder``, oldest first."""
    return [Segment(path) for path in sorted(folder.iterdir()) if path.name.isdigit()]


def _write(path: Path, kind: Kind, rows: Rows) -> None:
    size = _rows_per_group(rows)
    # Group by group: a row of nested lists takes several times its bytes while it is one.
    with pq.ParquetWriter(path, kind.schema, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, rows.count, size):
            writer.write_table(rows.read(start, min(start + size, rows.count)), row_group_size=size)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _rows_per_group(rows: Rows) -> int:
    fitting = _BYTES_PER_GROUP * rows.count // max(1, rows.nbytes)
    return min(max(fitting, 1), _MOST_ROWS_PER_GROUP)
