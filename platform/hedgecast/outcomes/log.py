"""An append-only log of framed records that survives the death of its writer at any byte.

A file is ``_FILE_MARK``, then frames: marker (4 bytes), kind (1), length (4, little-endian), CRC-32 (4) of
kind, length and payload, payload. ``append`` hands a frame to the system, so the death of the process after
it loses nothing; ``sync`` brings it to the disk, so neither does the death of the machine.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hedgecast.core.errors import OutcomeError, UnavailableError

# The last byte is the version of the format, the schemas of the payloads included.
_FILE_MARK = b"HCOUTC\x00\x01"
_FRAME_MARK = b"\x89HCf"
_HEAD = struct.Struct("<4sBII")
MAX_PAYLOAD_BYTES = 64 * 2**20

# macOS has no fdatasync.
_sync_file = getattr(os, "fdatasync", os.fsync)

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """Where a payload stands in its file."""

    kind: int
    offset: int
    length: int


class Log:
    """A log opened for writing; made if it is not there.

    Parameters
    ----------
    path : Path
        Its folder exists and nobody else writes there (``FolderLock``).

    Raises
    ------
    OutcomeError
        The file is no log, or of another version, or damaged before its end.

    Notes
    -----
    What a dying writer left of a last frame is cut off and kept beside the file as ``NAME.torn-OFFSET``: a
    frame that was acknowledged and damaged later looks the same. A damaged frame with a whole one behind it
    cannot come from a dying writer, so such a log is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = False
        self._closed = False
        self._sync_lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.recovered = self._recover()
            """What the file held when it was opened."""
        except BaseException:
            os.close(self._descriptor)
            raise
        self._synced = 0
        self.sync()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._end

    def append(self, kind: int, payload: bytes) -> Entry:
        """Write one frame and return where; one thread at a time. Safe on the disk after ``sync``.

        Raises
        ------
        UnavailableError
            The system refused (a full disk, say). Nothing of the frame is left.
        """
        self._require_usable()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise OutcomeError(f"a record of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES}")
        frame = _head(kind, payload) + payload
        try:
            written = os.pwrite(self._descriptor, frame, self._end)
            while written < len(frame):
                written += os.pwrite(self._descriptor, frame[written:], self._end + written)
        except OSError as error:
            self._take_back()
            raise UnavailableError(f"a record could not be written: {error.strerror}") from error
        entry = Entry(kind, self._end + _HEAD.size, len(payload))
        self._end += len(frame)
        return entry

    def sync(self) -> None:
        """Return when all that was appended before the call is on the disk; calls share the wait.

        Raises
        ------
        UnavailableError
            The disk failed. What it holds is unknown then, so the log takes nothing more until it is
            opened again.
        """
        target = self._end
        with self._sync_lock:
            if self._synced >= target:
                return
            self._require_usable()
            end = self._end
            try:
                _sync_file(self._descriptor)
            except OSError as error:
                # The system may have dropped the pages and report success next time.
                self._broken = True
                raise UnavailableError(f"records could not be synced: {error.strerror}") from error
            self._synced = end

    def read(self, entry: Entry) -> bytes:
        """The payload at ``entry``.

        Raises
        ------
        OutcomeError
            It was damaged since it was written.
        """
        start = entry.offset - _HEAD.size
        return self._payload(os.pread(self._descriptor, _HEAD.size + entry.length, start), 0, start)

    def close(self) -> None:
        """Sync, then close; again is nothing."""
        if self._closed:
            return
        try:
            if not self._broken:
                self.sync()
        finally:
            with self._sync_lock:
                self._closed = True
                os.close(self._descriptor)

    def _payload(self, raw: bytes, place: int, start: int) -> bytes:
        if not _whole(raw, place):
            raise OutcomeError(f"{self.path} is damaged at byte {start}: restore it from a backup")
        return raw[place + _HEAD.size : place + _HEAD.size + _length(raw, place)]

    def _require_usable(self) -> None:
        if self._broken or self._closed:
            raise UnavailableError(
                "the log of outcomes takes no more records: "
                + ("its disk failed, restart the service" if self._broken else "it is closed")
            )

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError:
            self._broken = True

    def _recover(self) -> list[Entry]:
        size = os.fstat(self._descriptor).st_size
        raw = os.pread(self._descriptor, size, 0)
        # Nothing, or less than the mark, or zeros where the mark should be: the writer died making the file.
        if not raw.strip(b"\0") or (len(raw) < len(_FILE_MARK) and _FILE_MARK.startswith(raw)):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _FILE_MARK, 0)
            sync_folder(self.path.parent)
            self._end = len(_FILE_MARK)
            return []
        if not raw.startswith(_FILE_MARK):
            raise OutcomeError(
                f"{self.path} begins with {raw[:8]!r}, not with {_FILE_MARK!r}: it is no log of outcomes, or "
                "one that another version of hedgecast wrote; open it with that version"
            )
        entries = list(_frames(raw))
        self._end = entries[-1].offset + entries[-1].length if entries else len(_FILE_MARK)
        if self._end < size:
            self._cut(raw)
        return entries

    def _cut(self, raw: bytes) -> None:
        later = _next_whole(raw, self._end + 1)
        if later is not None:
            raise OutcomeError(
                f"{self.path} is damaged at byte {self._end}, and a whole record follows at byte {later}: "
                "this is no torn write; restore the file from a backup, or give up what lies between with "
                "hedgecast.outcomes.salvage",
                damaged_at=self._end,
                whole_at=later,
            )
        aside = self.path.with_name(f"{self.path.name}.torn-{self._end}")
        write_atomically(aside, raw[self._end :])
        log.warning("%s: %d bytes of an unfinished record put aside", self.path, len(raw) - self._end)
        os.ftruncate(self._descriptor, self._end)
        os.fsync(self._descriptor)


