"""The folder of a bulk run, on any filesystem that pyarrow reaches.

    _run.json                    settings: a run with others is refused
    day=2021-02-10/part-KEY.parquet    the scenarios of one day, whole
    _parts/2021-02-10.json       what that part holds, written after it
    _manifest.json               all parts, written last: with it the set is whole

Names with an underscore or a dot are passed over by readers of Parquet folders, so the folder as it is
reads as one table, partitioned by ``day``.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import pyarrow.fs

from hedgecast.core.errors import ConfigError, UnavailableError
from hedgecast.registry.session import Context
from hedgecast_workers.bulk_plan import BulkSettings, date_of
from hedgecast_workers.storage import absolute, files_below, place, read_file, sweep, write_file

_RUN, _MANIFEST = "_run.json", "_manifest.json"
_READ_BYTES = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class BulkFiles:
    """One run's folder."""

    address: str
    """Directory or URI."""

    @classmethod
    def at(cls, address: str) -> Self:
        """The folder ``address``; a relative directory counts from the working directory."""
        return cls(absolute(address))

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """Where the folder is."""
        return place(self.address, "out")[0]

    def path(self, name: str) -> str:
        """Path of a file of the run, in `filesystem`."""
        return f"{place(self.address, 'out')[1]}/{name}"

    def begin(self, settings: BulkSettings) -> None:
        """Take the folder for this run, or go on with it.

        Raises
        ------
        ConfigError
            Another run is in it, or files of something else.
        """
        found = self._json(_RUN)
        if found is None:
            there = files_below(self.filesystem, self.path("").rstrip("/"))
            if there:
                raise ConfigError(
                    f"{self.address} holds {len(there)} files and no run of generate: give another --out",
                    key="out",
                )
            self._write(_RUN, settings.to_dict())
            return
        if differences := settings.differences(found):
            raise ConfigError(
                f"{self.address} holds another run: {'; '.join(differences)}: give another --out, or delete "
                "that folder",
                key="out",
            )

    def sweep(self) -> int:
        """Delete what killed processes left half written; how many files it was."""
        return sweep(self.filesystem, self.path("").rstrip("/"))

    @staticmethod
    def part_name(settings: BulkSettings, day: Context) -> str:
        """Where the part of a day stands: one name for all attempts, so that none is there twice."""
        return f"day={date_of(day)}/part-{settings.part_key(day)}.parquet"

    def finished(self, settings: BulkSettings, day: Context) -> dict[str, Any] | None:
        """The record of a day's part, once its file has the checksum that the record names; else None."""
        record = self._json(_journal(day))
        if record is None or record["file"] != self.part_name(settings, day):
            return None
        path = self.path(record["file"])
        if self.filesystem.get_file_info(path).size != record["bytes"]:
            return None
        digest = hashlib.sha256()
        with self.filesystem.open_input_stream(path) as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
        return record if digest.hexdigest() == record["sha256"] else None

    def enter(self, day: Context, record: dict[str, Any]) -> None:
        """Write down that a day's part is there, whole."""
        self._write(_journal(day), record)

    def finish(
        self, settings: BulkSettings, days: Sequence[Context], records: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """The manifest, written once every day's part is seen from here.

        Raises
        ------
        UnavailableError
            A part is missing: workers wrote elsewhere.
        """
        sizes = files_below(self.filesystem, self.path("").rstrip("/"))
        for record in records:
            if sizes.get(record["file"]) != record["bytes"]:
                raise UnavailableError(
                    f"{record['file']} was written and is not in {self.address} as this process sees it: "
                    "give an --out that all nodes reach",
                    file=record["file"],
                )
        assert [date_of(day) for day in days] == [record["day"] for record in records]
        manifest = {
            **settings.to_dict(),
            "created_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "days": len(records),
            "rows": sum(record["rows"] for record in records),
            "bytes": sum(record["bytes"] for record in records),
            "parts": list(records),
        }
        self._write(_MANIFEST, manifest)
        return manifest

    def manifest(self) -> dict[str, Any] | None:
        """The manifest; None: the run is not over."""
        return self._json(_MANIFEST)

    def _json(self, name: str) -> dict[str, Any] | None:
        content = read_file(self.filesystem, self.path(name))
        if content is None:
            return None
        record: dict[str, Any] = json.loads(content)
        return record

    def _write(self, name: str, record: dict[str, Any]) -> None:
        write_file(self.filesystem, self.path(name), (json.dumps(record, indent=1) + "\n").encode())


def _journal(day: Context) -> str:
    return f"_parts/{date_of(day)}.json"
