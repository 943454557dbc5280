"""Files that change while they are used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.service.reloading import Reloaded


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name}: no number") from error


def test_a_change_counts_and_a_broken_one_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    number = Reloaded([path], lambda: _number(path), seconds=0.0)
    assert number.value() == 1
    path.write_text("22")
    assert number.value() == 22
    path.write_text("half wri")
    assert [number.value(), number.value()] == [22, 22]
    assert caplog.text.count("cannot be used") == 1, "said once, not at every call"
    path.unlink()
    assert number.value() == 22
    path.write_text("333")
    assert number.value() == 333


def test_a_swapped_link_is_seen(tmp_path: Path) -> None:
    """As Kubernetes replaces a mounted secret: the link's target changes, not the file."""
    link = tmp_path / "number"
    for value in ("1", "2"):
        (tmp_path / value).write_text(value)
    link.symlink_to(tmp_path / "1")
    number = Reloaded([link], lambda: _number(link), seconds=0.0)
    (tmp_path / "new").symlink_to(tmp_path / "2")
    os.replace(tmp_path / "new", link)
    assert number.value() == 2


def test_it_looks_no_more_often_than_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    number = Reloaded([path], lambda: _number(path), seconds=3600.0)
    path.write_text("22")
    assert number.value() == 1


def test_the_first_read_must_succeed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no number"):
        Reloaded([tmp_path / "nothing"], lambda: _number(tmp_path / "nothing"), seconds=0.0)
