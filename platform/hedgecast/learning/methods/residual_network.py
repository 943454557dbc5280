"""A network on top of the closed form: mean, size and covariance of a day, and what a network adds.

    e = m(x) + exp(s(x)) z,    z ~ N(0, I)                                              (1)
    y = mean(x) + size(x) L e                                                           (2)

(2) is the `Whitening` with normal marginals: a ridge mean, a ridge on the log size, one covariance L L'. The
network (m, s) starts at zero, where (1) and (2) are a linear heteroscedastic Gaussian; what it learns
moves the mean and, through L, the whole covariance with the context.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.whitening import Whitening
from hedgecast.learning.part import Part

# |s| stays below: a day twenty times as wide as its size is not a forecast.
_LARGEST_LOG_SCALE = 3.0


class ResidualNetwork(nn.Module):
    """Equations (1) and (2).

    Parameters
    ----------
    config : Generator.Config
        The diffusion model's: the same hidden width, the same clipping of contexts.
    num_features, num_steps, num_series : int
        Entries of a context, slots and series of a day.
    """

    def __init__(
        self, config: Generator.Config, *, num_features: int, num_steps: int, num_series: int
    ) -> None:
        super().__init__()
        self.num_steps, self.num_series = num_steps, num_series
        dim = num_steps * num_series
        self.limit = config.context_limit
        self.whitening = Whitening(num_features, dim)
        hidden = config.denoiser.hidden
        self.body = nn.Sequential(
            nn.Linear(num_features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.exit = nn.Linear(hidden, 2 * dim)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights anew; the output becomes zero."""
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                bound = math.sqrt(3.0 / layer.in_features)
                weight = torch.empty(layer.weight.shape, dtype=torch.float64)
                weight.uniform_(-bound, bound, generator=generator)
                with torch.no_grad():
                    layer.weight.copy_(weight)
                    layer.bias.zero_()
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def law(self, context: Float[Tensor, "B C"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """M and s of equation (1) for raw contexts."""
        standardized = self.whitening.standardized(context.to(self.exit.weight.dtype))
        clipped = torch.clamp(standardized, -self.limit, self.limit)
        shift, free = self.exit(self.body(clipped)).chunk(2, dim=1)
        return shift, _LARGEST_LOG_SCALE * torch.tanh(free / _LARGEST_LOG_SCALE)

    def paths(self, context: Float[Tensor, "B C"], noise: Float[Tensor, "B S D"]) -> Float[Tensor, "B S T F"]:
        """Days in units; zero noise gives the center m alone."""
        shift, log_scale = self.law(context)
        whitened = shift.unsqueeze(1) + log_scale.exp().unsqueeze(1) * noise.to(shift.dtype)
        days = self.whitening.unwhiten(whitened, self.whitening.standardized(context.to(shift.dtype)))
        return days.reshape(*days.shape[:2], self.num_steps, self.num_series)


@dataclasses.dataclass(frozen=True, slots=True)
class Lessons:
    """Training and validation days in the coordinates of a fitted network."""

    context: Float[Tensor, "B C"]
    whitened: Float[Tensor, "B D"]
    """Out-of-fold e of equation (2)."""
    realized: Float[Tensor, "B T F"]
    """The day as the fitted mean and size make it from ``whitened``: as far from them as on new days."""
    validation: Part
    validation_whitened: Float[Tensor, "V D"]


def fitted_network(
    config: Generator.Config, train: Part, validation: Part, generator: torch.Generator
) -> tuple[ResidualNetwork, Lessons]:
    """An untrained network with statistics of the training days, and what it learns from."""
    num_steps, num_series = train.targets.shape[1:]
    network = ResidualNetwork(
        config, num_features=train.context.shape[1], num_steps=num_steps, num_series=num_series
    )
    normal = dataclasses.replace(config.whitening, marginals="normal")
    report = network.whitening.fit(train.context, train.targets.flatten(1), normal, train.spread())
    network.initialize(generator)
    whitened = report.whitened.float()
    whitening = network.whitening
    with torch.no_grad():
        days = whitening.unwhiten(whitened.unsqueeze(1), whitening.standardized(train.context.float()))
        new = whitening.whiten(validation.targets.flatten(1).float(), validation.context.float())
    realized = days[:, 0].reshape(train.targets.shape)
    return network, Lessons(train.context, whitened, realized, validation, new)
