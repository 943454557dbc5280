"""Solvers of the probability flow dx/dt = F(x, t) from t = pi/2 (noise) to t = 0 (data).

One function is one published algorithm, and none draws anything. Nothing here switches gradients off unless
the caller asks: ``grad_steps = K`` keeps the gradient of the last K steps only (the noise is then a constant
of the gradient), which bounds memory by K steps; ``checkpointed`` recomputes each step in the backward pass
instead of storing it. Neither changes a value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.schedule import END_TIME

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
    angle = _angle(time - next_time, state)
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


Past = tuple["float | Tensor", Tensor]
"""Time of the step before, and what it predicted there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Multistep:
    """A solver of one velocity a step that also reads what the step before predicted."""

    first: Step
    """Its first step, when there is none before."""
    advance: Callable[[Velocity, Tensor, float | Tensor, float | Tensor, Past | None], tuple[Tensor, Past]]
    """Velocity, state, time, the next, smaller time and the past to the next state and the next past."""


def adams_step(
    velocity: Velocity,
    state: Float[Tensor, "*batch D"],
    time: float | Tensor,
    next_time: float | Tensor,
    past: Past | None = None,
) -> tuple[Float[Tensor, "*batch D"], Past]:
    """The state at ``next_time``, second order with one velocity a step: F is continued as a line.

        x(s) = x(t) + (s - t) (F(t) + (s - t) / (t - t') (F(t) - F(t')) / 2)

    with t' the time before; without a past, `euler_step`.

    Notes
    -----
    Exact in one step where F = 0, as `euler_step` and `heun_step` are and the data prediction of
    `dpm_step` is not: what is whitened is nearly there.
    Source: Hairer, Noersett and Wanner (1993), section III.1, eq. 1.5 (explicit Adams), for unequal steps
    section III.5, https://doi.org/10.1007/978-3-540-78862-1.
    """
    slope = velocity(state, time)
    step, bent = next_time - time, slope
    if past is not None:
        bent = slope + step / (time - past[0]) * 0.5 * (slope - past[1])
    return state + step * bent, (time, slope)


def dpm_step(
    velocity: Velocity,
    state: Float[Tensor, "*batch D"],
    time: float | Tensor,
    next_time: float | Tensor,
    past: Past | None = None,
) -> tuple[Float[Tensor, "*batch D"], Past]:
    """The state at ``next_time``, second order with one velocity a step: the data are continued as a line.

    With D(t) = cos(t) x - sin(t) F the prediction of the data and lambda = log cot(t), half the log
    signal-to-noise ratio, the flow from t to s is exactly

        x(s) = sin(s) / sin(t) x(t) + sin(s) integral of exp(lambda) D from lambda(t) to lambda(s)      (1)

    Without a past D is taken as a constant, which is `ddim_step`. With D(t') of the time before, as a line in
    lambda, whose contribution is taken at the middle of the step:

        D = D(t) + (lambda(s) - lambda(t)) / (lambda(t) - lambda(t')) (D(t) - D(t')) / 2                (2)

    Notes
    -----
    lambda is infinite at both ends. There (2) has no meaning or its limit is D(t): the step from pi/2, the
    one after it and the last one are of first order, and over the whole interval the order is 2 up to a
    logarithm.
    Source: Lu et al. (2022), proposition 4.1 and algorithm 2 (DPM-Solver++ 2M), in angles,
    https://arxiv.org/abs/2211.01095.
    """
    slope = velocity(state, time)
    now = _angle(time, state)
    predicted = torch.cos(now) * state - torch.sin(now) * slope
    angle = _angle(time - next_time, state)
    end = torch.cos(angle) * state - torch.sin(angle) * slope
    if past is not None:
        ratio = 0.5 * _log_signal(next_time, time) / _log_signal(time, past[0])
        if math.isfinite(ratio):
            # (1) of a constant: sin(s) (cot(s) - cot(t)) = sin(t - s) / sin(t).
            end = end + torch.sin(angle) / torch.sin(now) * ratio * (predicted - past[1])
    return end, (time, predicted)


STEPS: dict[str, Step] = {"ddim": ddim_step, "euler": euler_step, "heun": heun_step}
"""Solvers that read nothing but the state, by the name used in `Generator.Config.sampler`."""
MULTISTEPS: dict[str, Multistep] = {
    "adams": Multistep(euler_step, adams_step),
    "dpm": Multistep(ddim_step, dpm_step),
}
"""The others, by name."""
SOLVERS: dict[str, Step | Multistep] = {**STEPS, **MULTISTEPS}
"""All of them."""
EVALUATIONS = {"ddim": 1, "euler": 1, "heun": 2, "adams": 1, "dpm": 1}
"""Velocities a step."""


def integrate(
    step: Step | Multistep,
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
    step : Step or Multistep
        One of `SOLVERS`.
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
    advance = step.advance if isinstance(step, Multistep) else _alone(step)
    state, past = noise, None
    if first_grad_step:
        with torch.no_grad():
            for index in range(first_grad_step):
                state, past = advance(velocity, state, times[index], times[index + 1], past)
    for index in range(first_grad_step, num_steps):
        given = velocity, state, times[index], times[index + 1], past
        if checkpointed:
            state, past = checkpoint(advance, *given, use_reentrant=False)
        else:
            state, past = advance(*given)
    return state


def first_step(name: str) -> Step:
    """The step that needs no past of the solver ``name`` of `SOLVERS`."""
    solver = SOLVERS[name]
    return solver.first if isinstance(solver, Multistep) else solver


def _alone(
    step: Step,
) -> Callable[[Velocity, Tensor, float | Tensor, float | Tensor, Past | None], tuple[Tensor, Past | None]]:
    """A step without a past in the form of one with it."""

    def advance(
        velocity: Velocity,
        state: Tensor,
        time: float | Tensor,
        next_time: float | Tensor,
        past: Past | None,
    ) -> tuple[Tensor, Past | None]:
        return step(velocity, state, time, next_time), past

    return advance


def _log_signal(time: float | Tensor, before: float | Tensor) -> float:
    """Rise of lambda = log cot(t) from ``before`` to ``time``; infinite where one of them is an end."""
    now, then = float(time), float(before)
    if now <= 0.0 or then >= END_TIME:
        return math.inf
    return math.log(math.tan(then) / math.tan(now))


def _angle(value: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
