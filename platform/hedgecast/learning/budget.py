"""How much the task may change the scenarios: a budget of realism, or a fixed share.

Given enough weight, the task teaches the model scenarios that trick the solver instead of ones that come
true. So by default regret is minimized subject to realism:

    min L_task   s.t.   L_noise / L_noise(pretrained) <= 1 + m_1,   ES / ES(pretrained) <= 1 + m_2   (1)

with ES the energy score of scenarios (`energy_score`). Both ratios are taken on the same days, noise levels
and noise, so that what a batch has by chance cancels. Excess is counted in margins,

    c_i = (ratio_i - 1) / m_i - 1        -1: as the pretrained model, 0: at the bound                 (2)

and averaged over steps with decay `Budget.Config.decay`. Training days flatter a model that has learned
them: once validation days have been scored, what c_i is higher there is added to it. All gradients are
scaled to the norm of noise matching's, which multiplies each multiplier of (1) by a ratio of norms and moves
none of its solutions:

    g = (g_task + sum_i u_i g_i) / (1 + sum_i u_i),     |g_task| = |g_i| = |g_noise|                  (3)

so the task's share 1 / (1 + sum u) is found instead of given. Rules for u_i:

    lagrangian   u_i = max(0, l_i + p c_i),  l_i <- max(0, l_i + r c_i) after each step               (4)
    projection   u_i = max(0, p c_i) + max(0, -cos(g_task, g_i)) min(1, max(0, 1 + 2 c_i))            (5)

(4) is the augmented Lagrangian of (1) with penalty p and dual rate r; (5) takes out of the task gradient
what would break a constraint, more and more of it from half the margin to the bound, and pulls back from
beyond. ``weighted`` is the plain sum with a fixed share s,

    g = (1 - s) g_noise + s g_task |g_noise| / |g_task|                                               (6)

The norms in (3) and (6) are averages over steps, `NormAverages`. With those of each step alone (decay 0) a
task gradient counts by its direction only, and training stops where the mean *direction* is zero, not where
the mean gradient is: where a few days make most of the cost's slope, the steps that have them count for too
little. A step of more days is nearer to the mean gradient with any decay.

Source: Hestenes (1969), https://doi.org/10.1007/BF00927673, and Powell (1969) (augmented Lagrangian);
Nocedal and Wright (2006), eqs. 17.61-17.65 (inequalities); Yu et al. (2020), algorithm 1 (projection),
https://arxiv.org/abs/2001.06782; Zhao et al. (2025), section 4 (6), https://arxiv.org/abs/2510.11590.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.core import config as core_config
from hedgecast.core.errors import ConfigError

Gradient = list[Tensor]
"""Parameter by parameter."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Realism:
    """How a model's scenarios stand to the pretrained model's, on the same days and noise."""

    noise_ratio: float
    """Noise-matching loss over the pretrained model's."""
    score_ratio: float
    """Energy score over the pretrained model's."""
    diversity: float
    """Mean distance between two scenarios of a day over the pretrained model's: 0 where all are one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """How a joint step was balanced."""

    noise_norm: float
    """Of the noise-matching gradient."""
    task_norm: float
    """Of the task gradient."""
    cosine: float
    """Of the angle between them; zero where one vanishes."""
    task_share: float
    """Of the task in equation (3) or (6)."""
    noise_multiplier: float
    """u_1 of equation (3); in (6), (1 - s) / s."""
    score_multiplier: float
    """u_2; zero in (6)."""
    realism: Realism

    @classmethod
    def mean(cls, balances: Sequence[Balance]) -> Balance:
        """Field by field, over at least one step."""

        def means(records: Sequence[Any]) -> dict[str, float]:
            names = [field.name for field in dataclasses.fields(records[0]) if field.name != "realism"]
            return {name: sum(getattr(r, name) for r in records) / len(records) for name in names}

        realism = Realism(**means([balance.realism for balance in balances]))
        return cls(realism=realism, **means(balances))


class BalanceRule(Protocol):
    """What weighs the gradients of a joint step."""

    def shares(self, realism: Realism, cosine: float, score_cosine: Callable[[], float]) -> Shares:
        """Shares of the task, noise-matching and score gradients, each scaled to one norm; they sum to 1.

        Parameters
        ----------
        realism : Realism
            Of the step, over all workers.
        cosine : float
            Between the task and noise-matching gradients.
        score_cosine : callable
            That between the task and score gradients; costs a backward pass.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Shares:
    """Weights in the joint gradient."""

    task: float
    noise: float
    score: float


