"""Files that appear whole, on a disk and in an object store (fsspec's memory stands for it)."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast_workers.storage import (
    PARTIAL,
    absolute,
    files_below,
    place,
    read_file,
    sweep,
    write_file,
    written_whole,
)


@pytest.fixture(params=["local", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "set")
    return f"fsspec+memory:///{secrets.token_hex(8)}"


def test_a_file_is_there_once_it_is_whole(address: str) -> None:
    filesystem, folder = place(address, "out")
    assert files_below(filesystem, folder) == {}
    assert read_file(filesystem, f"{folder}/a/b.txt") is None
    with written_whole(filesystem, f"{folder}/a/b.txt") as stream:
        stream.write(b"first")
        assert "a/b.txt" not in files_below(filesystem, folder) or "memory" in address
    assert read_file(filesystem, f"{folder}/a/b.txt") == b"first"
    write_file(filesystem, f"{folder}/a/b.txt", b"second one")
    assert files_below(filesystem, folder) == {"a/b.txt": 10}


def give_up(address: str, error: BaseException) -> None:
    """Write half of b.txt and raise."""
    filesystem, folder = place(address, "out")
    with written_whole(filesystem, f"{folder}/b.txt") as stream:
        stream.write(b"half")
        raise error


def test_nothing_is_left_of_a_file_that_was_given_up(address: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        give_up(address, KeyboardInterrupt())
    assert files_below(*place(address, "out")) == {}


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"old")
    with pytest.raises(OSError, match="no space left"):
        give_up(str(tmp_path), OSError("no space left"))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1" / f".part.parquet.abcd{PARTIAL}").write_bytes(b"half")
    (tmp_path / "day=1" / "part.parquet").write_bytes(b"whole")
    filesystem, folder = place(str(tmp_path), "out")
    assert sweep(filesystem, folder) == 1
    assert files_below(filesystem, folder) == {"day=1/part.parquet": 5}


def test_an_address_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out 'gopher://x/y'"):
        place("gopher://x/y", "out")
    monkeypatch.chdir(tmp_path)
    assert absolute("runs") == str(tmp_path / "runs")
    assert absolute("s3://bucket/runs") == "s3://bucket/runs"
