"""The audit log: who did what with which outcome, and no payload.

One JSON line for every call, and one for every answer of a call that asks for many.

Calls never wait for the disk: records go through a bounded queue to a thread. When the queue is full
records are left out, and the next line says how many.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from hedgecast.core.errors import ConfigError
from hedgecast.service.calls import Answered, Call
from hedgecast.service.settings import ServiceSettings

_QUEUE_LENGTH = 8192
_ENCODING = "utf-8"
# A correlation id that is refused may be as long as a message.
_LONGEST_ID = 64

log = logging.getLogger(__name__)


class AuditLog:
    """Writes the outcome of every call to a file that is put aside when it is full.

    Parameters
    ----------
    path : Path
        The file; earlier ones are ``NAME.1`` (the latest) and so on. Only its owner may read it.
    max_bytes : int
        Size of one file at most.
    max_files : int
        Files kept aside.
    on_drop : callable
        Told of every record that was left out.
    queue_length : int
        Records that wait for the disk at most.

    Raises
    ------
    ConfigError
        The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        max_files: int,
        on_drop: Callable[[], None],
        queue_length: int = _QUEUE_LENGTH,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._on_drop = on_drop
        self._dropped = 0
        self._failing = False
        self._waiting: queue.Queue[dict[str, object] | None] = queue.Queue(queue_length)
        try:
            self._file, self._size = _open(path)
        except OSError as error:
            raise ConfigError(f"audit_file {path} cannot be written: {error.strerror}") from error
        self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, settings: ServiceSettings, on_drop: Callable[[], None]) -> AuditLog | None:
        """The log that the settings name, if they do."""
        if settings.audit_file is None:
            return None
        return cls(
            settings.audit_file,
            max_bytes=settings.audit_bytes,
            max_files=settings.audit_files,
            on_drop=on_drop,
        )

    def begun(self, call: Call, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Nothing: a record is written when the outcome is known."""

    def answered(self, call: Call, answered: Answered) -> None:
        """Hand over the record of one of many requests; for one alone the call keeps what is needed."""
        if answered.correlation_id is not None:
            self._hand_over(_answer_record(call, answered))

    def ended(self, call: Call) -> None:
        """Hand the call's record over."""
        self._hand_over(_record(call))

    def close(self) -> None:
        """Write what waits, then close the file."""
        self._waiting.put(None)
        self._thread.join()
        self._file.close()

    def _hand_over(self, record: dict[str, object]) -> None:
        """Let the thread write it, or count it as left out."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped += 1
            self._on_drop()

    def _write_all(self) -> None:
        told = 0
        while (record := self._waiting.get()) is not None:
            # Only the callers' side counts up, only this side reads: no lock.
            dropped = self._dropped
            if dropped > told:
                self._write({"time": _now(), "event": "records_left_out", "count": dropped - told})
                told = dropped
            self._write(record)

    def _write(self, record: dict[str, object]) -> None:
        line = (json.dumps(record, ensure_ascii=True) + "\n").encode(_ENCODING)
        try:
            if self._size and self._size + len(line) > self._max_bytes:
                self._rotate()
            self._file.write(line)
            self._size += len(line)
            self._failing = False
        except (OSError, ValueError) as error:
            # ValueError: the file is closed since a rotation failed.
            self._on_drop()
            if not self._failing:
                log.error("the audit log cannot be written: %s", error)
            self._failing = True
            self._reopen()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._max_files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._aside(number), self._aside(number + 1))
        os.replace(self._path, self._aside(1))
        self._file, self._size = _open(self._path)

    def _reopen(self) -> None:
        if self._file.closed:
            with contextlib.suppress(OSError):
                self._file, self._size = _open(self._path)

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _record(call: Call) -> dict[str, object]:
    return {
        "time": _now(),
        "event": "call",
        "principal": call.principal,
        "peer": call.peer,
        "service": call.service,
        "method": call.method,
        "request_id": call.request_id,
        "model": call.model,
        "model_fingerprint": call.model_fingerprint,
        "fingerprint": call.fingerprint,
        "scenario_count": call.scenarios,
        "request_count": call.requests,
        "answer_count": call.answers,
        "duration_seconds": round(call.seconds, 6),
        "outcome": call.code,
        "reason": call.reason,
        "incident": call.incident if call.reason else "",
    }


def _answer_record(call: Call, answered: Answered) -> dict[str, object]:
    seconds = answered.stages.get("total")
    return {
        "time": _now(),
        "event": "stream_answer",
        "principal": call.principal,
        "method": call.method,
        # The call's, which its own line has too.
        "request_id": call.request_id,
        "correlation_id": (answered.correlation_id or "")[:_LONGEST_ID],
        "model": answered.model or call.asked_model,
        "model_fingerprint": answered.model_fingerprint,
        "fingerprint": answered.fingerprint,
        "duration_seconds": None if seconds is None else round(seconds, 6),
        "outcome": answered.code,
        "reason": answered.reason,
        "incident": answered.incident,
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def _open(path: Path) -> tuple[IO[bytes], int]:
    # Unbuffered: a line is with the system once it is written, whatever happens to this process.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0), os.fstat(descriptor).st_size
