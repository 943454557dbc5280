"""The trained network inside Hugging Face diffusers' DDIM loop, as its documentation has it for own models.

diffusers knows noise levels as the cumulative products of a list of betas. Ours are angles t with
x_t = cos(t) x_0 + sin(t) z, so alphas_cumprod = cos(t)^2, and our network's F is their v:

    v = sqrt(alphas_cumprod) z - sqrt(1 - alphas_cumprod) x_0      prediction_type="v_prediction"

With 1,000 levels at the angles (i + 1) / 1000 * pi / 2 and timestep_spacing="trailing" their 50 steps stop
at the angles of our 50, so the two loops are the same numbers but for rounding; `agreement` says how near
they come.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.samplers import ddim_step, integrate
from hedgecast.diffusion.schedule import sampling_times

LEVELS = 1000
STEPS = 50
# Of the published loop: T = 1000, linear, all steps, eta = 0.
PUBLISHED_BETAS = (1e-4, 0.02)


@dataclasses.dataclass(frozen=True, slots=True)
class Loop:
    """A scheduler, and the angle of each of its levels for the network."""

    scheduler: Any
    angles: tuple[float, ...]

    @torch.no_grad()
    def sample(self, generator: Generator, context: Tensor, noise: Tensor) -> Tensor:
        """Paths (B, S, T, F) from noise (B, S, D); the context is encoded once, as in our own loop."""
        encoded, state = generator.encode(context), noise
        for level in self.scheduler.timesteps.tolist():
            velocity = generator.denoiser(state, self.angles[level], encoded)
            state = self.scheduler.step(velocity, level, state).prev_sample
        return generator.finish(context, state)


def ddim_loop(steps: int = STEPS) -> Loop:
    """The loop at our own angles."""
    angles = math.pi / 2 * np.arange(1, LEVELS + 1) / LEVELS
    kept = np.cos(angles) ** 2
    # Pure noise exactly: cos(pi / 2) rounds to 6e-17.
    kept[-1] = 0.0
    betas = 1.0 - kept / np.concatenate([[1.0], kept[:-1]])
    return _loop(steps, angles, trained_betas=betas)


def published_loop() -> Loop:
    """All 1,000 steps of the linear schedule, as the published decision-focused sampler takes them."""
    first, last = PUBLISHED_BETAS
    kept = np.cumprod(1.0 - np.linspace(first, last, LEVELS))
    options = {"beta_start": first, "beta_end": last, "beta_schedule": "linear"}
    return _loop(LEVELS, np.arccos(np.sqrt(kept)), **options)


@torch.no_grad()
def agreement(generator: Generator, context: Tensor, noise: Tensor, steps: int = STEPS) -> float:
    """Largest difference of the two loops' paths, relative to the root mean square of ours."""
    encoded = generator.encode(context)

    def velocity(state: Tensor, time: float | Tensor) -> Tensor:
        found: Tensor = generator.denoiser(state, time, encoded)
        return found

    own = generator.finish(context, integrate(ddim_step, velocity, noise, sampling_times(steps)))
    theirs = ddim_loop(steps).sample(generator, context, noise)
    return float((theirs - own).abs().max() / own.square().mean().sqrt())


def _loop(steps: int, angles: np.ndarray, **options: Any) -> Loop:
    scheduler: Any = DDIMScheduler(  # type: ignore[no-untyped-call]
        num_train_timesteps=LEVELS,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        **options,
    )
    scheduler.set_timesteps(steps)
    return Loop(scheduler, tuple(angles.tolist()))
