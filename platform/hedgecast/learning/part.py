"""Decision days as methods learn from them and draw for them: plain arrays, wherever they came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.data.features import features
from hedgecast.data.scaling import Standardizer
from hedgecast.data.windows import ArrayOrTensor, Windows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Decision days in the order of time: what is known at the issue time, and what came true.

    `Part.of` makes one from windows of a table, `Part.of_arrays` from any arrays. A part of arrays is
    itself what `hedgecast.regret.backtest` decides on; of a table, give it the windows, whose days may be
    longer or shorter than the slots.
    """

    context: Tensor
    """(B, C) float64, raw features."""
    targets: Tensor
    """(B, T, F) float64, in units of the data; NaN where not known."""
    days: NDArray[np.datetime64]
    """(B,) datetime64[D], one of a kind and increasing: a scenario depends on its day and the seed."""
    names: tuple[str, ...]
    """F series names."""
    units: tuple[str, ...]
    """F units."""
    groups: tuple[str, ...] | None = None
    """C names: features of one group share a floor of their scale. None: each has its own scale."""
    times: NDArray[np.datetime64] | None = None
    """(B, T) datetime64[ns], UTC, start of each slot."""
    seasonal: bool = True
    """Whether the day of the year says what kind of day it is; False: all days are alike."""
    days_to_outcome: int = 1
    """Days from an issue time until its targets are all known: no later decision knows them before."""
    record: Part | None = None
    """All days with known targets, in the order of time, for methods that read recent errors; each decision
    reads only those that were over at its issue time. None: the part's own days."""

    def __post_init__(self) -> None:
        num_days, num_series = len(self.days), len(self.names)
        shapes = tuple(self.context.shape), tuple(self.targets.shape)
        if self.context.ndim != 2 or self.targets.ndim != 3 or {shapes[0][0], shapes[1][0]} != {num_days}:
            raise ShapeError(
                f"context {shapes[0]}, targets {shapes[1]} and {num_days} days: must be (days, features), "
                "(days, slots, series) and as many days"
            )
        if shapes[1][2] != num_series or len(self.units) != num_series:
            raise ShapeError(
                f"{num_series} names and {len(self.units)} units for {shapes[1][2]} series: give one each"
            )
        if self.groups is not None and len(self.groups) != shapes[0][1]:
            raise ShapeError(f"{len(self.groups)} groups for {shapes[0][1]} features: give one each")
        if num_days and not bool(np.all(np.diff(self.days.astype(np.int64)) > 0)):
            raise DataError("days must increase: sort the rows by time and give each its own day")

    @classmethod
    def of(cls, windows: Windows, record: Part | None = None) -> Self:
        """The days of ``windows``."""
        schema = windows.schema
        return cls(
            context=torch.from_numpy(features(windows)),
            targets=torch.from_numpy(windows.slots),
            days=windows.days,
            names=schema.targets,
            units=schema.target_units,
            groups=tuple(schema.groups),
            times=windows.slot_times,
            days_to_outcome=-(-schema.horizon // schema.slots_per_day),
            record=record,
        )

    @classmethod
    def of_arrays(
        cls,
        context: ArrayLike,
        targets: ArrayLike,
        *,
        days: NDArray[np.datetime64] | None = None,
        first_row: int = 0,
        names: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        times: NDArray[np.datetime64] | None = None,
        days_to_outcome: int = 1,
        record: Part | None = None,
    ) -> Self:
        """Rows of arrays as decision days.

        Parameters
        ----------
        context, targets : array
            (B, C) and (B, T, F), rows in the order of time. (B, T) targets are one series.
        days : array, optional
            (B,) dates. Without them rows are numbered and no season is read from the numbers.
        first_row : int
            Number of the first row where there are no dates. Let the parts of one task not overlap.
        names, units : sequences, optional
            Of the series; ``series_0`` and so on, and no unit, if left out.
        groups, times, days_to_outcome, record
            As the fields.
        """
        values = torch.as_tensor(np.asarray(targets, dtype=np.float64))
        values = values.unsqueeze(-1) if values.ndim == 2 else values
        num_series = values.shape[-1]
        numbered = (first_row + np.arange(len(values))).astype("datetime64[D]")
        return cls(
            context=torch.as_tensor(np.asarray(context, dtype=np.float64)),
            targets=values,
            days=numbered if days is None else np.asarray(days).astype("datetime64[D]"),
            names=tuple(names or (f"series_{index}" for index in range(num_series))),
            units=tuple(units or [""] * num_series),
            groups=None if groups is None else tuple(groups),
            times=times,
            seasonal=days is not None,
            days_to_outcome=days_to_outcome,
            record=record,
        )

    def __len__(self) -> int:
        return len(self.days)

    @property
    def dim(self) -> int:
        """Entries of one scenario, T*F."""
        return int(self.targets.shape[1] * self.targets.shape[2])

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Self:
        """Some of the days; they keep reading recent errors from all of these."""
        index = np.arange(len(self))[rows]
        chosen = torch.from_numpy(index)
        return dataclasses.replace(
            self,
            context=self.context[chosen],
            targets=self.targets[chosen],
            days=self.days[index],
            times=None if self.times is None else self.times[index],
            record=self if self.record is None else self.record,
        )

    def spread(self) -> Tensor:
        """(C,) positive scale of each feature over these days; take it from training days alone.

        Raises
        ------
        DataError
            No day, or a feature that is not finite.
        """
        return torch.from_numpy(Standardizer.fit(self.context.numpy(), groups=self.groups).scale)

    @property
    def num_steps(self) -> NDArray[np.int64]:
        """(B,) steps of each day: its slots."""
        return np.full(len(self), self.targets.shape[1], dtype=np.int64)

    def realized(self, row: int) -> NDArray[np.float64]:
        """(T, F) targets of one day.

        Raises
        ------
        DataError
            They are not all known.
        """
        values = self.targets[row].numpy()
        if not np.all(np.isfinite(values)):
            raise DataError(f"the targets of {self.days[row]} are not known", day=str(self.days[row]))
        return values

    def to_steps(self, paths: ArrayOrTensor, row: int) -> ArrayOrTensor:
        """``paths`` (..., T, F) as they are: every slot is a step.

        Raises
        ------
        ShapeError
            ``paths`` has another number of slots.
        """
        del row
        if paths.shape[-2] != self.targets.shape[1]:
            raise ShapeError(
                f"paths has {paths.shape[-2]} slots in shape {tuple(paths.shape)}: must be (..., "
                f"{self.targets.shape[1]}, series)"
            )
        return paths
