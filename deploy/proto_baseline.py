"""Compare protos/ with protos/baseline.binpb, the protos that landed last, and move that on.

Run by ``make proto``: a change that old clients cannot read is refused, any other becomes the new
baseline, which is committed with the change. ``--check`` (in ``make check``) refuses the same, and a baseline
that was left behind, against which later breaks would not show. A file and not a git ref, so that it works in
a shallow clone, in an unpacked archive and offline. What breaks old clients needs a package of its own,
``hedgecast.rpc.v2``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
BASELINE = "baseline.binpb"
_OURS = "hedgecast/"


class BaselineError(Exception):
    """The protos break old clients, or the baseline is not theirs; the message says which."""


def require_compatible(protos: Path) -> None:
    """Raise unless clients of the baseline can go on with the protos of the folder.

    Raises
    ------
    BaselineError
        They cannot; the message has what ``buf breaking`` found, with places.
    """
    if not (protos / BASELINE).is_file():
        raise BaselineError(f"{protos / BASELINE} is missing: restore it from git")
    done = _buf(protos, "breaking", "--against", BASELINE)
    if done.returncode != 0:
        raise BaselineError(
            f"old clients cannot go on with these protos:\n{done.stdout}{done.stderr}"
            "Keep what there was and add beside it (reserve number and name of a field that goes)."
        )


def require_current(protos: Path) -> None:
    """Raise unless the baseline is that of the protos.

    Raises
    ------
    BaselineError
        It is another; the message names the files that differ.
    """
    now, before = _files(image(protos)), _files((protos / BASELINE).read_bytes())
    stale = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    if stale:
        raise BaselineError(f"protos/{BASELINE} is not of these protos, run make proto: {', '.join(stale)}")


def image(protos: Path) -> bytes:
    """The folder's protos as a descriptor set, without comments.

    Raises
    ------
    BaselineError
        They are no protos.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / BASELINE
        done = _buf(protos, "build", "--exclude-source-info", "--as-file-descriptor-set", "-o", str(path))
        if done.returncode != 0:
            raise BaselineError(f"buf build refused the protos:\n{done.stdout}{done.stderr}")
        return path.read_bytes()


def _files(image: bytes) -> dict[str, FileDescriptorProto]:
    # Google's own are as the installed buf has them.
    return {
        file.name: file for file in FileDescriptorSet.FromString(image).file if file.name.startswith(_OURS)
    }


def _buf(protos: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    buf = Path(sys.executable).parent / "buf"
    return subprocess.run([str(buf), *arguments], cwd=protos, capture_output=True, text=True, check=False)


def main(words: list[str] | None = None) -> int:
    """Check, then move the baseline on unless only checking; ``words`` stand for the command line's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--protos", type=Path, default=PROTOS, help="folder of the protos (default: ours)")
    arguments = parser.parse_args(words)
    try:
        require_compatible(arguments.protos)
        if arguments.check:
            require_current(arguments.protos)
            return 0
        built = image(arguments.protos)
    except BaselineError as error:
        print(error, file=sys.stderr)
        return 1
    temporary = arguments.protos / f"{BASELINE}.tmp"
    temporary.write_bytes(built)
    os.replace(temporary, arguments.protos / BASELINE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