def salvage_file(path: Path) -> int:
    """Bytes given up to make the damaged log at ``path`` usable: whole frames are kept, the rest goes.

    The file as it was is kept beside it as ``NAME.damaged``. A file without damage stays as it is.
    """
    raw = path.read_bytes()
    kept = [_FILE_MARK]
    place: int | None = len(_FILE_MARK)
    while place is not None:
        place = _next_whole(raw, place)
        if place is not None:
            length = _HEAD.size + _length(raw, place)
            kept.append(raw[place : place + length])
            place += length
    whole = b"".join(kept)
    if whole == raw:
        return 0
    write_atomically(path.with_name(f"{path.name}.damaged"), raw)
    write_atomically(path, whole)
    return max(0, len(raw) - len(whole))


def write_atomically(path: Path, content: bytes) -> None:
    """All of ``content`` at ``path`` and on the disk, or nothing."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _head(kind: int, payload: bytes) -> bytes:
    start = _HEAD.pack(_FRAME_MARK, kind, len(payload), 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(payload, zlib.crc32(start[4:])))


def _whole(raw: bytes, place: int) -> bool:
    if len(raw) < place + _HEAD.size:
        return False
    mark, kind, length, _ = _HEAD.unpack_from(raw, place)
    end = place + _HEAD.size + length
    if mark != _FRAME_MARK or length > MAX_PAYLOAD_BYTES or end > len(raw):
        return False
    payload = raw[place + _HEAD.size : end]
    return raw[place : place + _HEAD.size] == _head(kind, payload)


def _length(raw: bytes, place: int) -> int:
    return int(_HEAD.unpack_from(raw, place)[2])


def _frames(raw: bytes) -> Iterator[Entry]:
    place = len(_FILE_MARK)
    while _whole(raw, place):
        entry = Entry(raw[place + 4], place + _HEAD.size, _length(raw, place))
        yield entry
        place = entry.offset + entry.length


def _next_whole(raw: bytes, place: int) -> int | None:
    place = raw.find(_FRAME_MARK, place)
    while place >= 0:
        if _whole(raw, place):
            return place
        place = raw.find(_FRAME_MARK, place + 1)
    return None
