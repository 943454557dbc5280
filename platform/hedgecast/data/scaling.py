"""Centering and scaling by the statistics of training days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.data.features import features
from hedgecast.data.windows import Windows

# Share of a group's largest spread that each of its entries is scaled by at least. Without it the hours
# around sunrise, nearly constant in training, were blown up: ridge on the German days with wind and solar had
# a validation error of 5.16 GW instead of 3.72 (shares from 0.02 to 0.2 differ by 0.006).
_LEAST_SHARE = 0.05


class Standardizer:
    """Entrywise ``(values - mean) / scale``, with statistics over the first axis of what it was fitted on.

    Parameters
    ----------
    mean, scale : array
        Of one entry's shape, such as (C,) for features or (T, F) for targets; ``scale`` is positive.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray) -> None:
        self.mean = np.asarray(mean, dtype=np.float64)
        self.scale = np.asarray(scale, dtype=np.float64)
        if self.mean.shape != self.scale.shape:
            raise ShapeError(f"mean has shape {self.mean.shape}, scale {self.scale.shape}: they must agree")
        if not np.all(np.isfinite(self.mean)) or not np.all(np.isfinite(self.scale) & (self.scale > 0)):
            raise DataError("mean must be finite and scale finite and positive: fit the scaling again")

    @classmethod
    def fit(cls, values: np.ndarray, *, groups: Sequence[str] | None = None) -> Self:
        """The standardizer of ``values`` (B, ...), of training days only.

        An entry that never varies keeps its own unit, scale 1: it becomes zero in training, and a later
        different value is not blown up.

        Parameters
        ----------
        values : array
            One row per day.
        groups : sequence of str
            For (B, C): a group for each entry; no entry is scaled by less than 5 % of the largest spread
            in its group.

        Raises
        ------
        DataError
            No row, or a value that is not finite.
        """
        if not len(values):
            raise DataError("no training day to take scaling statistics from: move split.validation later")
        if not np.all(np.isfinite(values)):
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(
                f"row {row} of the values to scale is not finite: leave irregular days out", row=row
            )
        mean, scale = values.mean(axis=0), values.std(axis=0)
        if groups is not None:
            scale = _lift(scale, np.array(groups))
        # Rounding leaves a constant with a spread near 1e-16 of its size.
        constant = scale <= 1e-12 * np.maximum(1.0, np.abs(mean))
        return cls(mean, np.where(constant, 1.0, scale))

    def transform(self, values: np.ndarray) -> np.ndarray:
        """``values`` (..., entry) in units of the training spread."""
        scaled: np.ndarray = (values - self.mean) / self.scale
        return scaled

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """``values`` (..., entry) back in the units of the data."""
        restored: np.ndarray = values * self.scale + self.mean
        return restored

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold exactly."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` made."""
        return cls(np.array(values["mean"], dtype=np.float64), np.array(values["scale"], dtype=np.float64))


def feature_standardizer(windows: Windows) -> Standardizer:
    """The standardizer of the features of training days; slots of one kind and column are a group."""
    return Standardizer.fit(features(windows), groups=windows.schema.groups)


def _lift(scale: np.ndarray, groups: np.ndarray) -> np.ndarray:
    lifted = scale.copy()
    for group in np.unique(groups):
        inside = groups == group
        lifted[inside] = np.maximum(scale[inside], _LEAST_SHARE * scale[inside].max())
    return lifted
