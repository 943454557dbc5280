"""The ``[tune]`` table of a study: which keys of ``[learning]`` to search, where, and for how long."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.learning.config import LearningConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Range(Config):
    """An interval to draw from."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Draw the logarithm evenly."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(f"low = {self.low}, high = {self.high}: low must be smaller", key="low")
        if self.log and not self.low > 0:
            raise ConfigError(f"low = {self.low}: a logarithm needs a positive one", key="low")


# What moved the validation cost of the shipped studies at all; the network's depth and the sampler did not.
DEFAULT_SPACE: Mapping[str, Any] = {
    "learning_rate": {"low": 5e-4, "high": 8e-3, "log": True},
    "joint_learning_rate": {"low": 5e-5, "high": 2e-3, "log": True},
    "weight_decay": {"low": 1e-3, "high": 0.3, "log": True},
    "noise_log_mean": {"low": -1.2, "high": 0.4},
    "ema_decay": [0.98, 0.99, 0.995],
    "generator.denoiser.hidden": [64, 128, 256],
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(Config):
    """A search over ``[learning]``, judged on validation days alone."""

    trials: int = 16
    """Settings that are tried; the study's own are the first."""
    grace_epochs: int = 10
    """Epochs before a trial may be stopped for being worse than others."""
    reduction: int = 3
    """One in so many goes on at each stop; stops lie that factor apart."""
    seed: int = 0
    """Of the settings drawn, and of the validation scenarios that all trials are judged by."""
    space: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(DEFAULT_SPACE))
    """By key of ``[learning]``, in quotes where it has dots: a list of values, or a table of ``low``,
    ``high`` and, if wanted, ``log = true``."""

    def __post_init__(self) -> None:
        for name in ("trials", "grace_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tune.{name} = {getattr(self, name)}: must be at least 1", key=name)
        if self.reduction < 2:
            raise ConfigError(f"tune.reduction = {self.reduction}: must be at least 2", key="reduction")
        if not self.space:
            raise ConfigError("tune.space is empty: name at least one key of [learning]", key="tune.space")
        for key, candidates in self.dimensions().items():
            for value in candidates if isinstance(candidates, list) else (candidates.low, candidates.high):
                with_values(LearningConfig(), {key: value})

    def dimensions(self) -> dict[str, Range | list[Any]]:
        """What to draw each key from.

        Raises
        ------
        ConfigError
            A dimension is neither a list with a value nor a table of bounds.
        """
        found: dict[str, Range | list[Any]] = {}
        for key, given in self.space.items():
            if isinstance(given, Mapping):
                found[key] = Range.from_dict(given, path=f"tune.space.{key}")
            elif isinstance(given, list) and given:
                found[key] = given
            else:
                raise ConfigError(
                    f"tune.space.{key} = {given!r}: must be a list of values or a table with low and high",
                    key=f"tune.space.{key}",
                )
        return found


def with_values(config: LearningConfig, values: Mapping[str, Any]) -> LearningConfig:
    """``config`` with other values at dotted keys.

    Raises
    ------
    ConfigError
        A key that does not exist, or a value that it refuses.
    """
    plain = config.to_dict()
    for key, value in values.items():
        table = plain
        *parents, last = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"tune.space.{key}: {parent} is a value, not a table", key=key)
        table[last] = value
    return LearningConfig.from_dict(plain, path="learning")


def value_of(config: LearningConfig, key: str) -> Any:
    """The value at a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
