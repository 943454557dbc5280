"""Pathwise: the scenarios are functions of the weights, and so is the decision.

    y_s = G_theta(x, noise_s),   z* = argmin_z mean_s f(y_s, z)
    dL/dtheta = sum_s (df(y, z*)/dz) (dz*/dy_s) (dG_theta(x, noise_s)/dtheta)                    (1)

dz*/dy_s comes from the implicit function theorem in the program's layer, dG/dtheta from backpropagation
through the sampler. Through all steps (1) is unbiased for the cost of S scenarios; through the last K it
drops what the earlier steps, taken as a constant, would have changed: a bias towards the noise-free end
of the sampler, at the memory of K steps. Checkpointing recomputes each step in the backward pass, so that
all steps fit in the memory of one.

With more scenarios drawn than decided on, z* is that of the equally likely ones that stand for them
(`hedgecast.scenarios.quantile_set`), and (1) goes through these, means of some drawn ones each. How near that
decision is to the one on all drawn hangs on the program and on their number: see `docs/scenarios.md`.

Source: Zhao et al. (2025), section 4.1, https://arxiv.org/abs/2510.11590; Clark et al. (2024),
algorithm 1 (last K steps), https://arxiv.org/abs/2309.17400; Chen et al. (2016), section 3
(checkpointing), https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

import dataclasses

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.estimators.seam import Estimate, Scene
from hedgecast.learning.objective import TaskLoss
from hedgecast.scenarios.quantile_set import quantile_sets


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pathwise:
    """Equation (1)."""

    scenarios: int
    """Of each day, decided on."""
    drawn: int
    """Of each day: as many, or a multiple of them."""
    grad_steps: int
    """Last sampler steps that gradients go through; as many as the sampler has, or more: all."""
    checkpointed: bool
    """Recompute each step in the backward pass."""

    def __call__(self, model: Generator, scene: Scene, task: TaskLoss) -> Estimate:
        """The estimate at the model's current weights."""
        noise = scene.draws.normal(self.drawn, model.dim)
        paths = model.sample(scene.context, noise, grad_steps=self.grad_steps, checkpointed=self.checkpointed)
        if self.drawn > self.scenarios:
            paths = quantile_sets(paths, self.scenarios)
        cost, solved = task(paths, scene.realized)
        return Estimate(loss=cost, counted=solved, cost=float(cost.detach()))
