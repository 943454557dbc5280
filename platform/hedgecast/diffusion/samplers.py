"""Solvers of the probability flow dx/dt = F(x, t) from t = pi/2 (noise) to t = 0 (data).

One function is one published algorithm. Nothing here switches gradients off unless the caller asks:
``grad_steps = K`` keeps the gradient of the last K steps only (the noise is then a constant of the
gradient), which bounds memory by K steps; ``checkpointed`` recomputes each step in the backward pass
instead of storing it. Neither changes a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hedgecast.core.errors import ConfigError

Velocity = Callable[[Tensor, float | Tensor], Tensor]
"""F: state (..., D) and time to the velocity (..., D)."""
Step = Callable[[Velocity, Tensor, "float | Tensor", "float | Tensor"], Tensor]
"""Velocity, state, time and the next, smaller time to the next state."""


def ddim_step(
    velocity: Velocity, state: Float[Tensor, "*batch D"], time: float | Tensor, next_time: float | Tensor
) -> Float[Tensor, "*batch D"]:
    """The state at ``next_time``, first order: data and noise predicted at ``time`` are kept.

    Notes
    -----
    Source: Song et al. (2021), eq. 12 with sigma = 0, https://arxiv.org/abs/2010.02502; in angles,
    Salimans and Ho (2022), appendix D, https://arxiv.org/abs/2202.00512.
    """
    angle = torch.as_tensor(time - next_time, dtype=state.dtype, device=state.device)
    return torch.cos(angle) * state - torch.sin(angle) * velocity(state, time)


def heun_step(
    velocity: Velocity, state: Float[Tensor, "*batch D"], time: float | Tensor, next_time: float | Tensor
) -> Float[Tensor, "*batch D"]:
    """The state at ``next_time``, second order: the trapezoidal rule, two velocities a step.

    Notes
    -----
    Source: Karras et al. (2022), algorithm 1, https://arxiv.org/abs/2206.00364, with dx/dt = F. Their
    exception at the last step is not needed: F is finite at t = 0.
    """
    slope = velocity(state, time)
    predicted = state + (next_time - time) * slope
    return state + (next_time - time) * 0.5 * (slope + velocity(predicted, next_time))


def euler_step(
    velocity: Velocity, state: Float[Tensor, "*batch D"], time: float | Tensor, next_time: float | Tensor
) -> Float[Tensor, "*batch D"]:
    """The state at ``next_time``, first order: one velocity, followed straight on.

    A single step of it from noise to data is a network of one pass, x = z - (pi/2) F(z), whose scenarios
    are the noise itself where F = 0; `ddim_step` would give zero there.

    Notes
    -----
    Source: Song et al. (2021), eq. 13 (probability flow), https://arxiv.org/abs/2011.13456.
    """
    return state + (next_time - time) * velocity(state, time)


STEPS: dict[str, Step] = {"ddim": ddim_step, "euler": euler_step, "heun": heun_step}
"""By the name used in `Generator.Config.sampler`."""


def integrate(
    step: Step,
    velocity: Velocity,
    noise: Float[Tensor, "*batch D"],
    times: Sequence[float],
    *,
    grad_steps: int | None = None,
    checkpointed: bool = False,
) -> Float[Tensor, "*batch D"]:
    """The state at the last time, from ``noise`` at the first.

    Parameters
    ----------
    step : Step
        One of `STEPS`.
    velocity : Velocity
        The probability flow.
    noise : Tensor
        State at ``times[0]``.
    times : sequence of float
        Decreasing.
    grad_steps : int or None
        Gradients flow through the last ``grad_steps`` steps only; None: through all.
    checkpointed : bool
        Recompute each step in the backward pass.

    Raises
    ------
    ConfigError
        ``grad_steps < 1``.

    Notes
    -----
    Source: Clark et al. (2024), algorithm 1 (DRaFT-K: gradient of the last K steps),
    https://arxiv.org/abs/2309.17400.
    """
    num_steps = len(times) - 1
    if grad_steps is not None and grad_steps < 1:
        raise ConfigError(f"grad_steps = {grad_steps}: must be at least 1", grad_steps=grad_steps)
    first_grad_step = 0 if grad_steps is None else max(num_steps - grad_steps, 0)
    state = noise
    if first_grad_step:
        with torch.no_grad():
            for index in range(first_grad_step):
                state = step(velocity, state, times[index], times[index + 1])
    for index in range(first_grad_step, num_steps):
        if checkpointed:
            state = checkpoint(step, velocity, state, times[index], times[index + 1], use_reentrant=False)
        else:
            state = step(velocity, state, times[index], times[index + 1])
    return state
