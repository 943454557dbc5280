"""Where the benchmark tables lie."""

from __future__ import annotations

import os
import pathlib

from hedgecast.core.errors import DataError


class MissingTableError(DataError):
    """A table of the benchmark is not on this machine."""


def table(name: str) -> pathlib.Path:
    """The path of a benchmark table: in $HEDGECAST_DATA, or in shared/data beside the checkout.

    Raises
    ------
    MissingTableError
        It is not there.
    """
    beside = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
    path = pathlib.Path(os.environ.get("HEDGECAST_DATA", beside)) / name
    if not path.is_file():
        raise MissingTableError(
            f"no {path}: give the folder of the tables as --data or in HEDGECAST_DATA", file=str(path)
        )
    return path
