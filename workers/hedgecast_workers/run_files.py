"""The files of one training run, in a folder of any filesystem that pyarrow reaches.

job.json           which run this is: another study is refused
start.pt           model, configuration, program and draws before the first step
train/, validation/    the days, as Parquet shards
checkpoint_*       Ray Train's, one an epoch, the last two
fitted.pt          what the run kept, once it is over
error.json         why it stopped, where that is not a lost worker
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import torch
from torch import Tensor

import hedgecast.core.errors
from hedgecast.core.errors import ConfigError, HedgecastError, NotConvergedError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Fitted, Job
from hedgecast.learning.history import History
from hedgecast.learning.study import Study
from hedgecast.learning.validation import Days
from hedgecast.version import __version__
from hedgecast_workers.program_text import ProgramText
from hedgecast_workers.storage import absolute, place, read_file, write_file

PARTS = ("train", "validation")
_FIELDS = ("context", "whitened", "realized")
_ROW = "row"
# Days of one shard: 1,024 with 600 features are 5 MiB.
_SHARD_DAYS = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class RunFiles:
    """One run's folder."""

    storage: str
    """Directory or address."""
    name: str
    """Of the run."""

    @classmethod
    def at(cls, storage: str, name: str) -> Self:
        """The folder ``name`` in ``storage``; a relative directory counts from the working directory."""
        return cls(absolute(storage), name)

    @property
    def place(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """Filesystem and path of ``storage``.

        Raises
        ------
        ConfigError
            It is no address that pyarrow knows.
        """
        return place(self.storage, "storage")

    def path(self, *parts: str) -> str:
        """Path of a file of the run, in `place`'s filesystem."""
        return "/".join([self.place[1], self.name, *parts])

    def write_job(self, job: Job, study: Study) -> None:
        """Write what workers start from; a run of the same job that is there stays as it is.

        Raises
        ------
        ConfigError
            Another run has that name.
        """
        fingerprint = _fingerprint(job, study)
        found = self._read("job.json")
        if found is not None:
            if json.loads(found)["fingerprint"] == fingerprint:
                self._delete("error.json")
                return
            raise ConfigError(
                f"run {self.name} in {self.storage} belongs to another study, data or version: give another "
                "run name, or delete that folder",
                key="run_name",
            )
        for part, days in zip(PARTS, (job.train, job.validation), strict=True):
            self._write_days(part, days)
        self._write("start.pt", _saved(_start(job, study)))
        record = {"study": study.name, "version": __version__, "fingerprint": fingerprint}
        self._write("job.json", json.dumps(record, indent=2).encode())

    def read_job(self, tables: dict[str, pa.Table], device: torch.device) -> Job:
        """The job, its days as workers have read them, on ``device``.

        Parameters
        ----------
        tables : dict of pyarrow.Table
            Rows of both parts in any order.
        device : torch.device
        """
        start = _loaded(self._needed("start.pt"))
        model = Generator.from_dict(start["generator"])
        model.load_state_dict(start["weights"])
        shape = (model.num_steps, model.num_series)
        draws = torch.Generator()
        draws.set_state(start["draws"])
        program = None if start["program"] is None else ProgramText(**start["program"]).build()
        return Job(
            model=model.to(device),
            train=_days(tables["train"], shape),
            validation=_days(tables["validation"], shape),
            config=LearningConfig.from_dict(start["config"]),
            generator=draws,
            program=program,
        )

    def write_fitted(self, fitted: Fitted) -> None:
        """Keep what the run came to."""
        values = {
            "pretrained": fitted.pretrained,
            "joint": fitted.joint,
            "history": fitted.history.to_dict(),
        }
        self._write("fitted.pt", _saved(values))

    def read_fitted(self) -> Fitted | None:
        """What the run came to; None: it is not over."""
        found = self._read("fitted.pt")
        if found is None:
            return None
        values = _loaded(found)
        history = History.from_dict(values["history"])
        return Fitted(pretrained=values["pretrained"], joint=values["joint"], history=history)

    def write_error(self, error: HedgecastError) -> None:
        """Keep why the run cannot go on."""
        record = {"class": type(error).__name__, "message": str(error)}
        self._write("error.json", json.dumps(record).encode())

    def read_error(self) -> HedgecastError | None:
        """Why the run cannot go on; None: nothing is known against it."""
        found = self._read("error.json")
        if found is None:
            return None
        record = json.loads(found)
        kind = getattr(hedgecast.core.errors, record["class"], NotConvergedError)
        error: HedgecastError = kind(record["message"])
        return error

    def _write_days(self, part: str, days: Days) -> None:
        filesystem, _ = self.place
        table = pa.table(
            {_ROW: pa.array(np.arange(len(days)))} | {n: _column(getattr(days, n)) for n in _FIELDS}
        )
        filesystem.create_dir(self.path(part), recursive=True)
        for shard, begin in enumerate(range(0, len(days), _SHARD_DAYS)):
            path = self.path(part, f"{shard:05d}.parquet")
            pyarrow.parquet.write_table(table.slice(begin, _SHARD_DAYS), path, filesystem=filesystem)

    def _write(self, name: str, content: bytes) -> None:
        write_file(self.place[0], self.path(name), content)

    def _read(self, name: str) -> bytes | None:
        return read_file(self.place[0], self.path(name))

    def _needed(self, name: str) -> bytes:
        found = self._read(name)
        if found is None:
            raise ConfigError(
                f"{self.path(name)} is missing on this node: give a storage that all workers reach",
                key="storage",
            )
        return found

    def _delete(self, name: str) -> None:
        if self._read(name) is not None:
            self.place[0].delete_file(self.path(name))


def _start(job: Job, study: Study) -> dict[str, Any]:
    program = None
    if job.program is not None:
        program = ProgramText.of(study.program, job.model.num_steps).to_dict()
    return {
        "generator": job.model.to_dict(),
        "weights": job.model.state_dict(),
        "draws": job.generator.get_state(),
        "config": job.config.to_dict(),
        "program": program,
    }


def _fingerprint(job: Job, study: Study) -> str:
    start = _start(job, study)
    weights, draws = start.pop("weights"), start.pop("draws")
    digest = hashlib.sha256(json.dumps([__version__, start], sort_keys=True, default=str).encode())
    days = [getattr(part, name) for part in (job.train, job.validation) for name in _FIELDS]
    for tensor in [*weights.values(), draws, *days]:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _column(values: Tensor) -> pa.Array:
    flat = values.detach().cpu().flatten(1).contiguous().numpy()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _days(table: pa.Table, shape: tuple[int, int]) -> Days:
    """Days in the order of their rows, whatever shard and task they came through."""
    table = table.sort_by(_ROW)
    columns = []
    for name in _FIELDS:
        lists = table[name].combine_chunks()
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        columns.append(torch.from_numpy(flat.reshape(len(table), -1).copy()))
    context, whitened, realized = columns
    return Days(context, whitened, realized.reshape(len(table), *shape))


def _saved(values: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(values, file)
    return file.getvalue()


def _loaded(content: bytes) -> dict[str, Any]:
    values: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return values
