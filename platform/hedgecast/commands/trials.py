"""Trials of many methods and seeds, each in a fresh process, finished ones kept.

A trial's folder is named by its method, its seed and a digest of what its result depends on: study or task
file, data file, method, estimator, seed and version. Code that changes within a version is not seen. The same
command so goes on where it was stopped, and another study in the same folder touches nothing. What a trial
writes lies in a folder of another name until it is whole.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hedgecast.commands.workflow import Prepared
from hedgecast.core.errors import ConfigError, DataError
from hedgecast.learning.study import Study
from hedgecast.learning.task import Task
from hedgecast.learning.trial import Trial
from hedgecast.version import __version__

Progress = Callable[[str, str, int, int, str], None]
"""Trial, phase, done, in all, remark."""
ENDED = "ended"
"""The phase that a trial reports last, however it ended."""
_PROCESS = "hedgecast.commands.trial_process"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One trial to run."""

    label: str
    """In tables."""
    method: str
    estimator: str | None
    seed: int
    counts: tuple[int, ...]
    """Numbers of scenarios that are decided on."""
    source: Mapping[str, Any]
    """Where the task comes from: see `load_task`."""
    drawn: int | None = None
    """Drawn for each day, if more: see `hedgecast.learning.trial.run_trial`."""

    @property
    def key(self) -> str:
        """Name of its folder."""
        asked = [self.method, self.estimator, self.seed, self.drawn]
        values = [__version__, *asked, self.source, _digests(self.source)]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
        name = self.method if self.estimator is None else f"{self.method}-{self.estimator}"
        return f"{name}-seed{self.seed}-{digest[:12]}"

    def to_dict(self) -> dict[str, Any]:
        """What the process that runs it reads."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A trial that ended with an error."""

    label: str
    seed: int
    message: str
    log: Path
    """What its process wrote."""


def load_task(source: Mapping[str, Any]) -> Task:
    """The task of a source.

    Parameters
    ----------
    source : mapping
        ``{"study": {...}}``, a study as plain values; or ``{"file": "path.py", "function": name, "arguments":
        {...}, "reads": [...]}``, a function that returns a `Task`, and the other files that it reads.
    """
    if "study" in source:
        return Prepared.of(Study.from_dict(source["study"])).task()
    path = Path(source["file"])
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None or not path.is_file():
        raise ConfigError(f"{path} is no Python file to take a task from", file=str(path))
    module = importlib.util.module_from_spec(specification)
    # Dataclasses of the module look themselves up here.
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return cast(Task, getattr(module, source["function"])(**source.get("arguments", {})))


def run_trials(
    jobs: Sequence[Job], folder: Path, *, workers: int = 1, progress: Progress | None = None
) -> tuple[dict[str, Trial], list[Failure]]:
    """The trials of ``jobs`` by key, those already in ``folder`` without running, and those that failed.

    Parameters
    ----------
    jobs : sequence of Job
    folder : Path
        Made if missing; trials go to its folder ``trials``.
    workers : int
        Processes at a time; they share the machine's cores.
    progress : callable, optional
        Called from several threads.

    Raises
    ------
    ConfigError
        Another process is writing to ``folder``, or ``workers < 1``.
    """
    if workers < 1:
        raise ConfigError(f"workers = {workers}: must be at least 1", key="workers")
    with _locked(folder):
        runner = _Runner(folder / "trials", workers, progress)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(runner.run, job): job for job in jobs}
            try:
                found = {futures[f].key: f.result() for f in concurrent.futures.as_completed(futures)}
            except BaseException:
                # Ctrl-C above all: nothing may be left running, and no thread may start what waits.
                pool.shutdown(wait=False, cancel_futures=True)
                runner.stop()
                raise
    trials = {job.key: found[job.key] for job in jobs}
    done = {key: trial for key, trial in trials.items() if isinstance(trial, Trial)}
    return done, [trial for trial in trials.values() if isinstance(trial, Failure)]


class _Runner:
    """Runs jobs, each in a process; `stop` ends them all."""

    def __init__(self, folder: Path, workers: int, progress: Progress | None) -> None:
        self.folder, self.progress = folder, progress
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        threads = str(max((os.cpu_count() or 1) // workers, 1))
        shared = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
        self._environment = {**shared, **os.environ}

    def run(self, job: Job) -> Trial | Failure:
        final, partial = self.folder / job.key, self.folder / f".{job.key}.partial"
        kept = _finished(final, job.counts)
        if kept is not None:
            self._report(job, ENDED, 1, 1, "kept from before")
            return kept
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            message = self._process(job, partial)
            if message is not None:
                log = self.folder / f"{job.key}.log"
                os.replace(partial / "log.txt", log)
                self._report(job, ENDED, 1, 1, f"failed: {message}")
                return Failure(job.label, job.seed, message, log)
            # A result with other numbers of scenarios gives way.
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        trial = Trial.load(final)
        seconds = trial.train_seconds
        self._report(
            job, ENDED, 1, 1, f"trained in {seconds:.0f} s, {trial.memory_mib['peak']:.0f} MiB at most"
        )
        return trial

    def _process(self, job: Job, folder: Path) -> str | None:
        """Run the job in a process; None, or why it failed."""
        order = folder / "job.json"
        order.write_text(json.dumps(job.to_dict(), indent=2, default=str) + "\n", encoding="utf-8")
        message: str | None = None
        with (folder / "log.txt").open("w", encoding="utf-8") as log, self._started(order, log) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = _event(line)
                if event is None:
                    log.write(line)
                elif "error" in event:
                    message = event["error"]
                else:
                    self._report(job, event["phase"], event["done"], event["total"], event["text"])
            if process.wait() and message is None:
                message = f"its process ended with code {process.returncode}"
        if self._stopped:
            raise KeyboardInterrupt
        return message

    @contextlib.contextmanager
    def _started(self, order: Path, log: Any) -> Iterator[subprocess.Popen[str]]:
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            # A session of its own: Ctrl-C reaches this process only, which then ends the others. The open
            # stdin tells the child that this process is alive.
            process = subprocess.Popen(
                [sys.executable, "-m", _PROCESS, str(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _report(self, job: Job, phase: str, done: int, total: int, text: str) -> None:
        if self.progress is not None:
            self.progress(f"{job.label}, seed {job.seed}", phase, done, total, text)


def _finished(folder: Path, counts: Sequence[int]) -> Trial | None:
    """The trial in ``folder``, if it has all numbers of scenarios."""
    if not folder.is_dir():
        return None
    trial = Trial.load(folder)
    return trial if set(counts) <= set(trial.tested) else None


def _event(line: str) -> dict[str, Any] | None:
    """What the process reports in a line of its own; None for what anything else printed."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and ("phase" in event or "error" in event) else None


def _digests(source: Mapping[str, Any]) -> list[str]:
    """SHA-256 of the files that a source reads: a changed table is another task."""
    study = source.get("study", {})
    paths = [study.get(table, {}).get("path") for table in ("data", "program", "transfer")]
    paths += [source.get("file"), *source.get("reads", ())]
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths if path is not None]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w", encoding="ascii")
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error}", file=str(folder)) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process is running trials in {folder}: wait for it or use another folder",
                file=str(folder),
            ) from error
        yield
