"""One writer for a folder: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from hedgecast.core.errors import OutcomeError

_NAME = "LOCK"


class FolderLock:
    """Holds ``folder/LOCK`` until it is released or the process ends.

    Parameters
    ----------
    folder : Path
        Exists. On a network filesystem the lock holds only as far as its ``flock`` does.

    Raises
    ------
    OutcomeError
        Another store, in this process or another, holds the folder; the message names the process.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _NAME
        # The file stays when the lock goes: removing it would let two writers lock two files of one name.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise OutcomeError(
                f"{path} is held by process {holder or 'unknown'}: a folder of outcomes has one writer, stop "
                "the other or give this one a folder of its own",
                holder=holder,
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let the next writer in; again is nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
