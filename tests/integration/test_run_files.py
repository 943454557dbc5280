"""The files of a training run: what is written is what is read, on a filesystem that is not the local one."""

from __future__ import annotations

import secrets
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from hedgecast.commands.workflow import Prepared
from hedgecast.core.errors import ConfigError, InfeasibleError, NotConvergedError
from hedgecast.learning.fit import Fitted, Job, Progress, train_here
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.study import Study, read_study
from hedgecast.testing import write_tiny_study
from hedgecast_workers.run_files import RunFiles

CHANGES = [
    "learning.method=diffusion-dfl",
    "learning.epochs=1",
    "learning.joint_epochs=1",
    "learning.scenarios=10",
    "learning.generator.denoiser.hidden=16",
]


class CaughtError(Exception):
    pass


def job_of(study: Study) -> Job:
    """The job that ``hedgecast train`` would hand to workers."""
    caught: list[Job] = []

    def trainer(job: Job, progress: Progress | None = None) -> Fitted:
        caught.append(job)
        raise CaughtError

    prepared = Prepared.of(study)
    with pytest.raises(CaughtError):
        fit_diffusion(
            prepared.train, prepared.validation, study.learning, prepared.program(24), trainer=trainer
        )
    return caught[0]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(write_tiny_study(tmp_path, num_days=200), CHANGES)


def tables(files: RunFiles) -> dict[str, pa.Table]:
    filesystem, _ = files.place
    return {
        part: pyarrow.parquet.read_table(files.path(part), filesystem=filesystem)
        for part in ("train", "validation")
    }


def test_workers_read_the_job_that_was_written(study: Study) -> None:
    # fsspec's memory stands for an object store: no folders, no renaming.
    files = RunFiles.at(f"fsspec+memory:///{secrets.token_hex(8)}", "march")
    job = job_of(study)
    expected = {name: value.clone() for name, value in job.model.state_dict().items()}
    files.write_job(job, study)
    rows = tables(files)
    backwards = {part: table.take(list(reversed(range(len(table))))) for part, table in rows.items()}
    again = files.read_job(backwards, torch.device("cpu"))
    for name in ("context", "whitened", "realized"):
        for part in ("train", "validation"):
            assert torch.equal(getattr(getattr(again, part), name), getattr(getattr(job, part), name))
            assert getattr(getattr(again, part), name).dtype == getattr(getattr(job, part), name).dtype
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    assert again.config == job.config
    left, right = train_here(again), train_here(job)
    assert left.joint is not None
    assert right.joint is not None
    assert all(torch.equal(value, right.joint[name]) for name, value in left.joint.items())
    files.write_fitted(left)
    found = files.read_fitted()
    assert found is not None
    assert found.history == left.history
    assert all(torch.equal(value, left.pretrained[name]) for name, value in found.pretrained.items())


def test_a_run_takes_no_other_study(study: Study, tmp_path: Path) -> None:
    # An address, not a path.
    files = RunFiles.at(f"file://{tmp_path}/runs", "march")
    files.write_job(job_of(study), study)
    files.write_error(NotConvergedError("12 of 12 solves failed"))
    error = files.read_error()
    assert isinstance(error, NotConvergedError)
    assert "12 of 12" in str(error)
    # The same job again: what stopped it may be gone.
    files.write_job(job_of(study), study)
    assert files.read_error() is None
    assert files.read_fitted() is None
    other = Study.from_dict({**study.to_dict(), "learning": {**study.learning.to_dict(), "seed": 1}})
    with pytest.raises(ConfigError, match=r"run march .* belongs to another study"):
        files.write_job(job_of(other), other)


def test_the_program_travels_as_text(tmp_path: Path) -> None:
    path = write_tiny_study(tmp_path, num_days=200)
    source = "from hedgecast.programs.catalog.generation_scheduling import build\n"
    (tmp_path / "own.py").write_text(source)
    text = path.read_text().replace('name = "generation_scheduling"', 'path = "own.py"')
    path.write_text(text)
    study = read_study(path, CHANGES)
    files = RunFiles.at(str(tmp_path / "runs"), "own")
    files.write_job(job_of(study), study)
    (tmp_path / "own.py").unlink()
    program = files.read_job(tables(files), torch.device("cpu")).program
    assert program is not None
    assert program.num_uncertain == 24


def test_an_error_keeps_its_class(tmp_path: Path) -> None:
    files = RunFiles.at(str(tmp_path), "broken")
    files.write_error(InfeasibleError("no plan keeps the ramp limit"))
    assert isinstance(files.read_error(), InfeasibleError)


def test_a_storage_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="storage 'gopher://x/y'"):
        _ = RunFiles.at("gopher://x/y", "march").place
