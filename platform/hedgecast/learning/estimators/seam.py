"""What an estimator is given, and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from jaxtyping import Bool, Float
from torch import Tensor

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.draws import Draws
from hedgecast.learning.objective import TaskLoss


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The own days of a training step, and where random numbers come from."""

    context: Float[Tensor, "B C"]
    """Raw features."""
    whitened: Float[Tensor, "B D"]
    """What the denoiser learns."""
    realized: Float[Tensor, "B T F"]
    """The day that came, in units."""
    weight: Float[Tensor, " B"] | None
    """Decision weight of each day; None where it was not computed."""
    draws: Draws


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """An estimate of the task gradient."""

    loss: Float[Tensor, ""]
    """Its gradient on the denoiser's parameters is the estimate: a mean over the days in ``counted``."""
    counted: Bool[Tensor, " B"]
    """Days that the estimate rests on; the others' solve failed."""
    cost: float | None
    """Mean cost over those days; None where nothing was decided."""
    again: Callable[[], Float[Tensor, ""]] | None = None
    """The loss at the model's weights of the moment on the same scenarios; None where it needs new ones."""


class GradientEstimator(Protocol):
    """Anything that turns the scenarios of some days into a gradient on the denoiser."""

    def __call__(self, model: Generator, scene: Scene, task: TaskLoss) -> Estimate:
        """The estimate at the model's current weights."""
        ...
