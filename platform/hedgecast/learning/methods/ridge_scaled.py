"""Ridge with residual days scaled by how large errors have been lately.

    u_d^2 = mean over entries of (r_d / rms of r in that entry)^2                        (1)
    s_d^2 = (k + sum_j 2^(-a_dj / h) u_j^2) / (k + sum_j 2^(-a_dj / h))                  (2)
    y     = mean(x_d) + s_d r_i / s_i,    i a residual day of the season                 (3)

j runs over the days whose outcome was known at the issue time of d, a_dj >= 0 their age in days; with k days
of prior weight an unknown past gives s_d = 1. Half-life h and prior k have the least
log s_d^2 + u_d^2 / s_d^2 over the training days, with their out-of-fold residuals.

Source: J.P. Morgan/Reuters (1996), RiskMetrics technical document, section 5.2 (exponentially weighted
volatility); Barone-Adesi, Giannopoulos and Vosper (1999), filtered historical simulation,
https://doi.org/10.1002/(SICI)1096-9934(199908)19:5<583::AID-FUT5>3.0.CO;2-S.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgecast.diffusion.ridge import RidgeFit
from hedgecast.learning.methods.method import scenario_set
from hedgecast.learning.methods.ridge import RidgeResidual, draw_residuals
from hedgecast.learning.part import Part
from hedgecast.scenarios.scenario_set import ScenarioSet

HALF_LIVES = (3.0, 7.0, 14.0, 30.0, 60.0)
"""Candidates for h, days."""
PRIORS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Candidates for k, days."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecentSize:
    """Equation (2)."""

    half_life: float
    prior: float

    def __call__(
        self,
        at: NDArray[np.datetime64],
        days: NDArray[np.datetime64],
        squares: NDArray[np.float64],
        days_to_outcome: int,
    ) -> NDArray[np.float64]:
        """(at,) sizes on the days ``at`` from u^2 of ``days``, each known ``days_to_outcome`` later."""
        age = at.astype(np.int64)[:, None] - days.astype(np.int64) - days_to_outcome
        weight = np.where(age >= 0, np.exp2(-np.maximum(age, 0) / self.half_life), 0.0)
        return np.asarray(np.sqrt((self.prior + weight @ squares) / (self.prior + weight.sum(axis=1))))


@dataclasses.dataclass(frozen=True, slots=True)
class ScaledRidgeResidual:
    """Equation (3)."""

    mean: RidgeFit
    scaled: Tensor
    """(days, T*F) r_i / s_i of the training days."""
    days: NDArray[np.datetime64]
    """(days,) their dates."""
    squares: NDArray[np.float64]
    """(days,) their u^2."""
    entry_size: Tensor
    """(T*F,) root mean square residual of each entry."""
    size: RecentSize
    name: str = "ridge-residual-scaled"

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day; the same residual days as without scaling."""
        means = self.mean.linear(part.context).unsqueeze(1)
        drawn = draw_residuals(self.scaled, self.days, part, count, seed)
        sizes = torch.from_numpy(self.sizes(part))
        return scenario_set(means + sizes[:, None, None] * drawn, part, self.name, seed)

    def sizes(self, part: Part) -> NDArray[np.float64]:
        """(B,) s_d: training days out-of-fold, later ones of the part's record by the fitted mean."""
        record = part if part.record is None else part.record
        known = np.isfinite(record.targets.numpy()).all(axis=(1, 2)) & ~np.isin(record.days, self.days)
        new = record.select(np.flatnonzero(known))
        errors = new.targets.flatten(1) - self.mean.linear(new.context)
        days = np.concatenate([self.days, new.days])
        squares = np.concatenate([self.squares, _squares(errors, self.entry_size)])
        return self.size(part.days, days, squares, part.days_to_outcome)


def fit_scaled(train: Part, plain: RidgeResidual) -> ScaledRidgeResidual:
    """The method with the likeliest half-life and prior, on the ridge and the residuals of ``plain``."""
    entry_size = plain.residuals.square().mean(dim=0).sqrt()
    entry_size = torch.where(entry_size > 0, entry_size, torch.ones_like(entry_size))
    squares = _squares(plain.residuals, entry_size)
    lag = train.days_to_outcome

    def loss(size: RecentSize) -> float:
        variance = size(train.days, train.days, squares, lag) ** 2
        return float((np.log(variance) + squares / variance).mean())

    size = min((RecentSize(*pair) for pair in itertools.product(HALF_LIVES, PRIORS)), key=loss)
    scale = torch.from_numpy(size(train.days, train.days, squares, lag)).unsqueeze(1)
    return ScaledRidgeResidual(plain.mean, plain.residuals / scale, train.days, squares, entry_size, size)


def _squares(residuals: Tensor, entry_size: Tensor) -> NDArray[np.float64]:
    """Equation (1)."""
    return np.asarray((residuals / entry_size).square().mean(dim=1).numpy())
