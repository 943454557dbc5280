"""A model bundle: one folder with everything that serving needs.

    bundle.json      the manifest: versions, data and feature schema, program, metrics, checksums
    scenarios.onnx   context and noise to scenarios, in units of the data
    baseline.onnx    the same without the network: mean, size, covariance and marginals alone
    denoiser.onnx    one step of the denoiser
    generator.npz    sizes, statistics and weights, from which a student can be trained
    validation_days.parquet  cost of every validation day, which a promotion compares
    program.py       only when the program came from a file
    README.md        the model card

The folder is written whole or not at all, and read only when every checksum holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from hedgecast.core.config import Config
from hedgecast.core.errors import BundleError, ConfigError
from hedgecast.programs.catalog import ProgramConfig
from hedgecast.registry.graphs import BASELINE_GRAPH, DENOISER_GRAPH, MANIFEST, SCENARIOS_GRAPH
from hedgecast.scenarios.envelope import Envelope, SafetyConfig

FORMAT = 2
GENERATOR_WEIGHTS = "generator.npz"
PROGRAM_FILE = "program.py"
MODEL_CARD = "README.md"
VALIDATION_DAYS = "validation_days.parquet"
SETTINGS = "learning"
"""Key of ``training`` that holds the study's ``[learning]`` table."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorShape(Config):
    """What the graphs take and give."""

    names: tuple[str, ...]
    """F series names."""
    units: tuple[str, ...]
    """F units."""
    num_slots: int
    """Slots of the decision period, T."""
    num_features: int
    """Context features, C."""
    noise_size: int
    """Entries of one scenario's noise."""
    sampler: str
    """The sampler and its steps, in words."""
    precision: str = "float32"
    """Of the network in the scenario graph; its inputs and outputs are float32 in any case."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(Config):
    """What ``bundle.json`` holds."""

    format: int
    """Version of this layout."""
    name: str
    """Name of the study."""
    created_time: str
    """When it was written, UTC, ISO 8601."""
    method: str
    """Learning method that made the weights."""
    seed: int
    """Seed of the training run."""
    versions: dict[str, str]
    """Package name to version at export."""
    data: dict[str, Any]
    """The study's ``[data]`` table."""
    schema: dict[str, Any]
    """What a context row is made of."""
    generator: GeneratorShape
    """What the graphs take and give."""
    program: ProgramConfig
    """The decision program and its parameters."""
    envelope: Envelope
    """Ranges of the training days."""
    safety: SafetyConfig
    """What follows when an answer would rest on what lies outside them."""
    training: dict[str, Any]
    """Days used, their range, losses, seconds, and under `SETTINGS` how it was learned."""
    metrics: dict[str, float]
    """Figures measured on the validation days."""
    files: dict[str, str]
    """File name to hexadecimal SHA-256."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest without time and measurements: equal content, equal fingerprint."""
        content = {
            key: value
            for key, value in self.to_dict().items()
            if key not in ("created_time", "metrics", "training")
        }
        # Bundles from before there was a choice keep their fingerprints.
        if self.generator.precision == "float32":
            del content["generator"]["precision"]
        content["files"] = {
            name: digest for name, digest in self.files.items() if name not in (VALIDATION_DAYS, MODEL_CARD)
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's folder and its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The bundle in ``folder``, once its manifest and every checksum hold.

        Raises
        ------
        BundleError
            No manifest, another format, a missing or a changed file; the message names it.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}", folder=str(folder))
        try:
            manifest = Manifest.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, ConfigError) as error:
            raise BundleError(f"{path} cannot be read: {error}", folder=str(folder)) from error
        if manifest.format != FORMAT:
            raise BundleError(
                f"{path} has format {manifest.format}, this version reads {FORMAT}: export the model again",
                format=manifest.format,
            )
        for name, digest in manifest.files.items():
            check_file(folder, name, digest)
        return cls(folder=folder, manifest=manifest)

    @property
    def scenarios_graph(self) -> Path:
        """The graph from context and noise to scenarios."""
        return self.folder / SCENARIOS_GRAPH

    @property
    def baseline_graph(self) -> Path:
        """The graph of the baseline's scenarios."""
        return self.folder / BASELINE_GRAPH

    @property
    def denoiser_graph(self) -> Path:
        """The graph of one denoiser step."""
        return self.folder / DENOISER_GRAPH

    @property
    def program(self) -> ProgramConfig:
        """The program, its path (where it has one) pointing into the bundle."""
        program = self.manifest.program
        if program.path is None:
            return program
        return dataclasses.replace(program, path=str(self.folder / PROGRAM_FILE))


def write_bundle(
    folder: Path, *, files: Mapping[str, bytes], card: str, manifest: Mapping[str, Any], replace: bool = True
) -> Bundle:
    """The bundle now in ``folder``, written beside it first and moved there whole.

    Parameters
    ----------
    folder : Path
        Where it shall stand.
    files : mapping
        Name to content; their checksums go into the manifest.
    card : str
        The model card, Markdown.
    manifest : mapping
        The manifest's fields except ``format`` and ``files``.
    replace : bool
        Whether a bundle that stands there already gives way.

    Raises
    ------
    BundleError
        ``folder`` exists and is not a bundle, or ``replace`` is false.
    """
    if folder.exists() and not (replace and (folder / MANIFEST).is_file()):
        raise BundleError(
            f"{folder} exists and would be overwritten: choose another folder", folder=str(folder)
        )
    content = {**files, MODEL_CARD: card.encode()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(content.items())}
    record = Manifest.from_dict({"format": FORMAT, "files": digests, **manifest})
    partial = folder.parent / f".{folder.name}.{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        for name, data in content.items():
            (partial / name).write_bytes(data)
        text = json.dumps(record.to_dict(), indent=2, sort_keys=True)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.open(folder)


def check_file(folder: Path, name: str, digest: str) -> None:
    """Check that a file of ``folder`` has the hexadecimal SHA-256 ``digest``.

    Raises
    ------
    BundleError
        It is missing, was changed, or is none of the folder's; the message names it.
    """
    if Path(name).name != name:
        raise BundleError(f"{folder / MANIFEST} names a file outside the bundle: {name!r}", file=name)
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{path} is missing: the bundle is incomplete, export or fetch it again", file=name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise BundleError(
            f"{path} was changed: its SHA-256 is {found[:12]}..., the manifest says {digest[:12]}...; "
            "export or fetch the bundle again",
            file=name,
        )
