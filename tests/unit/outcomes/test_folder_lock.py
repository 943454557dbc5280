"""One writer a folder."""

import subprocess
import sys

import pytest

from hedgecast.core.errors import OutcomeError
from hedgecast.outcomes.folder_lock import FolderLock

HOLD = """
import sys, pathlib
from hedgecast.outcomes.folder_lock import FolderLock
FolderLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(OutcomeError, match="one writer"):
        FolderLock(tmp_path)
    first.release()
    first.release()
    FolderLock(tmp_path).release()


def test_a_killed_writer_leaves_no_lock(tmp_path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutcomeError, match=f"held by process {process.pid}"):
            FolderLock(tmp_path)
        process.kill()
        process.wait(10)
    FolderLock(tmp_path).release()
