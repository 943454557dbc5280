"""The folder of a store: one log that is written, older ones rolled into segments, the oldest removed.

    LOCK                              who writes
    log/00000009.log                  what is written now
    segments/00000008/*.parquet       what log 8 held

A record is addressed by its log's number and its rank among those of its kind there, which stays when the log
becomes a segment.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError, DecisionNotFoundError
from hedgecast.outcomes.encoding import Kind, from_bytes
from hedgecast.outcomes.folder_lock import FolderLock
from hedgecast.outcomes.index import Place
from hedgecast.outcomes.log import Entry, Log, salvage_file, sync_folder
from hedgecast.outcomes.segments import Rows, Segment, clear_unfinished, segments_in, write_segment

log = logging.getLogger(__name__)

# Rows that are put together at a time: each alone takes several times its bytes.
_GROUP = 256


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Retention(Config):
    """What is kept, and for how long. The oldest segments go as a whole, the log that is written never."""

    days: float = 400.0
    """A segment goes when its newest record is older."""
    max_bytes: int = 4 * 2**30
    """Size of all segments."""
    max_decisions: int = 200_000
    """Bounds memory too: 495 bytes each with an outcome, request ids included (measured)."""
    roll_bytes: int = 16 * 2**20
    """Size at which a log is closed and becomes a segment."""
    roll_days: float = 7.0
    """Age of a log at which it does."""

    def __post_init__(self) -> None:
        """Refuse what is not positive."""
        for name, least in (("days", 0), ("max_bytes", 0), ("max_decisions", 7), ("roll_bytes", 0)):
            if getattr(self, name) <= least:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be over {least}", key=name)
        if self.roll_days <= 0:
            raise ConfigError(f"roll_days = {self.roll_days}: must be over 0", key="roll_days")

    @property
    def roll_decisions(self) -> int:
        """Decisions at which a log is closed: an eighth of all, so that dropping the oldest makes room."""
        return max(1, self.max_decisions // 8)


class _OpenLog:
    """A log and the entries of each kind in it."""

    def __init__(self, path: Path, opened: datetime.datetime) -> None:
        self.file = Log(path)
        self.opened = opened
        self.entries: dict[Kind, list[Entry]] = {kind: [] for kind in Kind}
        for entry in self.file.recovered:
            self.entries[Kind(entry.kind)].append(entry)

    def append(self, kind: Kind, payload: bytes) -> int:
        """Write a record and return its rank among those of its kind."""
        self.entries[kind].append(self.file.append(kind, payload))
        return len(self.entries[kind]) - 1

    def reader(self, kind: Kind, columns: Sequence[str] | None = None) -> Callable[[], pa.Table]:
        """What gives all rows of ``kind`` that are there now, whatever happens to the file later."""
        payloads = [self.file.read(entry) for entry in self.entries[kind]]

        def read() -> pa.Table:
            starts = range(0, len(payloads), _GROUP)
            groups = [_table(payloads[start : start + _GROUP], kind, columns) for start in starts]
            return pa.concat_tables([_table([], kind, columns), *groups])

        return read

    def rows(self, kind: Kind) -> Rows:
        """All rows of ``kind``, read when they are asked for; nobody may close the file before."""
        entries = self.entries[kind]

        def read(start: int, stop: int) -> pa.Table:
            return _table(map(self.file.read, entries[start:stop]), kind)

        return Rows(len(entries), sum(entry.length for entry in entries), read)


def _table(payloads: Iterable[bytes], kind: Kind, columns: Sequence[str] | None = None) -> pa.Table:
    table = pa.Table.from_batches([from_bytes(payload, kind) for payload in payloads], schema=kind.schema)
    return (table if columns is None else table.select(list(columns))).combine_chunks()


class Journal:
    """Owns the folder. ``lock`` guards all of it; a caller holds it while it reads and then writes.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    retention : Retention
    now : callable
        The time, with a zone.
    on_drop : callable
        Told, under the lock, the number of a segment that was removed.

    Raises
    ------
    OutcomeError
        Another writer has the folder, or a file is damaged.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        *,
        now: Callable[[], datetime.datetime],
        on_drop: Callable[[int], None],
    ) -> None:
        self.lock = threading.RLock()
        self._retention = retention
        self._now = now
        self._on_drop = on_drop
        self._log_folder, self._segment_folder = folder / "log", folder / "segments"
        for path in (folder, self._log_folder, self._segment_folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder)
        self._held = FolderLock(folder)
        self._logs: dict[int, _OpenLog] = {}
        self._segments: dict[int, Segment] = {}
        try:
            self._open_all()
        except BaseException:
            self._close_files()
            raise
        self._rolling = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="outcomes")
        self._last_roll: concurrent.futures.Future[None] | None = None

    def append(self, kind: Kind, payload: bytes) -> Place:
        """Write a record and return where; safe on the disk after ``sync``. Hold the lock."""
        return Place(self._current, self._logs[self._current].append(kind, payload))

    def sync(self) -> None:
        """Return when all that was appended before is on the disk. Do not hold the lock."""
        with self.lock:
            current = self._logs[self._current].file
        # Earlier logs were synced when they were closed.
        current.sync()

    def row(self, kind: Kind, place: Place) -> tuple[pa.RecordBatch | pa.Table, int]:
        """A table with the record at ``place`` in it, and its row there."""
        with self.lock:
            if place.number in self._logs:
                opened = self._logs[place.number]
                return from_bytes(opened.file.read(opened.entries[kind][place.row]), kind), 0
            segment = self._segments.get(place.number)
        if segment is None:
            raise DecisionNotFoundError("the decision was removed by the retention meanwhile")
        return segment.row(kind, place.row)

    def tables(
        self, kind: Kind, columns: Sequence[str] | None = None, *, newest_first: bool = False
    ) -> Iterator[tuple[int, pa.Table]]:
        """All that is kept now, by the numbers of the logs, oldest first; each is read when it is due."""
        readers: dict[int, Callable[[], pa.Table]] = {}
        with self.lock:
            for number, segment in self._segments.items():
                readers[number] = functools.partial(segment.table, kind, columns)
            for number, opened in self._logs.items():
                readers[number] = opened.reader(kind, columns)
        return ((number, readers[number]()) for number in sorted(readers, reverse=newest_first))

    def roll_if_due(self) -> None:
        """Begin a new log where the current one is large or old enough. Hold the lock."""
        current, retention = self._logs[self._current], self._retention
        age = self._now() - current.opened
        if (
            current.file.size >= retention.roll_bytes
            or len(current.entries[Kind.DECISION]) >= retention.roll_decisions
            or (age >= datetime.timedelta(days=retention.roll_days) and any(current.entries.values()))
        ):
            self.roll()

    def roll(self) -> None:
        """Begin a new log; the old one becomes a segment in the background. Hold the lock."""
        current = self._logs[self._current]
        if any(current.entries.values()):
            current.file.sync()
            self._begin(self._current + 1)
        # Also when there is nothing new: an earlier log may have failed.
        self._roll_later()

    def catch_up(self) -> None:
        """After opening: what retention asks for, and what a writer that died did not finish rolling."""
        self.expire()
        if len(self._logs) > 1:
            self._roll_later()

    def wait(self) -> None:
        """Return when what was rolled so far is a segment. Do not hold the lock."""
        if self._last_roll is not None:
            self._last_roll.result()

    def make_room(self, num_decisions: Callable[[], int]) -> bool:
        """Whether there is room for one more decision, oldest segments gone if need be. Hold the lock."""
        while num_decisions() >= self._retention.max_decisions:
            if not self._segments:
                return False
            self._drop(min(self._segments))
        return True

    def close(self) -> None:
        """Sync, wait for what is being rolled, close all files and let the next writer in."""
        self._rolling.shutdown(wait=True)
        self._close_files()

    def _open_all(self) -> None:
        clear_unfinished(self._segment_folder)
        self._segments = {segment.number: segment for segment in segments_in(self._segment_folder)}
        numbers = sorted(int(path.stem) for path in self._log_folder.glob("*.log") if path.stem.isdigit())
        for number in numbers:
            if number in self._segments:
                # The writer died between making the segment and removing its log.
                self._path(number).unlink()
            else:
                self._logs[number] = _OpenLog(self._path(number), self._now())
        self._current = max([*self._logs, *(number + 1 for number in self._segments), 1])
        if self._current not in self._logs:
            self._begin(self._current)

    def _begin(self, number: int) -> None:
        self._logs[number] = _OpenLog(self._path(number), self._now())
        self._current = number

    def _path(self, number: int) -> Path:
        return self._log_folder / f"{number:08d}.log"

    def _roll_later(self) -> None:
        # RuntimeError: the interpreter is going down; the next opening finds the log.
        with contextlib.suppress(RuntimeError):
            self._last_roll = self._rolling.submit(self._roll_closed)

    def _roll_closed(self) -> None:
        try:
            with self.lock:
                closed = {number: opened for number, opened in self._logs.items() if number != self._current}
            for number, opened in closed.items():
                # Nobody writes there any more: no lock needed for the long part.
                rows = {kind: opened.rows(kind) for kind in Kind}
                segment = write_segment(self._segment_folder, number, rows)
                with self.lock:
                    self._segments[number] = segment
                    del self._logs[number]
                    opened.file.close()
                    os.unlink(opened.file.path)
            self.expire()
        except Exception:
            # Nothing is lost: the log stays, serves reads, and is tried again with the next.
            log.exception("a log of outcomes could not be rolled into a segment")

    def expire(self) -> None:
        """Remove the oldest segments while retention asks for it."""
        with self.lock:
            oldest_kept = self._now() - datetime.timedelta(days=self._retention.days)
            while self._segments:
                first = self._segments[min(self._segments)]
                total = sum(segment.size for segment in self._segments.values())
                old = first.newest is None or first.newest < oldest_kept
                if not old and total <= self._retention.max_bytes:
                    return
                self._drop(first.number)

    def _drop(self, number: int) -> None:
        segment = self._segments.pop(number)
        self._on_drop(number)
        segment.remove()
        log.info("segment %d of outcomes removed by retention", number)

    def _close_files(self) -> None:
        for opened in self._logs.values():
            opened.file.close()
        for segment in self._segments.values():
            segment.close()
        self._held.release()


def salvage(folder: Path) -> int:
    """Bytes given up to make the damaged logs of a store's folder usable; see ``docs/outcomes.md``.

    Raises
    ------
    OutcomeError
        A store has the folder open.
    """
    held = FolderLock(folder)
    try:
        return sum(salvage_file(path) for path in sorted((folder / "log").glob("*.log")))
    finally:
        held.release()
