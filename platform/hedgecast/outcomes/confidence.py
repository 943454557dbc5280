"""An interval for a mean that stays valid however often one looks, and whenever one stops.

The asymptotic confidence sequence of Waudby-Smith and others: a normal mixture with the running standard
deviation in place of the true one. What it assumes of the values, in the order in which they come:

- one mean, given what came before (no trend: a mean that moves is covered on average only);
- differences from it that cannot be foreseen from earlier ones (independence, say);
- a variance that settles, and tails with somewhat more than two moments.

It is not exact for few values: nothing is said before ``first_look`` of them. ``docs/outcomes.md`` says what
it covers where an assumption fails.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError, ShapeError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SequenceConfig(Config):
    """How sure a confidence sequence is, and where it is narrowest."""

    alpha: float = 0.05
    """Probability that it ever leaves the mean, over all looks together."""
    first_look: int = 30
    """Values before which it says nothing."""
    intended_count: int = 100
    """Values at which it is narrowest; any count may be looked at."""

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not 0.0 < self.alpha < 1.0:
            raise ConfigError(f"alpha = {self.alpha}: must be in (0, 1)", key="alpha")
        for name, least in (("first_look", 2), ("intended_count", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least {least}", key=name)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sequence:
    """Means and intervals after each value."""

    means: np.ndarray
    """(n,)."""
    low: np.ndarray
    """(n,) minus infinity before the first look."""
    high: np.ndarray
    """(n,) infinity before the first look."""


def confidence_sequence(values: np.ndarray, config: SequenceConfig | None = None) -> Sequence:
    """Intervals that all cover the mean together, but for a probability of about ``alpha``.

    Parameters
    ----------
    values : ndarray
        (n,) finite, in the order in which they came.
    config : SequenceConfig, optional

    Raises
    ------
    ShapeError
        Values of another shape, or not finite.

    Notes
    -----
    Half width after t values with running standard deviation s:
    ``s sqrt((t r^2 + 1) / (t^2 r^2) log((t r^2 + 1) / alpha^2))``.
    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Theorem 2.2,
    https://arxiv.org/abs/2103.06476; exact for normal values of known variance (Robbins 1970).
    """
    config = SequenceConfig() if config is None else config
    if values.ndim != 1 or not np.all(np.isfinite(values)):
        raise ShapeError(f"values of shape {values.shape}: must be (n,) and finite")
    counts = np.arange(1, values.size + 1, dtype=np.float64)
    # About the first value: squares of large numbers with a small spread would cancel.
    shifted = values - values[:1].sum()
    means = np.cumsum(shifted) / counts
    variances = np.maximum(0.0, np.cumsum(shifted**2) / counts - means**2)
    variances *= counts / np.maximum(1.0, counts - 1.0)
    half = np.sqrt(variances) * unit_width(counts, config)
    half[: config.first_look - 1] = np.inf
    means = means + values[:1].sum()
    return Sequence(means=means, low=means - half, high=means + half)


def unit_width(counts: np.ndarray, config: SequenceConfig) -> np.ndarray:
    """(n,) half widths after each of ``counts`` values of standard deviation one."""
    scaled = counts * _tuning(config) + 1.0
    return np.asarray(
        np.sqrt(scaled / (counts * (scaled - 1.0)) * np.log(scaled / config.alpha**2)), dtype=np.float64
    )


def _tuning(config: SequenceConfig) -> float:
    # r^2 that makes the width at the intended count least, to first order (the same, Appendix B.2).
    surprise = -2.0 * math.log(config.alpha)
    return (surprise + math.log(surprise + 1.0)) / config.intended_count
