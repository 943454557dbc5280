"""Noise matching: the regression whose minimiser is the probability flow.

    L = E_{t, z} w |F(x_t, t) - (cos(t) z - sin(t) x_0)|^2 / D

A unit weight is the weighting of Karras et al. (2022): each noise level has the same loss at
initialisation (F = 0, whitened data: exactly 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.diffusion.schedule import noised, velocity_target


def noise_matching_errors(
    velocity: Callable[[Tensor, Tensor], Tensor],
    clean: Float[Tensor, "B S D"],
    noise: Float[Tensor, "B S D"],
    times: Float[Tensor, "B S"],
) -> Float[Tensor, "B S"]:
    """Mean squared velocity error over the D entries, for each noised sample.

    Notes
    -----
    Source: Lu and Song (2024), eq. 5, https://arxiv.org/abs/2410.11081.
    """
    predicted = velocity(noised(clean, noise, times), times)
    return (predicted - velocity_target(clean, noise, times)).square().mean(dim=-1)


def weighted_mean(errors: Float[Tensor, "B S"], weights: Float[Tensor, " B"] | None) -> Float[Tensor, ""]:
    """Mean of the errors; ``weights`` of the rows are normalized to mean 1, None: equal."""
    if weights is None:
        return errors.mean()
    return (errors.mean(dim=1) * weights).sum() / torch.clamp(
        weights.sum(), min=torch.finfo(errors.dtype).tiny
    )
