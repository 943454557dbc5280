"""The fingerprint of a scenario set, taken while its scenarios pass by."""

from __future__ import annotations

import hashlib

import numpy as np


class RunningFingerprint:
    """SHA-256 of shape, names, units, times and paths, as float64: what `ScenarioSet.fingerprint` gives.

    Parameters
    ----------
    shape : tuple of int
        (B, S, T, F) of the whole set.
    names, units : tuple of str
        F of each.
    times : array or None
        (B, T) UTC starts of the steps.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        names: tuple[str, ...],
        units: tuple[str, ...],
        times: np.ndarray | None,
    ) -> None:
        self._digest = hashlib.sha256(repr((shape, names, units)).encode())
        if times is not None:
            self._digest.update(np.ascontiguousarray(times.astype("datetime64[ns]").astype("<i8")).tobytes())

    def update(self, values: np.ndarray) -> None:
        """Take the next values in C order of the whole set: paths, then probabilities if there are some."""
        self._digest.update(np.ascontiguousarray(values, "<f8").data)

    def hexdigest(self) -> str:
        """Hexadecimal digest of what was taken so far."""
        return self._digest.hexdigest()
