"""How several workers share a step, so that their number changes nothing but the order of sums.

Every worker holds the same weights and knows all days of the step. It draws the same angles, noise and
scenarios as the others, for all of them, from a generator in the same state, and computes its own rows:

    rows of worker w of W:   [w B / W, (w + 1) B / W)                                     (1)
    g = sum_w (B_w / B) g_w                                                               (2)

with g_w the gradient of worker w's mean loss over its B_w rows. The sums of (2) are over workers; both
gradients of a joint step are summed apart, before their norms are compared. Drawing for everyone costs
a millisecond where solving takes a second, and is what makes two workers follow the curve of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed
from torch import Tensor

from hedgecast.core.errors import ConfigError


class Workers(Protocol):
    """All workers of a run, seen from one of them."""

    @property
    def rank(self) -> int:
        """Of this worker, from 0."""
        ...

    @property
    def count(self) -> int:
        """Workers in all."""
        ...

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all workers, the same bits on each; ``tensors`` have one type and device."""
        ...


class Alone:
    """One worker: every row is its own, and a sum is what it has."""

    rank = 0
    count = 1

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """``tensors`` themselves."""
        return list(tensors)


class Group:
    """The workers of the default process group of `torch.distributed` (gloo on CPUs, nccl on GPUs).

    Parameters
    ----------
    device : torch.device
        Of messages: nccl sends from a GPU only.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = torch.distributed.get_rank()
        self.count = torch.distributed.get_world_size()

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """One message for all ``tensors``: a collective costs more by its start than by its bytes."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(self.device)
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [
            part.reshape(tensor.shape).to(tensor.device) for part, tensor in zip(parts, tensors, strict=True)
        ]


ALONE = Alone()
"""Training in this process."""


def own_rows(workers: Workers, num_rows: int) -> slice:
    """Equation (1): the rows of ``num_rows`` that this worker computes.

    Raises
    ------
    ConfigError
        There are more workers than rows.
    """
    if num_rows < workers.count:
        raise ConfigError(
            f"{num_rows} days cannot be shared by {workers.count} workers: use fewer workers, or for a batch "
            "of training raise learning.batch_days",
            days=num_rows,
            workers=workers.count,
        )
    begin, end = (place * num_rows // workers.count for place in (workers.rank, workers.rank + 1))
    return slice(begin, end)
