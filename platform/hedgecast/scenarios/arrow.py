"""Scenarios of one context as Arrow record batches that any Arrow library reads without us.

One row a scenario, one column a series:

    scenario     int64                     its number in the full draw; only where it is not its row
    probability  float64                   only where probabilities differ
    <series>     fixed_size_list<float>[T]  its path, in the units of the data

Field metadata has ``unit``; schema metadata has ``hedgecast.<key>`` for ``format`` (1), ``series`` and
``times`` (JSON lists; times in ISO 8601, UTC, start of each step), ``source``, ``model_version``, ``seed``
and ``fingerprint``, each left out where it is not known. Paths of one series go in and out without a copy; of
several series each batch is copied once, since theirs lie interleaved.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from hedgecast.scenarios.scenario_set import ScenarioSet

SCENARIO, PROBABILITY = "scenario", "probability"
FORMAT = "1"
BATCH_BYTES = 2 * 2**20
"""Of one message; gRPC refuses more than 4 MiB where nothing else is said."""
_PREFIX = "hedgecast."
_KEYS = ("format", "series", "times", "source", "model_version", "seed", "fingerprint")
# Every buffer of a message is padded to a multiple of this.
_PADDING = 64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What the schema says of a set; all batches of a set share it."""

    names: tuple[str, ...]
    """F series names, which are the columns."""
    units: tuple[str, ...]
    """F units."""
    num_steps: int
    """T."""
    times: np.ndarray | None = None
    """(T,) datetime64, UTC, start of each step."""
    source: str = ""
    """What made the scenarios."""
    model_version: str = ""
    seed: int | None = None
    fingerprint: str = ""
    """Of the whole set, see `ScenarioSet.fingerprint`."""
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What else is to be said, such as the distance of a reduction: written under ``hedgecast.<key>`` too."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.units) or not self.names:
            raise ShapeError(
                f"{len(self.names)} names and {len(self.units)} units: give one of each for a series"
            )
        taken = [name for name in self.names if name in (SCENARIO, PROBABILITY) or self.names.count(name) > 1]
        if taken:
            raise ConfigError(
                f"series {taken[0]!r}: names must differ from each other, {SCENARIO!r} and {PROBABILITY!r}",
                key=taken[0],
            )
        if self.num_steps < 1:
            raise ShapeError(f"{self.num_steps} steps: a path has at least one")
        if self.times is not None and self.times.shape != (self.num_steps,):
            raise ShapeError(f"times has shape {self.times.shape}: must be ({self.num_steps},)")
        known = [key for key in self.extra if key in _KEYS]
        if known:
            raise ConfigError(f"extra has the key {known[0]!r}, which has a field of its own", key=known[0])

    @classmethod
    def of(
        cls,
        scenarios: ScenarioSet,
        context: int = 0,
        *,
        model_version: str = "",
        fingerprint: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> Self:
        """The description of one context of a set.

        Parameters
        ----------
        scenarios : ScenarioSet
        context : int
            Which one.
        model_version : str
        fingerprint : str, optional
            Computed where left out, which reads all paths; empty: none.
        extra : mapping, optional
        """
        alone = scenarios.contexts(context, context + 1)
        return cls(
            names=scenarios.names,
            units=scenarios.units,
            num_steps=int(scenarios.paths.shape[2]),
            times=None if alone.times is None else alone.times[0],
            source=scenarios.source,
            model_version=model_version,
            seed=scenarios.seed,
            fingerprint=alone.fingerprint() if fingerprint is None else fingerprint,
            extra=extra or {},
        )

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> Self:
        """The description that a schema carries.

        Raises
        ------
        DataError
            The schema is not one of this module, of another format, or lacks a column that it names.
        """
        names = series_of(schema)
        found = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        fields = [schema.field(name) for name in names]
        times = found.get(f"{_PREFIX}times")
        seed = found.get(f"{_PREFIX}seed")
        return cls(
            names=names,
            units=tuple((field.metadata or {}).get(b"unit", b"").decode() for field in fields),
            num_steps=int(fields[0].type.list_size),
            times=None if times is None else _instants(json.loads(times)),
            source=found.get(f"{_PREFIX}source", ""),
            model_version=found.get(f"{_PREFIX}model_version", ""),
            seed=None if seed is None else int(seed),
            fingerprint=found.get(f"{_PREFIX}fingerprint", ""),
            extra={
                name: value
                for key, value in found.items()
                if key.startswith(_PREFIX) and (name := key.removeprefix(_PREFIX)) not in _KEYS
            },
        )

    def schema(
        self, *, dtype: np.dtype | type = np.float32, weighted: bool = False, indexed: bool = False
    ) -> pa.Schema:
        """The Arrow schema.

        Parameters
        ----------
        dtype : numpy type
            float32 or float64, of the paths.
        weighted, indexed : bool
            Whether there are columns ``probability`` and ``scenario``.
        """
        kind = pa.from_numpy_dtype(np.dtype(dtype))
        if kind not in (pa.float32(), pa.float64()):
            raise ShapeError(f"paths of type {np.dtype(dtype)}: must be float32 or float64")
        # Parquet's name for it: a file has the same schema.
        path = pa.list_(pa.field("element", kind, nullable=False), self.num_steps)
        fields = [pa.field(SCENARIO, pa.int64(), nullable=False)] * indexed
        fields += [pa.field(PROBABILITY, pa.float64(), nullable=False)] * weighted
        fields += [
            pa.field(name, path, nullable=False, metadata={"unit": unit})
            for name, unit in zip(self.names, self.units, strict=True)
        ]
        return pa.schema(fields, metadata=self._metadata())

    def _metadata(self) -> dict[str, str]:
        known = {
            "format": FORMAT,
            "series": json.dumps(self.names, ensure_ascii=False),
            "times": "" if self.times is None else json.dumps(_written(self.times)),
            "source": self.source,
            "model_version": self.model_version,
            "seed": "" if self.seed is None else str(self.seed),
            "fingerprint": self.fingerprint,
        }
        return {f"{_PREFIX}{key}": value for key, value in {**known, **self.extra}.items() if value}


def series_of(schema: pa.Schema) -> tuple[str, ...]:
    """Names of the series of a schema, which are its columns; the rest of a description is not read.

    Raises
    ------
    DataError
        As `Description.of_schema`.
    """
    metadata = schema.metadata or {}
    version = metadata.get(f"{_PREFIX}format".encode())
    if version != FORMAT.encode():
        told = None if version is None else version.decode()
        raise DataError(
            f"the schema's metadata has {_PREFIX}format = {told!r}: must be {FORMAT!r}", found=told
        )
    names = tuple(json.loads(metadata[f"{_PREFIX}series".encode()]))
    missing = [name for name in names if name not in schema.names]
    if missing:
        raise DataError(
            f"column {missing[0]!r} is missing: the schema's metadata names it", column=missing[0]
        )
    return names


def record_batch(
    schema: pa.Schema,
    paths: NDArray[np.floating],
    *,
    probabilities: NDArray[np.float64] | None = None,
    indices: NDArray[np.int64] | None = None,
) -> pa.RecordBatch:
    """One batch of scenarios, sharing the memory of ``paths`` where there is one series.

    Parameters
    ----------
    schema : pa.Schema
        Of `Description.schema`, with the type of ``paths``.
    paths : array
        (S, T, F). Must not be written to while the batch is in use.
    probabilities, indices : array, optional
        (S,); given exactly where the schema has their columns.
    """
    names = series_of(schema)
    shape = (schema.field(names[0]).type.list_size, len(names))
    if paths.ndim != 3 or paths.shape[1:] != shape:
        raise ShapeError(f"paths has shape {paths.shape}: must be (scenarios, {shape[0]}, {shape[1]})")
    columns = []
    for name, given in ((SCENARIO, indices), (PROBABILITY, probabilities)):
        if (given is None) == (name in schema.names):
            raise ShapeError(f"column {name!r} is in one of the schema and the arguments: give both or none")
        if given is not None:
            if given.shape != paths.shape[:1]:
                raise ShapeError(f"{name} has shape {given.shape}: must be ({paths.shape[0]},)")
            columns.append(pa.array(np.ascontiguousarray(given), schema.field(name).type))
    for place, name in enumerate(names):
        kind = schema.field(name).type
        flat = np.ascontiguousarray(paths[:, :, place]).reshape(-1)
        if pa.from_numpy_dtype(flat.dtype) != kind.value_type:
            raise ShapeError(
                f"paths of type {flat.dtype} for a schema of {kind.value_type}: must be the same"
            )
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def record_batches(
    scenarios: ScenarioSet,
    context: int = 0,
    *,
    description: Description | None = None,
    indices: NDArray[np.int64] | None = None,
    max_bytes: int = BATCH_BYTES,
) -> Iterator[pa.RecordBatch]:
    """The batches of one context, in order, none larger than ``max_bytes`` as an IPC message.

    Parameters
    ----------
    scenarios : ScenarioSet
    context : int
    description : Description, optional
        `Description.of` where left out.
    indices : array, optional
        (S,) numbers of the scenarios in the draw that they were taken from.
    max_bytes : int
    """
    described = description or Description.of(scenarios, context)
    paths = scenarios.paths[context].detach().cpu().numpy()
    weights = scenarios.probabilities
    shares = None if weights is None else weights[context].detach().cpu().double().numpy()
    schema = described.schema(dtype=paths.dtype, weighted=shares is not None, indexed=indices is not None)
    rows = rows_under(schema, max_bytes)
    for start in range(0, paths.shape[0], rows):
        part = slice(start, start + rows)
        yield record_batch(
            schema,
            paths[part],
            probabilities=None if shares is None else shares[part],
            indices=None if indices is None else indices[part],
        )


def rows_under(schema: pa.Schema, max_bytes: int) -> int:
    """The most scenarios whose batch is no larger than ``max_bytes`` as an IPC message.

    Raises
    ------
    ConfigError
        Not even one is.
    """
    empty = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    row = sum(
        field.type.list_size * field.type.value_type.bit_width // 8
        if pa.types.is_fixed_size_list(field.type)
        else field.type.bit_width // 8
        for field in schema
    )
    fixed = int(pa.ipc.get_record_batch_size(empty)) + _PADDING * len(schema)
    rows = int((max_bytes - fixed) // row)
    if rows < 1:
        raise ConfigError(
            f"max_bytes = {max_bytes}: one scenario takes {row} bytes and the message {fixed}: give at least "
            f"{row + fixed}",
            key="max_bytes",
        )
    return rows


def paths_of(batch: pa.RecordBatch) -> NDArray[np.floating]:
    """(S, T, F) paths of a batch; read-only and sharing its memory where there is one series."""
    columns = []
    for name in series_of(batch.schema):
        column = batch.column(name)
        if column.null_count:
            raise DataError(f"column {name!r} has {column.null_count} empty paths", column=name)
        # flatten, not values: a slice of a batch has an offset.
        flat = column.flatten().to_numpy(zero_copy_only=True)
        columns.append(flat.reshape(len(column), column.type.list_size))
    return columns[0][:, :, None] if len(columns) == 1 else np.stack(columns, axis=2)


def scenario_set(batches: pa.Table | Iterable[pa.RecordBatch]) -> ScenarioSet:
    """The set of one context that batches hold; columns that are not of a set are passed over.

    Raises
    ------
    DataError
        There is no batch, or one that is not of this module, or batches of different sets.
    """
    # Gateways and clients read and write batches without torch.
    import torch

    from hedgecast.scenarios.scenario_set import ScenarioSet

    parts = batches.to_batches() if isinstance(batches, pa.Table) else list(batches)
    if not parts:
        raise DataError("no record batch: a set has at least one")
    schema = parts[0].schema
    if any(not part.schema.equals(schema, check_metadata=True) for part in parts):
        raise DataError("the record batches have different schemas: they are not of one set")
    described = Description.of_schema(schema)
    paths = [paths_of(part) for part in parts]
    whole = paths[0] if len(paths) == 1 else np.concatenate(paths)
    # torch knows no read-only memory: the set gets its own.
    tensor = torch.from_numpy(whole if whole.flags.writeable else whole.copy())[None]
    weights = None
    if PROBABILITY in schema.names:
        shares = np.concatenate([part.column(PROBABILITY).to_numpy() for part in parts])
        weights = torch.from_numpy(shares)[None].to(tensor)
    return ScenarioSet(
        paths=tensor,
        names=described.names,
        units=described.units,
        probabilities=weights,
        times=None if described.times is None else described.times[None],
        source=described.source,
        seed=described.seed,
    )


def indices_of(batches: Iterable[pa.RecordBatch]) -> NDArray[np.int64] | None:
    """(S,) numbers of the scenarios in the draw that they come from; None where they are their rows."""
    parts = [batch.column(SCENARIO).to_numpy() for batch in batches if SCENARIO in batch.schema.names]
    return np.concatenate(parts) if parts else None


def _written(times: np.ndarray) -> list[str]:
    whole = times.astype("datetime64[s]")
    exact = times if (whole != times).any() else whole
    return [f"{text}Z" for text in np.datetime_as_string(exact)]


def _instants(texts: list[str]) -> np.ndarray:
    return np.array([text.removesuffix("Z") for text in texts], dtype="datetime64[ns]")
