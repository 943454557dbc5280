"""What a day looks like once its mean, its size, its marginals and its covariance are taken out.

    y = mean(x) + size(x) m(L e),      e of covariance I over the training days    (1)

* mean: a ridge (`ridge`), on all training days.
* size: exp of a ridge on the log of the day's root mean square residual: days of a windy week
  are all wider. Where the context says nothing about it the ridge is strong and the size nearly constant.
* m: skew and tails of each slot (`marginals`).
* L: Cholesky factor of the covariance of the normal scores, shrunk.

The diffusion model learns e given x. Mean and size of the training days are out-of-fold, so e is as
wide on them as on days never seen.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.core import config as core_config
from hedgecast.core.errors import ConfigError, DataError
from hedgecast.diffusion.marginals import Marginals, fit_marginals, normal_marginals
from hedgecast.diffusion.ridge import STRENGTHS, Linear, RidgeFit, fit_ridge


class Whitening(nn.Module):
    """Equation (1) as a module: every statistic is a buffer; differentiable in ``e``."""

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config(core_config.Config):
        """How the statistics are fitted."""

        num_blocks: int = 10
        """Held-out runs of days."""
        gap_days: int = 7
        """Days left out on both sides of a run."""
        conditional_size: bool = True
        """Let the size of residuals depend on the context."""
        marginals: Literal["skewed", "normal"] = "skewed"
        """`skewed`: each slot has its own skew and tails; `normal`: m is the identity."""

        def __post_init__(self) -> None:
            if self.num_blocks < 2 or self.gap_days < 0:
                raise ConfigError(
                    f"whitening with {self.num_blocks} blocks and a gap of {self.gap_days} days: "
                    "needs at least 2 and at least 0"
                )

    center: Tensor
    spread: Tensor
    mean_weight: Tensor
    mean_intercept: Tensor
    size_weight: Tensor
    size_intercept: Tensor
    size_range: Tensor
    location: Tensor
    scale: Tensor
    skew: Tensor
    tail: Tensor
    factor: Tensor

    def __init__(self, num_features: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(num_features))
        self.register_buffer("spread", torch.ones(num_features))
        self.register_buffer("mean_weight", torch.zeros(num_features, dim))
        self.register_buffer("mean_intercept", torch.zeros(dim))
        self.register_buffer("size_weight", torch.zeros(num_features, 1))
        self.register_buffer("size_intercept", torch.zeros(1))
        self.register_buffer("size_range", torch.zeros(2))
        self.register_buffer("location", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("skew", torch.zeros(dim))
        self.register_buffer("tail", torch.ones(dim))
        self.register_buffer("factor", torch.eye(dim))

    def standardized(self, context: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Contexts with training mean 0 and deviation 1."""
        return (context - self.center) / self.spread

    def mean(self, standardized: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        """The mean of a day, in units."""
        return self.mean_intercept + standardized @ self.mean_weight

    def size(self, standardized: Float[Tensor, "B C"]) -> Float[Tensor, "B 1"]:
        """The size of a day's residuals, within the range seen in training."""
        log_size = self.size_intercept + standardized @ self.size_weight
        return torch.exp(torch.clamp(log_size, self.size_range[0], self.size_range[1]))

    def unwhiten(
        self, whitened: Float[Tensor, "B S D"], standardized: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B S D"]:
        """Days in units, equation (1)."""
        residuals = self._marginals().residuals(whitened @ self.factor.T)
        return self.mean(standardized).unsqueeze(1) + self.size(standardized).unsqueeze(1) * residuals

    def whiten(self, targets: Float[Tensor, "B D"], context: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        """Whitened residuals, the e of equation (1), for days outside training."""
        standardized = self.standardized(context)
        residuals = (targets - self.mean(standardized)) / self.size(standardized)
        return _solve_factor(self.factor, self._marginals().scores(residuals))

    def _marginals(self) -> Marginals:
        return Marginals(self.location, self.scale, self.skew, self.tail)

    @torch.no_grad()
    def fit(
        self,
        context: Float[Tensor, "B C"],
        targets: Float[Tensor, "B D"],
        config: Config,
        spread: Float[Tensor, " C"] | None = None,
    ) -> WhiteningReport:
        """Set every statistic from training days in the order of time.

        Parameters
        ----------
        context, targets : Tensor
            Raw features, and days in units.
        config : Whitening.Config
            How.
        spread : Tensor, optional
            As in `fit_ridge`.

        Returns
        -------
        WhiteningReport
            With the whitened out-of-fold residuals, which are what a denoiser trains on.

        Raises
        ------
        DataError
            Too few days, values that are not finite, or a target without any variation.
        """
        mean = fit_ridge(context, targets, num_blocks=config.num_blocks, gap=config.gap_days, spread=spread)
        residuals = targets.double() - mean.held_out
        log_size = 0.5 * residuals.square().mean(dim=1, keepdim=True).log()
        if not bool(torch.isfinite(log_size).all()):
            raise DataError("a training day is predicted without any error: is the target constant?")
        size = _fit_size(context, log_size, config, spread)
        low, high = torch.quantile(log_size, torch.tensor([0.01, 0.99], dtype=log_size.dtype)).tolist()
        scaled = residuals / size.held_out.clamp(low, high).exp()
        marginals = fit_marginals(scaled) if config.marginals == "skewed" else normal_marginals(scaled)
        scores = marginals.scores(scaled)
        factor = torch.linalg.cholesky(shrunk_covariance(scores))
        self._store(mean.linear, size.linear, torch.tensor([low, high]), marginals, factor)
        return WhiteningReport(
            whitened=_solve_factor(factor, scores),
            strength=mean.strength,
            size_explained=1.0 - size.errors[size.strength],
        )

    def _store(
        self, mean: Linear, size: Linear, size_range: Tensor, marginals: Marginals, factor: Tensor
    ) -> None:
        values = {
            "center": mean.center,
            "spread": mean.spread,
            "mean_weight": mean.weight,
            "mean_intercept": mean.intercept,
            "size_weight": size.weight,
            "size_intercept": size.intercept,
            "size_range": size_range,
            "location": marginals.location,
            "scale": marginals.scale,
            "skew": marginals.skew,
            "tail": marginals.tail,
            "factor": factor,
        }
        for name, value in values.items():
            self.get_buffer(name).copy_(value)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WhiteningReport:
    """What the fit of a `Whitening` found."""

    whitened: Tensor
    """(B, D): e of the training days, out-of-fold."""
    strength: float
    """Of the mean's ridge."""
    size_explained: float
    """Share of the variance of log size that the context explains out-of-fold."""


def shrunk_covariance(rows: Float[Tensor, "B D"]) -> Float[Tensor, "D D"]:
    """Second moment of the rows, its correlations shrunk towards none, positive definite.

    Shrinking correlations instead of covariances keeps the answer independent of the units of each
    series. A column that is all zero has variance 1.

    Notes
    -----
    Source: Ledoit and Wolf (2004), lemmas 3.2 to 3.5, https://doi.org/10.1016/S0047-259X(03)00096-4.
    """
    count, dim = rows.shape
    deviation = rows.square().mean(dim=0).sqrt()
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    scaled = rows / deviation
    sample = scaled.T @ scaled / count
    identity = torch.eye(dim, dtype=rows.dtype, device=rows.device)
    level = sample.diagonal().mean()
    dispersion = (sample - level * identity).square().sum()
    error = (scaled.square().sum(dim=1).square().mean() - sample.square().sum()) / count
    share = torch.clamp(error / dispersion, 0.0, 1.0) if dim > 1 else torch.zeros_like(level)
    # 1e-6 of the variance on top: exact collinearity must not break the Cholesky factor.
    shrunk = (1.0 - share) * sample + (share * level + 1e-6) * identity
    return deviation.unsqueeze(1) * shrunk * deviation


def _fit_size(context: Tensor, log_size: Tensor, config: Whitening.Config, spread: Tensor | None) -> RidgeFit:
    # A ridge so strong that every prediction is the mean stands for a size that ignores the context.
    strengths = STRENGTHS if config.conditional_size else (1e12,)
    return fit_ridge(
        context,
        log_size,
        num_blocks=config.num_blocks,
        gap=config.gap_days,
        strengths=strengths,
        spread=spread,
    )


def _solve_factor(factor: Tensor, rows: Tensor) -> Tensor:
    """Rows times the inverse transposed factor."""
    solved: Tensor = torch.linalg.solve_triangular(factor, rows.to(factor.dtype).T, upper=False)
    return solved.T
