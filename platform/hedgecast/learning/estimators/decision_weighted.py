"""Decision-weighted noise matching: fit best where the cost is steepest; no solver in the loop.

    L = E_x u(x) |F(x_t, t | x) - (cos t z - sin t e)|^2 / D                                     (1)
    u_i = (1 + lambda g_i / mean g) / (1 + lambda),     g_i = |df(y(e_i), z_i) / de|^2           (2)

z_i is the decision that the pretrained model's scenarios induce on day i, found once before the joint
phase; y(e) makes a day of its whitened residual, so the slope is measured where the error of (1) is. Why
the square: by transport of p_theta into the truth along the flow, the error that a decision sees is at most
E |df/de| |velocity error|, and E |df/de|^2 |velocity error|^2 bounds its square.

Not an estimate of the task gradient and blind to its sign: (1) has the minimizer of plain noise matching
where the network can represent it, so it moves what the network gets wrong, not what is right.

Source: Xie et al. (2026), endpoint-weighted objective, https://arxiv.org/abs/2606.16790.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.core.errors import ConfigError, NotConvergedError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.estimators.seam import Estimate, Scene
from hedgecast.learning.objective import Noising, TaskLoss, noise_matching_by_day
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.solution import Verdict

# Days decided together: 32 x 200 scenarios of a day of 24 steps keep under 1 GiB in the solve.
_CHUNK = 32


@dataclasses.dataclass(frozen=True, slots=True)
class DecisionWeighted:
    """Equation (1)."""

    config: LearningConfig

    def __call__(self, model: Generator, scene: Scene, task: TaskLoss) -> Estimate:
        """The estimate at the model's current weights.

        Raises
        ------
        ConfigError
            The days have no weights: `decision_weights` makes them, once.
        """
        del task
        if scene.weight is None:
            raise ConfigError(
                "estimator 'decision-weighted' needs the weights of the days: put `JointPhase.day_weights` "
                "into `Batch.weight`",
                key="learning.estimator",
            )
        noising = Noising.drawn(scene.draws, model.dim, self.config)
        errors = noise_matching_by_day(model, scene.context, scene.whitened, noising)
        counted = torch.ones_like(scene.weight, dtype=torch.bool)
        return Estimate(loss=(scene.weight.to(errors) * errors).mean(), counted=counted, cost=None)


def decision_weights(
    model: Generator,
    program: TwoStageProgram,
    context: Float[Tensor, "B C"],
    whitened: Float[Tensor, "B D"],
    *,
    strength: float,
    scenarios: int,
    generator: torch.Generator,
) -> Float[Tensor, " B"]:
    """Equation (2) for all days of training, mean 1.

    Parameters
    ----------
    model : Generator
        The pretrained one, whose scenarios decide.
    program : TwoStageProgram
        Over all slots of a day.
    context, whitened : Tensor
        All training days.
    strength : float
        lambda; 0: equal weights.
    scenarios : int
        Of each day.
    generator : torch.Generator
        Source of the scenarios.

    Raises
    ------
    NotConvergedError
        More than half of the decisions were not found. A day without one has weight 1.
    """
    slopes = torch.cat(
        [
            _steepness(model, program, context[begin : begin + _CHUNK], whitened[begin : begin + _CHUNK],
                       scenarios, generator)
            for begin in range(0, len(context), _CHUNK)
        ]
    )  # fmt: skip
    known = torch.isfinite(slopes)
    if int(known.sum()) * 2 < len(slopes):
        raise NotConvergedError(
            f"decisions of {int((~known).sum())} of {len(slopes)} training days were not found: check the "
            "program on the pretrained model's scenarios",
            days=len(slopes),
        )
    mean = slopes[known].mean()
    # A cost that is flat everywhere weighs all days alike.
    relative = torch.where(known, slopes, mean) / torch.where(mean > 0, mean, torch.ones_like(mean))
    relative = torch.where(mean > 0, relative, torch.ones_like(relative))
    weights: Tensor = (1.0 + strength * relative) / (1.0 + strength)
    return weights.to(whitened)


def _steepness(
    model: Generator,
    program: TwoStageProgram,
    context: Tensor,
    whitened: Tensor,
    scenarios: int,
    generator: torch.Generator,
) -> Tensor:
    """(B,) squared slope of the cost in the whitened residual, NaN where nothing was decided."""
    with torch.no_grad():
        paths = model.draw(context, scenarios, generator)
        found = program.solve(paths.flatten(2).double())
    solved = found.verdicts == Verdict.OPTIMAL
    out = torch.full(solved.shape, torch.nan, dtype=torch.float64, device=context.device)
    if not bool(solved.any()):
        return out
    residual = whitened[solved].unsqueeze(1).clone().requires_grad_()
    came = model.finish(context[solved], residual).flatten(2).double()
    cost = program.value(found.flat[solved], came)
    (slope,) = torch.autograd.grad(cost.sum(), residual)
    out[solved] = slope.double().square().sum(dim=(1, 2))
    return out
