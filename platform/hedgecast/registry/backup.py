"""Save, check and restore an embedded registry: ``python -m hedgecast.registry.backup --help``.

The registry is one sqlite file and a folder of artifacts (`store.py`). A copy of a sqlite file that is being
written is not a database; this one is taken with sqlite's own backup, so that training may go on meanwhile.
Artifacts are copied after it: whatever the saved database names was written before, and is in the copy.
A registry behind an MLflow server is saved where its database and its artifacts are.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hedgecast.core.errors import HedgecastError, InputError
from hedgecast.version import __version__

FORMAT = 1
_DATABASE = "mlflow.db"
_ARTIFACTS = "artifacts"
_MANIFEST = "manifest.json"


def save(home: Path, archive: Path) -> dict[str, Any]:
    """Write a registry into a tar file; the manifest that is in it, too.

    Parameters
    ----------
    home : Path
        Directory of the registry, ``$HEDGECAST_HOME``. Checkpoints of training (``runs``) are not saved.
    archive : Path
        Appears whole, or not at all.

    Raises
    ------
    InputError
        There is no registry in ``home``, or its database is damaged.
    """
    home = home.resolve()
    if not (home / _DATABASE).is_file():
        raise InputError(f"{home} holds no embedded registry: there is no {_DATABASE}", home=str(home))
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=archive.parent) as folder:
        database = Path(folder) / _DATABASE
        _copy_database(home / _DATABASE, database)
        artifacts = sorted(path for path in (home / _ARTIFACTS).rglob("*") if path.is_file())
        sources = {_DATABASE: database, **{str(path.relative_to(home)): path for path in artifacts}}
        partial = Path(folder) / archive.name
        manifest = _write(partial, home, sources)
        os.replace(partial, archive)
    return manifest


def verify(archive: Path) -> dict[str, Any]:
    """The manifest of an archive in which every file has its checksum and the database is sound.

    Raises
    ------
    InputError
        It is no such archive, or a file is missing, changed or too many; the message names it.
    """
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        return _unpack(archive, Path(folder))


def restore(archive: Path, home: Path) -> dict[str, Any]:
    """Put an archive's registry where it was; its manifest.

    Parameters
    ----------
    archive : Path
    home : Path
        Missing or empty, and the same path as at the time of saving: the registry keeps absolute paths.

    Raises
    ------
    InputError
        As `verify`, or ``home`` is another path or not empty. Nothing is written then.
    """
    home = home.resolve()
    if home.exists() and any(home.iterdir()):
        raise InputError(f"{home} is not empty: move what is there away first", home=str(home))
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=home.parent) as folder:
        unpacked = Path(folder) / "home"
        unpacked.mkdir()
        manifest = _unpack(archive, unpacked)
        if manifest["home"] != str(home):
            raise InputError(
                f"{archive} was saved from {manifest['home']}, and the registry keeps absolute paths: "
                "restore it there, or mount the volume there",
                saved=manifest["home"],
                asked=str(home),
            )
        # A mounted folder cannot be replaced, only filled.
        home.mkdir(exist_ok=True)
        for path in sorted(unpacked.iterdir(), key=lambda path: path.name == _DATABASE):
            # The database comes last: without it there is no registry.
            shutil.move(path, home / path.name)
    return manifest


def _copy_database(source: Path, target: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reading,
            contextlib.closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
        _check_database(target)
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{source} is damaged: {error}; restore an older backup", file=str(source)
        ) from error


def _check_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (said,) = connection.execute("PRAGMA integrity_check").fetchone()
    if said != "ok":
        raise sqlite3.DatabaseError(said)


def _write(target: Path, home: Path, sources: dict[str, Path]) -> dict[str, Any]:
    """Each file is read once, so that its checksum is that of what was written."""
    files: dict[str, str] = {}
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for name, path in sources.items():
            content = path.read_bytes()
            files[name] = hashlib.sha256(content).hexdigest()
            _add(tar, name, content)
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "saved": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "home": str(home),
            "files": files,
        }
        _add(tar, _MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    tar.addfile(entry, io.BytesIO(content))


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Everything but the manifest, below ``folder``, once it is checked."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # The filter refuses absolute paths, links that lead out, and devices.
            tar.extractall(folder, filter="data")
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
        files, saved_format = manifest["files"], manifest["format"]
    except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{archive} is no backup of a registry, or a damaged one: {error}") from error
    if saved_format != FORMAT:
        raise InputError(f"{archive} has format {saved_format}, this version reads {FORMAT}")
    (folder / _MANIFEST).unlink()
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted(files.keys() | found.keys()):
        if name not in found or files.get(name) != _digest(found[name]):
            raise InputError(f"{archive}: {name} is missing, changed or not in its manifest", file=name)
    try:
        _check_database(folder / _DATABASE)
    except sqlite3.DatabaseError as error:
        raise InputError(f"{archive}: its database is damaged: {error}") from error
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (HedgecastError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Save, verify or restore; one line says what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m hedgecast.registry.backup",
        description="Save, check and restore an embedded registry.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, words in (
        ("save", ("home", "archive")),
        ("verify", ("archive",)),
        ("restore", ("archive", "home")),
    ):
        one = verbs.add_parser(verb)
        for word in words:
            one.add_argument(word, type=Path)
    asked = parser.parse_args(arguments)
    with _one_line():
        if asked.verb == "save":
            manifest = save(asked.home, asked.archive)
        elif asked.verb == "verify":
            manifest = verify(asked.archive)
        else:
            manifest = restore(asked.archive, asked.home)
    done = {"save": "saved", "verify": "whole", "restore": "restored"}[asked.verb]
    print(
        f"{done}: {len(manifest['files'])} files of {manifest['home']}, {manifest['saved']}, {asked.archive}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
