"""Compiled code on the disk, where processes write at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import IndexDataCacheFile

from hedgecast.decisions import kernels_first, kernels_tile
from hedgecast.decisions.kernels_code import CodeFiles, sources

ONE, OTHER = ("float64", "cpu"), ("int64", "cpu")
CODE = {ONE: "code for float64", OTHER: "code for int64"}


def race(kind: type[IndexDataCacheFile], folder: Path, monkeypatch: pytest.MonkeyPatch) -> IndexDataCacheFile:
    """Two processes save two signatures of a function, the second between the first one's two writes."""
    first, second = (kind(str(folder), "loop", "stamp") for _ in range(2))
    write = first._save_data

    def interrupted(name: str, data: object) -> None:
        second.save(OTHER, CODE[OTHER])
        write(name, data)

    # Both have read the index before either has written.
    monkeypatch.setattr(second, "_load_index", dict)
    monkeypatch.setattr(first, "_save_data", interrupted)
    first.save(ONE, CODE[ONE])
    return kind(str(folder), "loop", "stamp")


def test_code_is_that_of_its_signature_whoever_writes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = race(CodeFiles, tmp_path, monkeypatch)
    assert {key: found.load(key) for key in CODE} == CODE
    assert found.load(("float32", "cpu")) is None
    assert CodeFiles(str(tmp_path), "loop", "other sources").load(ONE) is None
    assert CodeFiles(str(tmp_path), "other loop", "stamp").load(ONE) is None


def test_numbas_own_files_still_need_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails Numba has mended it, and `CodeFiles` may go."""
    found = race(IndexDataCacheFile, tmp_path, monkeypatch)
    assert found.load(OTHER) == CODE[ONE]


def test_the_loops_keep_their_code_so() -> None:
    loops = [
        loop
        for module in (kernels_first, kernels_tile)
        for loop in vars(module).values()
        if hasattr(loop, "_cache")
    ]
    assert len(loops) > 20
    assert {type(loop._cache._cache_file) for loop in loops} == {CodeFiles}
    assert {loop._cache._cache_file._source_stamp for loop in loops} == {sources()}


def test_another_process_finds_what_one_has_compiled(tmp_path: Path) -> None:
    """The names of files do not depend on the process, as hashes of Python do."""
    script = """
import numpy as np
from hedgecast.decisions.kernels_first import own
assert own(np.ones((2, 3)), 1).sum() == 3
assert own(np.ones((2, 3))[:, ::2], 1).sum() == 2
print(sum(own.stats.cache_hits.values()), sum(own.stats.cache_misses.values()))
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PATH": "", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in (1, 2)
    ]  # fmt: skip
    assert said == ["0 2\n", "2 0\n"]
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
