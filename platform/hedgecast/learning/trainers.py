"""Trainers outside this process, found by name.

A package registers one under the entry point group ``hedgecast.trainers``, as a callable that takes a
study and `TrainerOptions` and gives a `Trainer`. That is how ``hedgecast train --workers`` reaches Ray
without the library importing it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata

from hedgecast.core.errors import ConfigError, DependencyError
from hedgecast.learning.fit import Trainer
from hedgecast.learning.study import Study

GROUP = "hedgecast.trainers"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainerOptions:
    """How and where a run is trained; nothing here changes its result."""

    num_workers: int
    """Processes that share the days of each step."""
    gpu: bool
    """Whether each has a GPU of its own."""
    storage: str
    """Of checkpoints: a directory, or an address that pyarrow knows (``s3://bucket/folder``), which all
    workers reach."""
    run_name: str
    """Folder of the run in ``storage``; a run that is there goes on from its last checkpoint."""
    max_failures: int
    """Times that lost workers are replaced."""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError(f"{self.num_workers} workers: at least 1 is needed", key="workers")
        if self.max_failures < 0:
            raise ConfigError(f"{self.max_failures} failures: must not be negative", key="max_failures")
        if not self.run_name or not all(c.isalnum() or c in "-_." for c in self.run_name):
            raise ConfigError(
                f"run name {self.run_name!r}: use letters, digits, hyphens, underscores and dots only",
                key="run_name",
            )


def remote_trainer(name: str, study: Study, options: TrainerOptions) -> Trainer:
    """The trainer registered under ``name``.

    Raises
    ------
    ConfigError
        No trainer has that name.
    DependencyError
        It is registered, and a package that it needs is missing.
    """
    entries = importlib.metadata.entry_points(group=GROUP, name=name)
    if not entries:
        known = sorted(entry.name for entry in importlib.metadata.entry_points(group=GROUP))
        raise ConfigError(
            f"no trainer is called {name!r}: registered are {', '.join(known) or 'none'}", key="trainer"
        )
    try:
        trainer: Trainer = next(iter(entries)).load()(study, options)
    except ImportError as error:
        raise DependencyError(
            f"trainer {name!r} needs {error.name or 'a package'}, which is not installed: "
            "pip install 'hedgecast[library,cluster]'",
            trainer=name,
        ) from error
    return trainer
