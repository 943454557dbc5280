"""What a model did on each validation day, kept in its bundle so that models can be compared by the day.

An average says which model was cheaper; whether that is more than chance, only the days' paired differences
say. They pair when both models decided the same days, with the same outcomes, at the same costs, from as many
scenarios: the table carries a digest of each, and unlike tables are refused.

A model that is trained on later data has later validation days than the champion had. Then the champion's own
table says nothing about them, so training lets the champion of that hour decide the new days too, by its
served graph, and keeps its costs here.

Proper scores stand beside costs, so that a student can be held against its teacher by the day. A day of 23
or 25 hours has none: its slots are not all known.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from hedgecast.core.errors import BundleError, ShapeError
from hedgecast.learning.fidelity import SCORES
from hedgecast.registry.bundle import VALIDATION_DAYS, Bundle

_METADATA = b"hedgecast"
_COLUMNS = ("cost", "best", "baseline_cost")
_CHAMPION_COST = "champion_cost"
_CHAMPION_PREFIX = "champion_"
_ABOUT = ("baseline", "num_scenarios", "data", "program", "champion")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ValidationDays:
    """One model's validation, day by day."""

    days: NDArray[np.datetime64]
    """(D,) datetime64[D], in order."""
    cost: NDArray[np.float64]
    """(D,) realized cost of the model's decision."""
    best: NDArray[np.float64]
    """(D,) cost had the day been known."""
    baseline_cost: NDArray[np.float64]
    """(D,) realized cost of the baseline's decision."""
    baseline: str
    """Name of the baseline."""
    num_scenarios: int
    """Scenarios of each day."""
    data: str
    """SHA-256 of the days and what came true."""
    program: str
    """SHA-256 of the decision program and its parameters."""
    champion: str = ""
    """Fingerprint of the champion that decided the same days; empty: none did."""
    champion_cost: NDArray[np.float64] | None = None
    """(D,) realized cost of its decisions."""
    scores: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    """`SCORES` of the model's scenarios, (D,) each, NaN on days without every slot; empty: not kept."""
    champion_scores: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    """The same of the champion's scenarios."""

    def __post_init__(self) -> None:
        if (self.champion_cost is None) == bool(self.champion):
            raise ShapeError("champion and champion_cost: give both or neither")
        for name, values in self._score_columns().items():
            if name.removeprefix(_CHAMPION_PREFIX) not in SCORES or values.shape != self.days.shape:
                raise ShapeError(
                    f"score {name} of shape {values.shape}: must be one of {', '.join(SCORES)}, one a day, "
                    f"{len(self.days)} days"
                )
        for name in self._columns:
            values = getattr(self, name)
            if values.shape != self.days.shape or not np.isfinite(values).all():
                raise ShapeError(
                    f"{name} of shape {values.shape}: must be finite, one a day, {len(self.days)} days"
                )

    @property
    def _columns(self) -> tuple[str, ...]:
        return _COLUMNS if self.champion_cost is None else (*_COLUMNS, _CHAMPION_COST)

    def _score_columns(self) -> dict[str, NDArray[np.float64]]:
        of_champion = {f"{_CHAMPION_PREFIX}{name}": values for name, values in self.champion_scores.items()}
        return {**self.scores, **of_champion}

    @property
    def regret(self) -> NDArray[np.float64]:
        """(D,) realized regret of the model's decision."""
        return np.asarray(self.cost - self.best)

    def of_champion(self, fingerprint: str) -> Self | None:
        """These days as the champion ``fingerprint`` decided them; None where another one or none did."""
        if self.champion_cost is None or self.champion != fingerprint:
            return None
        return dataclasses.replace(self, cost=self.champion_cost, scores=self.champion_scores)

    def unlike(self, other: Self) -> tuple[str, ...]:
        """What keeps the days of both from being paired; nothing: they can be."""
        found = []
        if self.days.shape != other.days.shape or (self.days != other.days).any():
            found.append(f"days ({_span(self.days)}, the other's {_span(other.days)})")
        elif self.data != other.data:
            found.append("what came true on these days")
        if self.program != other.program:
            found.append("decision program or its costs")
        if self.num_scenarios != other.num_scenarios:
            found.append(f"scenarios ({self.num_scenarios}, the other's {other.num_scenarios})")
        return tuple(found)

    def to_bytes(self) -> bytes:
        """The table as Parquet, the same bytes for the same values."""
        about = {name: getattr(self, name) for name in _ABOUT}
        table = pa.table(
            {
                "day": pa.array(self.days.astype("datetime64[D]")),
                **{name: pa.array(getattr(self, name)) for name in self._columns},
                **{name: pa.array(values) for name, values in self._score_columns().items()},
            }
        ).replace_schema_metadata({_METADATA: json.dumps(about, sort_keys=True).encode()})
        buffer = io.BytesIO()
        pa.parquet.write_table(table, buffer)
        return buffer.getvalue()

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The table that ``bundle`` holds.

        Raises
        ------
        BundleError
            It holds none, or one that cannot be read.
        """
        path = bundle.folder / VALIDATION_DAYS
        if VALIDATION_DAYS not in bundle.manifest.files:
            raise BundleError(
                f"{bundle.folder} holds no {VALIDATION_DAYS}: train it again, so that it can be compared by "
                "the day",
                file=VALIDATION_DAYS,
            )
        try:
            table = pa.parquet.read_table(path)
            about = json.loads(table.schema.metadata[_METADATA])
            columns = [name for name in (*_COLUMNS, _CHAMPION_COST) if name in table.column_names]
            return cls(
                days=table["day"].to_numpy().astype("datetime64[D]"),
                **{name: table[name].to_numpy() for name in columns},
                **about,
                scores=_scores(table, ""),
                champion_scores=_scores(table, _CHAMPION_PREFIX),
            )
        except (pa.ArrowException, KeyError, TypeError, ValueError, ShapeError) as error:
            raise BundleError(f"{path} cannot be read: {error}", file=VALIDATION_DAYS) from error


def _scores(table: pa.Table, prefix: str) -> dict[str, NDArray[np.float64]]:
    names = [name for name in SCORES if f"{prefix}{name}" in table.column_names]
    return {name: table[f"{prefix}{name}"].to_numpy() for name in names}


def data_digest(days: NDArray[np.datetime64], realized: list[NDArray[np.float64]]) -> str:
    """SHA-256 of days and of what came true on each: steps and series of every day, as float64."""
    digest = hashlib.sha256()
    for day, values in zip(days.astype("datetime64[D]"), realized, strict=True):
        digest.update(f"{day} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()


def program_digest(program: Mapping[str, Any], source: bytes = b"") -> str:
    """SHA-256 of a program's table and, where it came from a file, the file's bytes; units do not count."""
    # The path says where the file lay, not what it holds.
    content = {key: value for key, value in program.items() if key not in ("path", "units")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode() + b"\0" + source).hexdigest()


def _span(days: NDArray[np.datetime64]) -> str:
    return f"{len(days)} from {days[0]} to {days[-1]}" if len(days) else "none"