class Weighted(nn.Module):
    """Equation (6).

    Parameters
    ----------
    task_share : float
        s.
    """

    def __init__(self, task_share: float) -> None:
        super().__init__()
        self.task_share = task_share

    def shares(self, realism: Realism, cosine: float, score_cosine: Callable[[], float]) -> Shares:
        """A share s for the task and 1 - s for noise matching, whatever the model does."""
        del realism, cosine, score_cosine
        return Shares(self.task_share, 1.0 - self.task_share, 0.0)


class Budget(nn.Module):
    """Equations (1) to (5); its state is in the state_dict.

    Parameters
    ----------
    config : Budget.Config
    noise_margin : float
        m_1, positive.
    """

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config(core_config.Config):
        """How realism is kept."""

        rule: Literal["lagrangian", "projection"] = "lagrangian"
        """How the multipliers are found: equation (4) or (5)."""
        score_margin: float = 0.02
        """Largest energy score over the pretrained model's, less 1."""
        score_scenarios: int = 32
        """Scenarios of each day in one energy score."""
        penalty: float = 1.0
        """p: multiplier for each margin of excess."""
        dual_rate: float = 0.1
        """r: growth of the multiplier in a step, for each margin of excess."""
        decay: float = 0.9
        """Of the average of the excess over steps."""

        def __post_init__(self) -> None:
            for name in ("score_margin", "penalty", "dual_rate"):
                if not getattr(self, name) > 0:
                    raise ConfigError(f"budget.{name} = {getattr(self, name)}: must be positive", key=name)
            if self.score_scenarios < 2:
                raise ConfigError(
                    f"budget.score_scenarios = {self.score_scenarios}: an energy score needs at least 2",
                    key="score_scenarios",
                )
            if not 0.0 <= self.decay < 1.0:
                raise ConfigError(f"budget.decay = {self.decay}: must lie in [0, 1)", key="decay")

    multipliers: Tensor
    excess: Tensor
    gap: Tensor
    steps: Tensor

    def __init__(self, config: Config, *, noise_margin: float) -> None:
        super().__init__()
        self.config = config
        self.margins = (noise_margin, config.score_margin)
        self.register_buffer("multipliers", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("excess", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("gap", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def shares(self, realism: Realism, cosine: float, score_cosine: Callable[[], float]) -> Shares:
        """Equation (3), after the step's excess has been taken in."""
        decay, self.steps = self.config.decay, self.steps + 1
        self.excess = decay * self.excess + (1.0 - decay) * self._excess_of(realism)
        excess = self._average() + self.gap
        if self.config.rule == "lagrangian":
            weights = (self.multipliers + self.config.penalty * excess).clamp(min=0.0)
            self.multipliers = (self.multipliers + self.config.dual_rate * excess).clamp(min=0.0)
        else:
            weights = (self.config.penalty * excess).clamp(min=0.0)
            for place, angle in enumerate((lambda: cosine, score_cosine)):
                nearness = min(1.0, 1.0 + 2.0 * float(excess[place]))
                if nearness > 0.0:
                    weights[place] += nearness * max(0.0, -angle())
        noise, score = weights.tolist()
        total = 1.0 + noise + score
        return Shares(1.0 / total, noise / total, score / total)

    def take_in(self, realism: Realism) -> None:
        """Correct the excess of later steps by what it is higher on validation days; after some steps."""
        if int(self.steps):
            self.gap = (self._excess_of(realism) - self._average()).clamp(min=0.0)

    def _excess_of(self, realism: Realism) -> Tensor:
        """Equation (2)."""
        ratios = torch.tensor([realism.noise_ratio, realism.score_ratio], dtype=torch.float64)
        excess: Tensor = (ratios - 1.0) / torch.tensor(self.margins, dtype=torch.float64) - 1.0
        return excess.to(self.excess)

    def _average(self) -> Tensor:
        # The average starts at zero, at the bound: divided by the weights' sum it starts where the model is.
        average: Tensor = self.excess / (1.0 - self.config.decay ** int(self.steps))
        return average


class NormAverages(nn.Module):
    """Mean norm of each gradient over the steps so far, later ones weighted more; in the state_dict.

    Parameters
    ----------
    decay : float
        Of a step's weight with every later one, from 0, each step's own norm, to below 1.
    """

    sums: Tensor
    weights: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        # With decay 0 there is nothing that the next step depends on.
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64), persistent=decay > 0)
        self.register_buffer("weights", torch.zeros(3, dtype=torch.float64), persistent=decay > 0)

    def take_in(self, place: int, size: float) -> float:
        """The average once this step's norm ``size`` of gradient ``place`` is in it."""
        self.sums[place] = self.decay * self.sums[place] + (1.0 - self.decay) * size
        self.weights[place] = self.decay * self.weights[place] + (1.0 - self.decay)
        return float(self.sums[place] / self.weights[place])


def combined(
    task: Gradient,
    noise: Gradient,
    score: Callable[[], Gradient],
    realism: Realism,
    rule: BalanceRule,
    norms: NormAverages,
) -> tuple[Gradient, Balance]:
    """The joint gradient of a step, and how it was balanced.

    Parameters
    ----------
    task, noise : list of Tensor
        Gradients over all workers.
    score : callable
        The energy score's gradient, computed where it is needed; called once at most.
    realism : Realism
    rule : BalanceRule
    norms : NormAverages
        Of the steps before; takes this one in.

    Notes
    -----
    A gradient of zero stays zero, and its share is left out of the sum.
    """
    known: list[Gradient] = []

    def score_gradient() -> Gradient:
        if not known:
            known.append(score())
        return known[0]

    noise_norm, task_norm = norm(noise), norm(task)
    cosine = cosine_of(task, noise)
    shares = rule.shares(realism, cosine, lambda: cosine_of(task, score_gradient()))
    joint = [shares.noise * part for part in noise]
    pairs = [(shares.task, task)]
    if shares.score > 0:
        pairs.append((shares.score, score_gradient()))
    scale = norms.take_in(0, noise_norm)
    for place, (share, gradient) in enumerate(pairs, start=1):
        size = norms.take_in(place, norm(gradient))
        if size > 0:
            factor = share * scale / size
            joint = [total + factor * part for total, part in zip(joint, gradient, strict=True)]
    return joint, Balance(
        noise_norm=noise_norm,
        task_norm=task_norm,
        cosine=cosine,
        task_share=shares.task,
        noise_multiplier=shares.noise / shares.task if shares.task > 0 else float("inf"),
        score_multiplier=shares.score / shares.task if shares.task > 0 else 0.0,
        realism=realism,
    )


def norm(gradient: Sequence[Tensor]) -> float:
    """Euclidean norm over all parameters."""
    return float(torch.stack([part.double().square().sum() for part in gradient]).sum().sqrt())


def cosine_of(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Cosine of the angle between two gradients; zero where one vanishes."""
    sizes = norm(first) * norm(second)
    product = sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))
    return product / sizes if sizes > 0 else 0.0


def energy_score(
    paths: Float[Tensor, "B S D"], realized: Float[Tensor, "B D"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Energy score of each day, and the mean distance between two of its scenarios; both differentiable.

        ES = 1/S sum_s |y_s - y|  -  1/2 1/(S(S-1)) sum_{s != r} |y_s - y_r|

    unbiased in the number of scenarios, and least in expectation for the truth alone.

    Parameters
    ----------
    paths : Tensor
        Scenarios, each entry in a unit of its own; S >= 2.
    realized : Tensor
        What came, in the same units.

    Notes
    -----
    Source: Gneiting and Raftery (2007), eq. 22, https://doi.org/10.1198/016214506000001437.
    """
    count = paths.shape[1]
    error = (paths - realized.unsqueeze(1)).norm(dim=2).mean(dim=1)
    # By differences, not products: equal scenarios are at distance zero, with slope zero.
    apart = torch.cdist(paths, paths, compute_mode="donot_use_mm_for_euclid_dist")
    spread = apart.sum(dim=(1, 2)) / (count * (count - 1))
    return error - 0.5 * spread, spread
