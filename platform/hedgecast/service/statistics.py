"""Figures over contexts' scenarios that answers carry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def quantiles(values: Tensor, probabilities: Tensor, levels: Sequence[float]) -> Tensor:
    """(..., levels) least value at which the distribution function reaches each level.

    Parameters
    ----------
    values, probabilities : Tensor
        (..., S). Entries of probability zero never count.
    levels : sequence of float
        In [0, 1]; 0 gives the least value, 1 the largest.
    """
    positive = probabilities > 0
    ordered, order = torch.where(positive, values, torch.inf).sort(dim=-1)
    reached = probabilities.gather(-1, order).cumsum(dim=-1)
    # 0.1 summed ten times is 0.9999999999999999: a level is reached within rounding.
    wanted = torch.tensor(levels, dtype=reached.dtype) - 1e-12
    index = torch.searchsorted(reached, wanted.expand(*reached.shape[:-1], -1).contiguous())
    return ordered.gather(-1, torch.minimum(index, positive.sum(dim=-1, keepdim=True) - 1))


def standard_error(values: Tensor, probabilities: Tensor) -> Tensor:
    """(...,) Monte Carlo standard error of the mean of ``values`` (..., S); zero where one entry counts.

    Entries of probability zero never count, even where they are infinite.

    Notes
    -----
    With equal probabilities this is the sample standard deviation over the root of S; otherwise the
    linearized error of a self-normalized weighted mean, with the same small-sample factor.
    Source: Owen (2013), Monte Carlo theory, eq. 9.8, https://artowen.su.domains/mc/.
    """
    squares = probabilities.square()
    rest = 1.0 - squares.sum(dim=-1)
    values = torch.where(probabilities > 0, values, 0.0)
    centred = values - (probabilities * values).sum(dim=-1, keepdim=True)
    alone = rest <= 1e-12
    variance = (squares * centred.square()).sum(dim=-1) / torch.where(alone, 1.0, rest)
    return torch.where(alone, 0.0, variance.sqrt())
