"""The two losses of joint training, and how their gradients are weighed.

Noise matching (over days x, angles t, noise z):

    L_noise = E |F(x_t, t | x) - (cos t z - sin t e)|^2 / D                                      (1)

Task loss (the decision that the scenarios induce, priced on the day that came):

    L_task = E f(y, z*(x)),    z*(x) = argmin_z mean_s f(y_s, z),    y_s = G(x, noise_s)          (2)

Its pathwise gradient goes from the cost through z* (implicit function theorem, in the program's layer)
and through the last sampler steps into the weights. The joint gradient gives the task a share s of
the norm, whatever the scales of the two losses:

    g = (1 - s) g_noise + s g_task |g_noise| / |g_task|                                          (3)

Source: Zhao et al. (2025), section 4, https://arxiv.org/abs/2510.11590.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.losses import noise_matching_errors, weighted_mean
from hedgecast.diffusion.schedule import training_times
from hedgecast.learning.config import LearningConfig
from hedgecast.programs.program import TwoStageProgram


def noise_matching_loss(
    model: Generator,
    context: Float[Tensor, "B C"],
    whitened: Float[Tensor, "B D"],
    config: LearningConfig,
    generator: torch.Generator,
    rows: slice = slice(None),
) -> Float[Tensor, ""]:
    """Equation (1) for the whitened residuals of some days, with fresh angles and noise.

    Angles and noise are drawn for all days; the mean is over ``rows`` of them, one worker's share.
    """
    shape = (len(whitened), config.samples_per_day)
    times = training_times(
        shape, log_mean=config.noise_log_mean, log_std=config.noise_log_std, generator=generator
    )
    noise = torch.randn(*shape, whitened.shape[1], generator=generator, dtype=whitened.dtype)
    times, noise = times[rows].to(whitened.device), noise[rows].to(whitened.device)
    clean = whitened[rows].unsqueeze(1).expand_as(noise)
    encoded = model.encode(context[rows])
    errors = noise_matching_errors(
        lambda state, angles: model.denoiser(state, angles, encoded=encoded), clean, noise, times
    )
    return weighted_mean(errors, None)


class TaskLoss(nn.Module):
    """Equation (2): cost of the induced decisions on the days that came.

    Parameters
    ----------
    program : TwoStageProgram
        Over all slots of a day.
    smoothing : float
        Barrier at which the program's gradients are taken, in units of cost.
    """

    def __init__(self, program: TwoStageProgram, *, smoothing: float) -> None:
        super().__init__()
        self.program = program
        self.layer = program.layer(smoothing=smoothing)

    def forward(
        self, paths: Float[Tensor, "B S T F"], realized: Float[Tensor, "B T F"]
    ) -> tuple[Float[Tensor, ""], Tensor]:
        """Mean cost over the days that were solved, and (B,) bool which they are.

        The program works in float64 whatever the network's type. Where no day was solved the cost is zero
        and carries no gradient.
        """
        decision = self.layer(paths.flatten(2).double())
        solved = torch.isfinite(decision).all(dim=1)
        if not bool(solved.any()):
            return paths.new_zeros(()), solved
        costs = self.program.value(decision[solved], realized[solved].flatten(1).unsqueeze(1).double())
        return costs.mean().to(paths.dtype), solved


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """How the two gradients of a step stood to each other."""

    noise_norm: float
    task_norm: float
    cosine: float
    """Of the angle between them; zero where one vanishes."""


def balanced(noise: Sequence[Tensor], task: Sequence[Tensor], share: float) -> tuple[list[Tensor], Balance]:
    """Equation (3), parameter by parameter; a task gradient of zero leaves (1 - s) of the other."""
    noise_norm, task_norm = _norm(noise), _norm(task)
    product = sum(float((a * b).sum()) for a, b in zip(noise, task, strict=True))
    denominator = noise_norm * task_norm
    factor = share * noise_norm / task_norm if task_norm > 0 else 0.0
    joint = [(1.0 - share) * a + factor * b for a, b in zip(noise, task, strict=True)]
    cosine = product / denominator if denominator > 0 else 0.0
    return joint, Balance(noise_norm=noise_norm, task_norm=task_norm, cosine=cosine)


def _norm(gradients: Sequence[Tensor]) -> float:
    return float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())
