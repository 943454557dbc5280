"""Checks of the parameters of the shipped programs: one message for one kind of mistake."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hedgecast.core.errors import ConfigError


def at_least(low: float, **values: float) -> None:
    """Nothing, once every named value is finite and at least ``low``."""
    for key, value in values.items():
        if not (math.isfinite(value) and value >= low):
            raise ConfigError(f"{key} = {value!r}: must be a finite number of at least {low:g}", key=key)


def positive(**values: float) -> None:
    """Nothing, once every named value is finite and above zero."""
    for key, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{key} = {value!r}: must be a finite number above 0", key=key)


def within(low: float, high: float, **values: float) -> None:
    """Nothing, once every named value lies in [``low``, ``high``]."""
    for key, value in values.items():
        if not low <= value <= high:
            raise ConfigError(f"{key} = {value!r}: must lie in [{low:g}, {high:g}]", key=key)


def whole(low: int, **values: int) -> None:
    """Nothing, once every named value is an integer of at least ``low``."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ConfigError(f"{key} = {value!r}: must be a whole number of at least {low}", key=key)


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    """Nothing, once ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigError(f"{key} = {value!r}: must be one of {', '.join(map(repr, choices))}", key=key)


def per_item(key: str, value: float | Sequence[float], count: int, *, low: float = 0.0) -> np.ndarray:
    """(count,) finite floats of at least ``low``: one number for all items, or a list with one for each."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{key} = {value!r}: must be a number or a list of numbers", key=key) from None
    if array.ndim > 1 or (array.ndim == 1 and array.shape[0] != count):
        raise ConfigError(
            f"{key} has shape {array.shape}: give one number, or a list of {count} numbers", key=key
        )
    array = np.broadcast_to(array, (count,)).copy()
    if not (np.isfinite(array).all() and (array >= low).all()):
        raise ConfigError(f"{key} = {value!r}: every entry must be finite and at least {low:g}", key=key)
    return array
