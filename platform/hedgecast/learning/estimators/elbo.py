"""A surrogate of a scenario's log-likelihood from noise-matching errors.

    log p(y | x) ~ const - int omega(l) E_z |F(x_t, t | x) - (cos t z - sin t e)|^2 dl           (1)

with e the whitened y, x_t = cos t e + sin t z, and l = log tan t the log noise level. Two weightings:

    likelihood   omega = cos^2 t on a range of l: the evidence lower bound. Its gradient is the exact
                 score where F is the flow of the model's own scenarios, as for a Gaussian.      (2)
    simple       omega = the density of l in noise matching, over D: the loss that was pretrained
                 on, as published; a score up to a factor that depends on the direction.         (3)

(2) is Kingma et al.'s 1/2 int |z - z_hat|^2 d(log SNR) with z - z_hat = cos t (target - F) and
log SNR = -2 l. The integral over l is an average over K noise levels from a density q, each error weighted
by omega / q; levels and noise are shared by all scenarios of a day, so that what they have in common
cancels in differences between scenarios. With ``importance`` q is, in `_BINS` bins of the base density,

    q ~ rms_s (A_s omega |error_s|),  mixed with a quarter of the base density                   (4)

which bounds the norm of a term's gradient up to the network's own slopes; A_s is the scenario's advantage
and the errors are those of a pilot draw. Weights omega / q keep the mean exactly; the mixture bounds them
by 4 omega / base.

Source: Kingma et al. (2021), eqs. 14 and 18, https://arxiv.org/abs/2107.00630; Ho et al. (2020), eq. 14
(simple), https://arxiv.org/abs/2006.11239; Katharopoulos and Fleuret (2018), eq. 20 (last-layer bound),
https://arxiv.org/abs/1803.00942.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.core import config as core_config
from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.schedule import noised, velocity_target
from hedgecast.learning.draws import Draws

_BINS = 16
_BASE_SHARE = 0.25
# Log noise levels of the likelihood weighting: at -4 the weight of a level's gradient, sin^2 t, is 3e-4 of
# its largest, and at 4 omega itself is.
_RANGE = (-4.0, 4.0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ElboConfig(core_config.Config):
    """How log-likelihoods are replaced by noise-matching errors."""

    weighting: Literal["likelihood", "simple"] = "likelihood"
    """Of noise levels: the evidence lower bound, or that of noise matching."""
    noise_levels: int = 4
    """Noise levels of each day in one estimate, shared by its scenarios."""
    importance: bool = False
    """Draw more noise levels where errors are large, with weights that keep the mean."""

    def __post_init__(self) -> None:
        if self.noise_levels < 1:
            raise ConfigError(f"noise_levels = {self.noise_levels}: must be at least 1", key="noise_levels")


@dataclasses.dataclass(frozen=True, slots=True)
class Levels:
    """Noise levels, their noise and their weights omega / q, for some days."""

    times: Float[Tensor, "B K"]
    noise: Float[Tensor, "B K D"]
    weights: Float[Tensor, "B K"]


class Elbo:
    """Equation (1) without its constant.

    Parameters
    ----------
    config : ElboConfig
    log_mean, log_std : float
        Of the noise levels in noise matching.
    """

    def __init__(self, config: ElboConfig, *, log_mean: float, log_std: float) -> None:
        self.config, self.log_mean, self.log_std = config, log_mean, log_std

    def levels(
        self,
        model: Generator,
        context: Float[Tensor, "B C"],
        whitened: Float[Tensor, "B S D"],
        advantages: Float[Tensor, "B S"],
        draws: Draws,
    ) -> Levels:
        """Levels for the scenarios of some days; their mean of `terms` is (1) whatever the choice of q."""
        count, dim = self.config.noise_levels, whitened.shape[2]
        shares = torch.full((_BINS,), 1.0 / _BINS, dtype=torch.float64, device=whitened.device)
        if self.config.importance:
            shares = self._shares(model, context, whitened, advantages, draws)
        # One stratum a level: quantiles of the choice of bin, then a place within it.
        strata = torch.arange(count, dtype=torch.float64, device=whitened.device)
        chosen = (strata + draws.uniform(count)) / count
        edges = torch.cumsum(shares, dim=0)
        bins = torch.searchsorted(edges, chosen).clamp(max=_BINS - 1)
        quantiles = (bins + draws.uniform(count)) / _BINS
        times, weights = self._placed(quantiles, dim)
        weights = weights / (_BINS * shares[bins])
        return Levels(times.to(whitened), draws.normal(count, dim), weights.to(whitened))

    def __call__(
        self,
        model: Generator,
        context: Float[Tensor, "B C"],
        whitened: Float[Tensor, "B S D"],
        levels: Levels,
    ) -> Float[Tensor, "B S"]:
        """(1) of every scenario by its ``levels``, differentiable in the weights."""
        errors = _errors(model, context, whitened, levels)
        return -(levels.weights.unsqueeze(2) * errors).mean(dim=1)

    def _placed(self, quantiles: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Angles at quantiles of the base density, and omega over that density."""
        if self.config.weighting == "likelihood":
            low, high = _RANGE
            times = torch.atan(torch.exp(low + (high - low) * quantiles))
            return times, (high - low) * torch.cos(times).square()
        normals = torch.special.ndtri(quantiles.clamp(1e-9, 1.0 - 1e-9))
        times = torch.atan(torch.exp(self.log_mean + self.log_std * normals))
        return times, torch.full_like(times, 1.0 / dim)

    @torch.no_grad()
    def _shares(
        self, model: Generator, context: Tensor, whitened: Tensor, advantages: Tensor, draws: Draws
    ) -> Tensor:
        """(bins,) equation (4), from one pilot level a bin and day, over all workers."""
        dim = whitened.shape[2]
        quantiles = (torch.arange(_BINS, device=whitened.device) + draws.uniform(_BINS)) / _BINS
        times, weights = self._placed(quantiles, dim)
        pilot = Levels(times.to(whitened), draws.normal(_BINS, dim), weights.to(whitened))
        errors = _errors(model, context, whitened, pilot)
        size = (advantages.unsqueeze(1).square() * errors).sum(dim=2) * pilot.weights.square()
        (total,) = draws.sum([size.sum(dim=0).double()])
        norm = total.sqrt()
        if not bool(norm.sum() > 0):
            return torch.full_like(norm, 1.0 / _BINS)
        shares: Tensor = (1.0 - _BASE_SHARE) * norm / norm.sum() + _BASE_SHARE / _BINS
        return shares


def _errors(model: Generator, context: Tensor, whitened: Tensor, levels: Levels) -> Float[Tensor, "B K S"]:
    """Squared velocity errors, summed over entries, of every scenario at every level of its day."""
    days, count = levels.times.shape
    # One row a day and level: time and context then modulate a row, not a scenario.
    times = levels.times.reshape(days * count, 1)
    noise = levels.noise.reshape(days * count, 1, -1)
    clean = whitened.repeat_interleave(count, dim=0)
    encoded = model.encode(context).repeat_interleave(count, dim=0)
    predicted = model.denoiser(noised(clean, noise, times), times, encoded=encoded)
    errors = (predicted - velocity_target(clean, noise, times)).square().sum(dim=2)
    shaped: Tensor = errors.reshape(days, count, -1)
    return shaped
