"""Methods compared over days and over seeds, the two kept apart.

    c_md   mean over seeds of the cost of method m on day d                               (1)
    D_md   c_md - c_bd, b the method it is compared with, same days                       (2)

What differs between days is the world's, and its interval comes from blocks of days of (1) and (2). What
differs between seeds is the method's own chance (first weights, noise, order of days); it is shown as the
standard deviation of the seeds' mean costs and enters no interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.regret.metrics import Interval, block_bootstrap, cost_cvar, regret, relative_regret

TAIL = 0.9
"""The worst tenth of days."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One method over all days and seeds; costs are means, in the program's money."""

    label: str
    num_days: int
    num_seeds: int
    cost: Interval
    """Mean of equation (1)."""
    regret: float
    relative_regret: float
    cost_cvar: float
    """Of the worst tenth of days."""
    difference: Interval
    """Mean of equation (2) against the baseline."""
    is_baseline: bool
    seed_costs: tuple[float, ...]
    """Mean cost of each seed."""
    seed_deviation: float | None
    """Standard deviation of ``seed_costs``; None for one seed."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


class Comparison:
    """Costs of methods on the same days.

    Parameters
    ----------
    best : array
        (D,) cost of each day had it been known.
    costs : mapping of labels to arrays
        (seeds, D) realized costs, days in the order of time.
    baseline : str
        Label that all are compared with.
    seed : int
        Of the resampling; every interval draws the same blocks.
    level, block_days, num_resamples
        As in `hedgecast.regret.metrics.block_bootstrap`.

    Raises
    ------
    ConfigError, ShapeError
        The baseline is none of the methods, or costs of other days.
    """

    def __init__(
        self,
        best: NDArray[np.float64],
        costs: Mapping[str, NDArray[np.float64]],
        *,
        baseline: str,
        seed: int = 0,
        level: float = 0.95,
        block_days: int = 7,
        num_resamples: int = 2000,
    ) -> None:
        if baseline not in costs:
            raise ConfigError(f"baseline {baseline!r} is none of {', '.join(costs)}", key="baseline")
        for label, values in costs.items():
            if values.ndim != 2 or values.shape[1] != len(best) or not len(values):
                raise ShapeError(
                    f"costs of {label!r} have shape {values.shape}: must be (seeds, {len(best)} days)"
                )
        self.best, self.costs, self.baseline = best, dict(costs), baseline
        self._seed = seed
        self._settings = {"level": level, "block_days": block_days, "num_resamples": num_resamples}

    def standings(self) -> tuple[Standing, ...]:
        """One for each method, in the order given."""
        return tuple(self._standing(label) for label in self.costs)

    def difference(self, label: str, other: str) -> Interval:
        """Mean cost of ``label`` less that of ``other``, paired by day; below zero ``label`` is cheaper."""
        return self._interval(self.costs[label].mean(axis=0) - self.costs[other].mean(axis=0))

    def pairs(self) -> list[tuple[str, str, Interval]]:
        """`difference` of every two methods."""
        labels = list(self.costs)
        return [
            (first, second, self.difference(first, second))
            for index, first in enumerate(labels)
            for second in labels[:index]
        ]

    def _standing(self, label: str) -> Standing:
        by_day = self.costs[label].mean(axis=0)
        by_seed = self.costs[label].mean(axis=1)
        return Standing(
            label=label,
            num_days=len(self.best),
            num_seeds=len(by_seed),
            cost=self._interval(by_day),
            regret=float(regret(by_day, self.best).mean()),
            relative_regret=relative_regret(by_day, self.best),
            cost_cvar=cost_cvar(by_day, TAIL),
            difference=self.difference(label, self.baseline),
            is_baseline=label == self.baseline,
            seed_costs=tuple(by_seed.tolist()),
            seed_deviation=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        )

    def _interval(self, values: NDArray[np.float64]) -> Interval:
        generator = torch.Generator().manual_seed(self._seed)
        return block_bootstrap(values, generator, **self._settings)  # type: ignore[arg-type]
