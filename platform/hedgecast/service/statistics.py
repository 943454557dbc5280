"""Figures over one context's scenarios that an answer carries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def quantiles(values: Tensor, probabilities: Tensor, levels: Sequence[float]) -> tuple[float, ...]:
    """The least value at which the distribution function reaches each level.

    Parameters
    ----------
    values, probabilities : Tensor
        (S,). Entries of probability zero never count.
    levels : sequence of float
        In [0, 1]; 0 gives the least value, 1 the largest.
    """
    positive = probabilities > 0
    ordered, order = values[positive].sort()
    reached = probabilities[positive][order].cumsum(0)
    # 0.1 summed ten times is 0.9999999999999999: a level is reached within rounding.
    index = torch.searchsorted(reached, torch.tensor(levels, dtype=reached.dtype) - 1e-12)
    return tuple(ordered[index.clamp(max=len(ordered) - 1)].tolist())


def standard_error(values: Tensor, probabilities: Tensor) -> float:
    """Monte Carlo standard error of the mean of ``values`` (S,); zero where only one entry counts.

    Entries of probability zero never count, even where they are infinite.

    Notes
    -----
    With equal probabilities this is the sample standard deviation over the root of S; otherwise the
    linearized error of a self-normalized weighted mean, with the same small-sample factor.
    Source: Owen (2013), Monte Carlo theory, eq. 9.8, https://artowen.su.domains/mc/.
    """
    concentration = float(probabilities.square().sum())
    if concentration >= 1.0 - 1e-12:
        return 0.0
    values = torch.where(probabilities > 0, values, 0.0)
    centred = values - (probabilities * values).sum()
    variance = float((probabilities.square() * centred.square()).sum()) / (1.0 - concentration)
    return math.sqrt(variance)
