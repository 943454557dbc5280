"""Write deploy/constraints-lowest.txt: the oldest version of each package that pyproject.toml promises.

    python deploy/lowest.py            # writes it
    python deploy/lowest.py --check    # compares

``make test-lowest`` installs these, so that a lower bound is a promise that was kept once.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOWEST = ROOT / "deploy" / "constraints-lowest.txt"
# Tools of ours and peers of benchmarks are not promised to anybody.
NOT_PROMISED = ("dev", "bench", "docs", "release", "gpu")


def bounds(project: Path) -> dict[str, str]:
    """Lower bound by canonical name, of the base and all extras that users install.

    Raises
    ------
    ValueError
        A requirement has no lower bound, or two have different ones.
    """
    metadata = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    texts = list(metadata["dependencies"])
    for extra, requirements in metadata["optional-dependencies"].items():
        if extra not in NOT_PROMISED:
            texts += requirements
    found: dict[str, str] = {}
    for requirement in map(Requirement, texts):
        name = canonicalize_name(requirement.name)
        versions = [part.version for part in requirement.specifier if part.operator in (">=", "==", "~=")]
        if len(versions) != 1 or found.setdefault(name, versions[0]) != versions[0]:
            raise ValueError(f"{requirement}: one lower bound each, the same everywhere")
    return dict(sorted(found.items()))


def text_of(project: Path) -> str:
    """The whole file."""
    lines = [f"{name}=={version}\n" for name, version in bounds(project).items()]
    return "# Written by deploy/lowest.py from pyproject.toml.\n" + "".join(lines)


def main() -> int:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    text = text_of(ROOT / "pyproject.toml")
    if not parser.parse_args().check:
        LOWEST.write_text(text, encoding="utf-8")
        return 0
    if LOWEST.read_text(encoding="utf-8") == text:
        return 0
    print("deploy/constraints-lowest.txt is stale: python deploy/lowest.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
