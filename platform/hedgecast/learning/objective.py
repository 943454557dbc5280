"""The two losses of joint training.

Noise matching (over days x, angles t, noise z):

    L_noise = E |F(x_t, t | x) - (cos t z - sin t e)|^2 / D                                      (1)

Task loss (the decision that the scenarios induce, priced on the day that came):

    L_task = E f(y, z*(x)),    z*(x) = argmin_z sum_s p_s f(y_s, z),    y_s = G(x, noise_s)      (2)

How the gradient of (2) on the weights is estimated is `hedgecast.learning.estimators`; how the two
gradients are weighed is `hedgecast.learning.budget`.

Source: Zhao et al. (2025), section 4, https://arxiv.org/abs/2510.11590.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.losses import noise_matching_errors
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.draws import Draws
from hedgecast.programs.layer import DecisionLayer
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.solution import Verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Noising:
    """Angles and noise of one noise-matching loss: drawn once, two models can be compared on them."""

    times: Float[Tensor, "B K"]
    noise: Float[Tensor, "B K D"]

    @classmethod
    def drawn(cls, draws: Draws, dim: int, config: LearningConfig) -> Noising:
        """Fresh angles and noise for the own days of a step."""
        count = config.samples_per_day
        times = draws.times(count, log_mean=config.noise_log_mean, log_std=config.noise_log_std)
        return cls(times, draws.normal(count, dim))


def noise_matching_by_day(
    model: Generator, context: Float[Tensor, "B C"], whitened: Float[Tensor, "B D"], noising: Noising
) -> Float[Tensor, " B"]:
    """Equation (1) of each day."""
    encoded = model.encode(context)
    errors = noise_matching_errors(
        lambda state, angles: model.denoiser(state, angles, encoded=encoded),
        whitened.unsqueeze(1).expand_as(noising.noise),
        noising.noise,
        noising.times,
    )
    return errors.mean(dim=1)


def noise_matching_loss(
    model: Generator,
    context: Float[Tensor, "B C"],
    whitened: Float[Tensor, "B D"],
    config: LearningConfig,
    generator: torch.Generator,
    rows: slice = slice(None),
) -> Float[Tensor, ""]:
    """Mean of equation (1) over ``rows`` of some days; angles and noise are drawn for all of them."""
    draws = Draws(generator, len(whitened), whitened, rows=rows)
    noising = Noising.drawn(draws, whitened.shape[1], config)
    return noise_matching_by_day(model, context[rows], whitened[rows], noising).mean()


class TaskLoss(nn.Module):
    """Equation (2): cost of the induced decisions on the days that came.

    Only members whose solve converged, and whose decision has a finite cost, count: the others are masked
    and told. The program works in float64 whatever the network's type.

    Parameters
    ----------
    program : TwoStageProgram
        Over all slots of a day.
    smoothing : float
        Barrier at which the program's gradients are taken, in units of cost.
    backend : str, optional
        What decides; the default is the first backend with gradients.
    """

    def __init__(self, program: TwoStageProgram, *, smoothing: float, backend: str | None = None) -> None:
        super().__init__()
        self.program = program
        self.smoothing = smoothing
        layer = program.layer(smoothing=smoothing, backend=backend)
        assert isinstance(layer, DecisionLayer)
        self.layer = layer

    def forward(
        self, paths: Float[Tensor, "B S T F"], realized: Float[Tensor, "B T F"]
    ) -> tuple[Float[Tensor, ""], Tensor]:
        """Mean cost over the days that were solved, and (B,) bool which they are.

        Where no day was solved the cost is zero and carries no gradient.
        """
        costs, solved = self._costs(paths.flatten(2).double(), realized, None)
        if not costs.numel():
            return paths.new_zeros(()), solved
        return costs.mean().to(paths.dtype), solved

    def influence(
        self, paths: Float[Tensor, "B S T F"], realized: Float[Tensor, "B T F"]
    ) -> tuple[Float[Tensor, ""], Tensor, Float[Tensor, "B S"]]:
        """Mean cost, which days were solved, and the slope of each day's cost in its probabilities.

            w_s = df(y, z*) / dp_s = -[df/dz, 0] J^-1 [grad_z f(y_s, z*); 0]                     (3)

        with J the Jacobian of the optimality conditions; all detached, zero on days that were not solved.

        Notes
        -----
        Source: Zhao et al. (2025), section 4.2; (3) carries the minus that their co-author's derivation
        drops.
        """
        values = paths.detach().flatten(2).double()
        probabilities = values.new_full(values.shape[:2], 1.0 / values.shape[1]).requires_grad_()
        with torch.enable_grad():
            costs, solved = self._costs(values, realized, probabilities)
            weights = torch.zeros_like(probabilities)
            if costs.numel():
                (weights,) = torch.autograd.grad(costs.sum(), probabilities)
        cost = costs.detach().mean() if costs.numel() else costs.new_zeros(())
        return cost.to(paths.dtype), solved, weights.to(paths.dtype)

    def _costs(self, values: Tensor, realized: Tensor, probabilities: Tensor | None) -> tuple[Tensor, Tensor]:
        """(solved days,) costs, and (B,) bool which they are."""
        decision, verdicts = self.layer.judged(values, probabilities)
        came = realized.flatten(1).unsqueeze(1).double()
        solved = (verdicts == Verdict.OPTIMAL) & torch.isfinite(decision).all(dim=1)
        if bool(solved.any()):
            # A day that no recourse can serve costs infinity, whose slope would be NaN.
            with torch.no_grad():
                priced = self.program.value(decision.detach()[solved], came[solved])
            solved = solved.index_put((solved,), torch.isfinite(priced).all(dim=1))
        if not bool(solved.any()):
            return values.new_zeros(0), solved
        return self.program.value(decision[solved], came[solved])[:, 0], solved
