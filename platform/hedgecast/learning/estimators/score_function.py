"""Score function: scenarios are weighted, never differentiated.

Let w(y) be the slope of the day's cost in the probability of a scenario at y (`TaskLoss.influence`). Then

    dL/dtheta = E_{y ~ p_theta} [ w(y) d log p_theta(y | x) / dtheta ]
              ~ 1/S sum_s A_s d ELBO_theta(y_s | x) / dtheta                                     (1)
    A_s = w_s - 1/(S-1) sum_{r != s} w_r = S/(S-1) (w_s - mean w)                                (2)

Mind the sign: (1) is descended, so scenarios whose probability raises the cost (w_s > 0) become less
likely. (2) is the leave-one-out baseline: E d log p = 0, so it changes no mean but that of the order 1/S
with which w_s, taken at the sample's own decision, depends on the other scenarios; for a quadratic cost
it removes exactly that. What is left is a bias of order 1/S on the spread of scenarios, and that of the
ELBO (`hedgecast.learning.estimators.elbo`).

The same scenarios can serve several steps. With r_s = exp(ELBO_theta(y_s) - ELBO_old(y_s)), on the same
noise levels and noise, the loss is

    1/S sum_s max( A_s r_s, A_s clip(r_s, 1 - c, 1 + c) )                                        (3)

whose gradient at theta = old is (1), and whose terms stop pulling once a ratio has left the interval in the
direction that lowers the cost.

Source: Zhao et al. (2025), section 4.2, https://arxiv.org/abs/2510.11590; Kool et al. (2019), eq. 4
(leave-one-out baseline), https://openreview.net/forum?id=r1lgTGL5DE; McAllister et al. (2025), eqs. 10-12
(ratios of noise-matching losses), https://arxiv.org/abs/2507.21053; Schulman et al. (2017), eq. 7
(clipping), https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.estimators.elbo import Elbo
from hedgecast.learning.estimators.seam import Estimate, Scene
from hedgecast.learning.objective import TaskLoss


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFunction:
    """Equation (3); in the first step on its scenarios, equation (1)."""

    scenarios: int
    """Of each day; at least 2, or there is no baseline."""
    elbo: Elbo
    clip_ratio: float
    """c of equation (3)."""

    def __call__(self, model: Generator, scene: Scene, task: TaskLoss) -> Estimate:
        """The estimate at the model's current weights; ``again`` is (3) at later ones."""
        noise = scene.draws.normal(self.scenarios, model.dim)
        with torch.no_grad():
            whitened = model.sample_whitened(scene.context, noise)
            paths = model.finish(scene.context, whitened)
        cost, solved, weights = task.influence(paths, scene.realized)
        advantages = leave_one_out(weights)
        levels = self.elbo.levels(model, scene.context, whitened, advantages, scene.draws)

        def log_likelihoods() -> Tensor:
            return self.elbo(model, scene.context, whitened, levels)

        now = log_likelihoods()
        old = now.detach()

        def loss(current: Tensor) -> Tensor:
            terms = clipped(advantages, torch.exp(current - old), self.clip_ratio)
            return terms.mean(dim=1).sum() / max(int(solved.sum()), 1)

        return Estimate(
            loss=loss(now), counted=solved, cost=float(cost), again=lambda: loss(log_likelihoods())
        )


def leave_one_out(weights: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Equation (2): each weight less the mean of the others."""
    count = weights.shape[1]
    return (weights - weights.mean(dim=1, keepdim=True)) * (count / (count - 1))


def clipped(
    advantages: Float[Tensor, "B S"], ratios: Float[Tensor, "B S"], clip_ratio: float
) -> Float[Tensor, "B S"]:
    """The terms of equation (3); a cost, so the larger of the two is the cautious one."""
    bounded = ratios.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    return torch.maximum(advantages * ratios, advantages * bounded)
