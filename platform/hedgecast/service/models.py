"""Served models as plain records: what they are called, what they want to be asked, which one is meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hedgecast.core.errors import ModelNotFoundError
from hedgecast.registry.graphs import MANIFEST
from hedgecast.registry.ladder import MeasuredStep, Student

CHAMPION = "champion"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BundleReference:
    """Where a bundle stands and what it is called."""

    folder: Path
    """The bundle."""
    name: str = ""
    """Name under which it answers; empty: its own."""
    version: str = "local"
    """Version, as registered."""
    aliases: tuple[str, ...] = ()
    """Aliases under which it answers too."""
    registry: str | None = None
    """Where machines that lack the folder fetch it from; None: nowhere."""
    follows: str = ""
    """Alias whose version is meant, also when it moves; empty: this version for good."""

    @property
    def present(self) -> bool:
        """Whether the bundle is in its folder on this machine."""
        return (self.folder / MANIFEST).is_file()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """A named array of a program."""

    name: str
    shape: tuple[int, ...]
    unit: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSpec:
    """A named column and its unit."""

    name: str
    unit: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProgramDescription:
    """A program's name, version and interface for an ordinary decision period."""

    name: str
    version: str
    fingerprint: str
    decision: tuple[ArraySpec, ...]
    uncertain: tuple[ArraySpec, ...]
    given: tuple[ArraySpec, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """A served model: what it is called and what it wants to be asked."""

    name: str
    version: str
    fingerprint: str
    aliases: tuple[str, ...]
    program: ProgramDescription
    history_columns: tuple[ColumnSpec, ...]
    known_columns: tuple[ColumnSpec, ...]
    history_steps: int
    """Rows of history needed."""
    horizon_steps: int
    """Steps of an ordinary decision period."""
    step_seconds: float
    time_zone: str
    series: tuple[ColumnSpec, ...]
    superseded: bool = False
    """Another version took its place: it answers only when it is asked for by its version."""
    ladder: tuple[MeasuredStep, ...] = ()
    """What cheaper answers cost, as far as that was measured."""
    student: Student | None = None
    """Who draws in some of them."""

    @property
    def full_name(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"


def resolve(models: Sequence[ModelDescription], reference: str) -> ModelDescription:
    """The model that NAME, NAME@ALIAS or NAME@VERSION means.

    A bare NAME is the alias champion, or the only version that is served and not superseded.

    Raises
    ------
    ModelNotFoundError
        None is meant; the message lists the served ones.
    """
    name, at, label = reference.partition("@")
    candidates = [model for model in models if model.name == name]
    in_place = [model for model in candidates if not model.superseded]
    if not at and len(in_place) == 1:
        return in_place[0]
    label = label if at else CHAMPION
    for model in candidates:
        if label == model.version or label in model.aliases:
            return model
    served = ", ".join(sorted(model.full_name for model in models)) or "none"
    raise ModelNotFoundError(
        f"model {reference[:128]!r} is not served; served: {served}", model=reference[:128], field="model"
    )
