"""Files that appear whole or not at all, on any filesystem that pyarrow reaches.

Where files can be renamed (a disk, HDFS) one is written under another name beside its place and renamed. An
object store shows an object when its upload is complete, and would copy it to rename it: there it is written
in place.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from hedgecast.core.errors import ConfigError

PARTIAL = ".partial"
_RENAMING = ("local", "hdfs")


def absolute(address: str) -> str:
    """``address``; a relative directory counts from the working directory."""
    return address if "://" in address else str(Path(address).expanduser().resolve())


def place(address: str, key: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Filesystem and path of ``address``, a directory or a URI.

    Parameters
    ----------
    address : str
        As `absolute` gives it.
    key : str
        What the setting is called, for messages.

    Raises
    ------
    ConfigError
        It is no address that pyarrow knows.
    """
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, ImportError, OSError, ValueError) as error:
        raise ConfigError(f"{key} {address!r}: {error}", key=key) from error
    return filesystem, path.rstrip("/")


@contextlib.contextmanager
def written_whole(filesystem: pyarrow.fs.FileSystem, path: str) -> Iterator[Any]:
    """A stream into the file ``path``, which is there once the block ends well; folders are made.

    A process that is killed in the block may leave a file whose name begins with a dot and ends in
    ``PARTIAL``, which readers of Parquet folders pass over; see `sweep`.
    """
    folder, _, name = path.rpartition("/")
    filesystem.create_dir(folder, recursive=True)
    renamed = filesystem.type_name in _RENAMING
    # Two attempts at one file never write into each other's.
    written = f"{folder}/.{name}.{secrets.token_hex(4)}{PARTIAL}" if renamed else path
    try:
        with filesystem.open_output_stream(written) as stream:
            yield stream
        if renamed:
            filesystem.move(written, path)
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(written)
        raise


def write_file(filesystem: pyarrow.fs.FileSystem, path: str, content: bytes) -> None:
    """Write a small file, whole: whoever reads it may do so at any time."""
    with written_whole(filesystem, path) as stream:
        stream.write(content)


def read_file(filesystem: pyarrow.fs.FileSystem, path: str) -> bytes | None:
    """Content of a small file; None: there is none."""
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
        return None
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def files_below(filesystem: pyarrow.fs.FileSystem, folder: str) -> dict[str, int]:
    """Bytes of every file in ``folder`` and below, by path relative to it; empty where it is missing."""
    selector = pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True)
    return {
        info.path.removeprefix(folder).lstrip("/"): int(info.size)
        for info in filesystem.get_file_info(selector)
        if info.type == pyarrow.fs.FileType.File
    }


def sweep(filesystem: pyarrow.fs.FileSystem, folder: str) -> int:
    """Delete what killed processes left of `written_whole` below ``folder``; how many files it was."""
    left = [name for name in files_below(filesystem, folder) if name.endswith(PARTIAL)]
    for name in left:
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(f"{folder}/{name}")
    return len(left)
