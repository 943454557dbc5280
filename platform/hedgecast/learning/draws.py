"""Random numbers of a training step, the same whatever the number of workers.

Everything is drawn for all days of the step, from generators in the same state on every worker; a worker
keeps its own rows. So an estimator never sees how many share its days.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.diffusion.schedule import training_times
from hedgecast.learning.parallel import ALONE, Workers, own_rows


class Draws:
    """Draws for the own rows of ``num_days`` days.

    Parameters
    ----------
    generator : torch.Generator
    num_days : int
        Of the whole step.
    like : Tensor
        Gives dtype and device of what is drawn.
    workers : Workers
    rows : slice, optional
        The days that are kept, where they are not the worker's share.
    """

    def __init__(
        self,
        generator: torch.Generator,
        num_days: int,
        like: Tensor,
        workers: Workers = ALONE,
        rows: slice | None = None,
    ) -> None:
        self.generator, self.num_days, self.workers = generator, num_days, workers
        self.rows = own_rows(workers, num_days) if rows is None else rows
        self._like = like

    @property
    def share(self) -> float:
        """Share of the step's days that are this worker's."""
        return float(self.rows.stop - self.rows.start) / self.num_days

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Standard normal numbers of the own days."""
        drawn = torch.randn(
            self.num_days,
            *shape,
            generator=self.generator,
            dtype=self._like.dtype,
            device=self.generator.device,
        )
        return self._own(drawn)

    def uniform(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Numbers of the own days from [0, 1), float64."""
        drawn = torch.rand(
            self.num_days,
            *shape,
            generator=self.generator,
            dtype=torch.float64,
            device=self.generator.device,
        )
        return drawn[self.rows].to(self._like.device)

    def times(self, count: int, *, log_mean: float, log_std: float) -> Float[Tensor, "B K"]:
        """``count`` angles of each own day, stratified over all days; see `training_times`."""
        drawn = training_times(
            (self.num_days, count), log_mean=log_mean, log_std=log_std, generator=self.generator
        )
        return self._own(drawn)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over all workers."""
        return self.workers.sum(tensors)

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn[self.rows].to(self._like)
