"""A study: the one file that says which data, which decision, which learning.

The file is TOML, read strictly: an unknown key, a wrong type or an impossible value is an error that
names the key, the value and the fix. ``--set path=value`` on the command line changes one value.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError, HedgecastError
from hedgecast.data.config import DataConfig, SplitConfig
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.distillation import DistillConfig
from hedgecast.learning.tuning import TuneConfig
from hedgecast.programs.catalog import ProgramConfig
from hedgecast.regret.transfer import TransferConfig
from hedgecast.scenarios.envelope import SafetyConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Study(Config):
    """The whole configuration of a run."""

    name: str
    """Name of the study, and of the model it trains: letters, digits, hyphens, underscores, dots."""
    data: DataConfig
    """Which table, which columns, which decision period."""
    split: SplitConfig
    """Where validation and test begin."""
    program: ProgramConfig
    """The decision program and its parameters."""
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    """How scenarios are learned."""
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    """How ``hedgecast distill`` trains a student."""
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)
    """What ``hedgecast tune`` searches."""
    safety: SafetyConfig = dataclasses.field(default_factory=SafetyConfig)
    """What a served model does about contexts, histories and scenarios outside its training days."""
    transfer: TransferConfig | None = None
    """A second decision that scenarios are held against; left out: the program's default, see
    `hedgecast.regret.transfer.second_program`."""

    def __post_init__(self) -> None:
        if not self.name or not all(character.isalnum() or character in "-_." for character in self.name):
            raise ConfigError(
                f"name = {self.name!r}: use letters, digits, hyphens, underscores and dots only", key="name"
            )


def shipped_studies() -> list[str]:
    """Names of the studies that come with the package."""
    folder = importlib.resources.files("hedgecast.studies")
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def read_study(source: str | Path, changes: Sequence[str] = ()) -> Study:
    """The study in a file, or a shipped one by its name.

    Parameters
    ----------
    source : str or Path
        Path of a TOML file, or the name of a shipped study (``german_grid``).
    changes : sequence of str
        ``path=value`` pairs; the value is read as TOML, and as a plain string where it is none.

    Raises
    ------
    ConfigError
        No such file, no TOML, or a key or value that is refused; the message starts with the file.

    Notes
    -----
    Relative paths in the file count from the file's folder, those of ``changes`` from the working
    directory.
    """
    path = _locate(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}", file=str(path)) from error
    for table in ("data", "program", "transfer"):
        _anchor(values, table, path.parent)
    for change in changes:
        _apply(values, change)
    try:
        return Study.from_dict(values)
    except HedgecastError as error:
        raise ConfigError(f"{path}: {error}", **{**error.facts, "file": str(path)}) from error


def _locate(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if str(source) in shipped_studies():
        return Path(str(importlib.resources.files("hedgecast.studies").joinpath(f"{source}.toml")))
    raise ConfigError(
        f"no study {str(source)!r}: give the path of a TOML file, or one of the shipped studies: "
        f"{', '.join(shipped_studies())}",
        file=str(source),
    )


def _anchor(values: dict[str, Any], table: str, folder: Path) -> None:
    entry = values.get(table)
    if isinstance(entry, dict) and isinstance(entry.get("path"), str):
        entry["path"] = str(folder / Path(entry["path"]).expanduser())


def _apply(values: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {change!r}: write path=value, for example learning.seed=3", change=change)
    *parents, last = key.strip().split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {change!r}: {parent} is a value, not a table", change=change)
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = text
