"""The noise schedule: angles between data and noise, on residuals whitened to unit covariance.

    x_t = cos(t) x_0 + sin(t) z,     z ~ N(0, I),     t in [0, pi/2]                      (1)
    dx/dt = F(x, t) = E[cos(t) z - sin(t) x_0 | x_t = x]       probability flow           (2)
    E[x_0 | x] = cos(t) x - sin(t) F(x, t)                     denoiser                   (3)

With sigma = tan(t) this is the preconditioning of Karras et al. (2022) for sigma_data = 1: x_t is
their noisy sample times c_in, cos(t) their c_skip / c_in, -sin(t) their c_out, and a unit weight on F
is their weighted loss. The trigonometric form is chosen over the sigma form, and over a discrete
cosine schedule, for three reasons that matter with few steps and few days:

* If x_0 is standard normal then F = 0 and (2) stands still: any solver is exact in one step. What is
  whitened by the training covariance is nearly that, so the network only has to bend a Gaussian that
  is already right, and a handful of steps is enough.
* t = pi/2 is pure noise exactly; there is no largest sigma to cut off and no bias from it.
* F is bounded at both ends, so a second-order step needs no special case at t = 0.

Source: Lu and Song (2024), eqs. 3-5 and section 3 (TrigFlow), https://arxiv.org/abs/2410.11081;
Karras et al. (2022), table 1, https://arxiv.org/abs/2206.00364.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.core.errors import ConfigError

END_TIME = math.pi / 2
"""Pure noise."""


def sampling_times(num_steps: int) -> tuple[float, ...]:
    """Angles from pi/2 down to 0, equally spaced: ``num_steps + 1`` of them.

    Raises
    ------
    ConfigError
        Unless ``num_steps >= 1``.
    """
    if num_steps < 1:
        raise ConfigError(f"sampler_steps = {num_steps}: must be at least 1", sampler_steps=num_steps)
    return tuple(END_TIME * (1.0 - step / num_steps) for step in range(num_steps + 1))


def training_times(
    shape: tuple[int, ...],
    *,
    log_mean: float,
    log_std: float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """Angles with lognormal sigma = tan(t), one in each of as many equally likely strata.

    Stratified, because the loss varies more with the noise level than with anything else: over a
    batch the levels then cover the distribution evenly.

    Parameters
    ----------
    shape : tuple of int
        Of the result, on the generator's device.
    log_mean, log_std : float
        Of log(sigma).
    generator : torch.Generator
        Source of the draw.
    dtype : torch.dtype
        Of the result.

    Notes
    -----
    Source: Karras et al. (2022), table 1 (P_mean, P_std); stratification as in Kingma et al. (2021),
    appendix I.1, https://arxiv.org/abs/2107.00630.
    """
    device, count = generator.device, math.prod(shape)
    offsets = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    order = torch.randperm(count, generator=generator, device=device)
    quantiles = (order + offsets) / count
    # The ends would be infinite; 1e-9 is 6 standard deviations.
    normals = torch.special.ndtri(quantiles.clamp(1e-9, 1.0 - 1e-9))
    return torch.atan(torch.exp(log_mean + log_std * normals)).to(dtype).reshape(shape)


def noised(
    clean: Float[Tensor, "*batch D"], noise: Float[Tensor, "*batch D"], times: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch D"]:
    """x_t of equation (1)."""
    angle = times.unsqueeze(-1)
    return torch.cos(angle) * clean + torch.sin(angle) * noise


def velocity_target(
    clean: Float[Tensor, "*batch D"], noise: Float[Tensor, "*batch D"], times: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch D"]:
    """cos(t) z - sin(t) x_0: what F is the conditional mean of, equation (2)."""
    angle = times.unsqueeze(-1)
    return torch.cos(angle) * noise - torch.sin(angle) * clean


def denoised(
    state: Float[Tensor, "*batch D"], velocity: Float[Tensor, "*batch D"], times: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch D"]:
    """E[x_0 | x_t] of equation (3)."""
    angle = times.unsqueeze(-1)
    return torch.cos(angle) * state - torch.sin(angle) * velocity
