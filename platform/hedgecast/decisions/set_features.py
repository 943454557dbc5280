"""Numbers that describe a weighted set of scenarios, whatever its order and size.

Scenarios are first put in one order (by their entries, then by probability), so that a permuted set is
the same tensor bit for bit, and so is everything computed from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Quantile levels of each uncertain entry."""


def in_order(uncertain: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The scenarios (B, S, D) and probabilities (B, S), sorted by first entry, then second, and so on.

    Equal scenarios are sorted by probability. Differentiable: entries are moved, not changed.
    """
    keys = torch.cat([uncertain, probabilities.unsqueeze(-1)], dim=-1).detach()
    order = torch.arange(uncertain.shape[1], device=uncertain.device).expand(uncertain.shape[:2])
    # A stable sort by the last key first leaves the order by the first key, ties by the later ones.
    for key in reversed(range(keys.shape[-1])):
        column = keys[..., key].gather(1, order)
        order = order.gather(1, column.argsort(dim=1, stable=True))
    moved = uncertain.gather(1, order.unsqueeze(-1).expand_as(uncertain))
    return moved, probabilities.gather(1, order)


def describe(uncertain: Tensor, probabilities: Tensor, given: Tensor) -> Tensor:
    """(B, D (2 + levels) + K) mean, deviation and quantiles of every entry, and the given parameters.

    Parameters
    ----------
    uncertain, probabilities : Tensor
        (B, S, D) and (B, S), in the order of `in_order`.
    given : Tensor
        (1 or B, K).
    """
    weights = probabilities.unsqueeze(-1)
    mean = (weights * uncertain).sum(dim=1)
    variance = (weights * (uncertain - mean.unsqueeze(1)).square()).sum(dim=1)
    # The square root has no slope at a variance of zero, which a single scenario has.
    deviation = (variance + 1e-12 * (1.0 + mean.square())).sqrt()
    quantiles = _quantiles(uncertain, probabilities)
    known = given.expand(uncertain.shape[0], -1)
    return torch.cat([mean, deviation, quantiles.flatten(1), known], dim=1)


def _quantiles(uncertain: Tensor, probabilities: Tensor) -> Tensor:
    """(B, levels, D): weighted quantiles, linear between the middles of the scenarios' weights."""
    values, order = uncertain.sort(dim=1)
    weights = probabilities.unsqueeze(-1).expand_as(uncertain).gather(1, order)
    middles = weights.cumsum(dim=1) - weights / 2
    levels = torch.tensor(LEVELS, dtype=uncertain.dtype, device=uncertain.device)
    entries = middles.transpose(1, 2).contiguous()
    asked = levels.expand(*entries.shape[:2], -1).contiguous()
    above = torch.searchsorted(entries.detach(), asked).clamp(1, max(uncertain.shape[1] - 1, 1))
    if uncertain.shape[1] == 1:
        return values.expand(-1, len(LEVELS), -1)
    sorted_values = values.transpose(1, 2)
    low, high = sorted_values.gather(2, above - 1), sorted_values.gather(2, above)
    start, stop = entries.gather(2, above - 1), entries.gather(2, above)
    share = ((asked - start) / (stop - start).clamp(min=1e-12)).clamp(0.0, 1.0)
    return (low + share * (high - low)).transpose(1, 2)
