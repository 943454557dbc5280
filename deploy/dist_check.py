"""Build wheel and source distribution and use them as a stranger would.

    python deploy/dist_check.py dist

``make dist-check`` runs this. Both are installed into fresh environments, away from the source tree; the
wheel that the source distribution gives must hold the same files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_CLIENT = "import hedgecast; from hedgecast import Client; print(hedgecast.__version__, hedgecast.__file__)"


def build(output: Path) -> tuple[Path, Path]:
    """The wheel and the source distribution of the source tree, new in ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    for old in [*output.glob("*.whl"), *output.glob("*.tar.gz")]:
        old.unlink()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", output.resolve()], cwd=ROOT, check=True
    )
    (wheel,), (source,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return wheel, source


def contents(wheel: Path) -> dict[str, int]:
    """Names and checksums of a wheel's files, without the record of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            entry.filename: entry.CRC for entry in archive.infolist() if not entry.filename.endswith("RECORD")
        }


def wheel_of(source: Path, folder: Path) -> Path:
    """A wheel built from a source distribution alone."""
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    built = folder / "built"
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(built)]
    subprocess.run(command, cwd=unpacked, check=True)
    (wheel,) = built.glob("*.whl")
    return wheel


def install(distribution: Path, folder: Path) -> str:
    """VERSION and place of the package once it is in a fresh environment below ``folder``.

    Raises
    ------
    subprocess.CalledProcessError
        It cannot be installed, imported or run.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    constraints = ROOT / "deploy" / "constraints.txt"
    for command in (
        [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), str(distribution.resolve())],
        [str(folder / "venv" / "bin" / "hedgecast"), "--help"],
    ):
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        [python, "-c", _CLIENT], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def main() -> int:
    """Build, compare, install; one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    wheel, source = build(parser.parse_args().output)
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        again = wheel_of(source, Path(folder))
        if contents(again) != contents(wheel):
            different = contents(again).items() ^ contents(wheel).items()
            print(f"the source distribution gives another wheel: {sorted(dict(different))}", file=sys.stderr)
            return 1
    print(f"{source.name} gives the same {len(contents(wheel))} files as {wheel.name}")
    for distribution in (wheel, source):
        with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
            version, place = install(distribution, Path(folder)).split()
            if not place.startswith(folder):
                print(f"imported from {place}, not from {distribution.name}", file=sys.stderr)
                return 1
        print(f"{distribution.name} installs into a fresh environment and runs: {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
