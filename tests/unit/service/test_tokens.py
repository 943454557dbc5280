"""Tokens: hashes in the file, one principal each, no hint for a stranger."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError, UnauthenticatedError
from hedgecast.service.tokens import TokenTable

HASH = hashlib.sha256(b"open sesame").hexdigest()


def _table(tmp_path: Path, text: str) -> TokenTable:
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    return TokenTable.read(path)


def test_the_principal_of_a_token(tmp_path: Path) -> None:
    table = _table(tmp_path, f"# who\n\nplanner {HASH}\nother {'0' * 64}\n")
    assert table.require([("x", "y"), ("authorization", "Bearer open sesame")]) == "planner"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic open sesame", f"Bearer {HASH}"]
)
def test_anything_else_is_refused(tmp_path: Path, header: str) -> None:
    table = _table(tmp_path, f"planner {HASH}\n")
    with pytest.raises(UnauthenticatedError) as caught:
        table.require([("authorization", header)] if header else [])
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no token"),
        ("planner sesame\n", "line 1"),
        (f"planner {HASH}\nother {HASH}\n", "line 2"),
        (f"a/b {HASH}\n", "line 1"),
        (f"planner {HASH} more\n", "line 1"),
    ],
)
def test_a_bad_file_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _table(tmp_path, text)


def test_while_a_token_is_changed_both_work(tmp_path: Path) -> None:
    new = hashlib.sha256(b"new").hexdigest()
    table = _table(tmp_path, f"planner {HASH}\nplanner {new}\n")
    for token in ("open sesame", "new"):
        assert table.require([("authorization", f"Bearer {token}")]) == "planner"


def test_two_tokens_in_one_call_are_none(tmp_path: Path) -> None:
    table = _table(tmp_path, f"planner {HASH}\n")
    with pytest.raises(UnauthenticatedError):
        table.require([("authorization", "Bearer open sesame")] * 2)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*No such file"):
        TokenTable.read(tmp_path / "nowhere")
