"""The network F(x, t | context): residual MLP blocks over all slots of a day.

A day has D = T*F entries, whitened, so there is no locality that a convolution could use: a plain
MLP is the fastest network of its accuracy on a CPU. The context enters by feature-wise scale and
shift in each block. Those are computed once per day by `Denoiser.encode` and broadcast over scenarios
and steps: for S scenarios and K steps the encoder sees B rows, not B*S*K.

The last layer starts at zero. F = 0 is the exact flow of a standard normal, so an untrained
denoiser samples the Gaussian that the whitening describes, and training starts from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.core import config as core_config
from hedgecast.core.errors import ConfigError


class Denoiser(nn.Module):
    """F(x, t | context) on whitened residuals."""

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config(core_config.Config):
        """Sizes of the network."""

        hidden: int = 128
        """Width of the blocks."""
        num_blocks: int = 3
        """Residual blocks."""
        encoding: int = 64
        """Width of the context encoding."""
        num_frequencies: int = 8
        """Sine and cosine pairs of the time embedding."""

        def __post_init__(self) -> None:
            for field in dataclasses.fields(self):
                if getattr(self, field.name) < 1:
                    raise ConfigError(
                        f"denoiser.{field.name} = {getattr(self, field.name)}: must be at least 1",
                        key=field.name,
                    )

    def __init__(self, config: Config, num_features: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.num_features = num_features
        self.dim = dim
        # None: that of the weights. Training may set another; see hedgecast.learning.precision.
        self.product_type: torch.dtype | None = None
        modulation = 2 * config.hidden * config.num_blocks
        self.encoder = nn.Sequential(
            nn.Linear(num_features, config.encoding),
            nn.SiLU(),
            nn.Linear(config.encoding, config.encoding),
            nn.SiLU(),
        )
        self.context_modulation = nn.Linear(config.encoding, modulation)
        self.time_modulation = nn.Sequential(
            nn.Linear(2 * config.num_frequencies, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, modulation),
        )
        self.entry = nn.Linear(dim, config.hidden)
        self.blocks = nn.ModuleList(_Block(config.hidden) for _ in range(config.num_blocks))
        self.exit = nn.Linear(config.hidden, dim)
        # Periods from 2 pi down: the flow varies slowly with the angle.
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.arange(1, config.num_frequencies + 1).float())

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights anew from ``generator``; the output becomes zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = math.sqrt(3.0 / module.in_features)
                weight = torch.empty(module.weight.shape, dtype=torch.float64)
                weight.uniform_(-bound, bound, generator=generator)
                with torch.no_grad():
                    module.weight.copy_(weight)
                    module.bias.zero_()
        nn.init.zeros_(self.exit.weight)
        # A quarter: at the start the context and the time modulate, they do not dominate.
        with torch.no_grad():
            self.context_modulation.weight.mul_(0.25)
            for block in self.blocks:
                assert isinstance(block, _Block)
                block.outer.weight.mul_(0.25)

    def encode(self, context: Float[Tensor, "B C"]) -> Float[Tensor, "B E"]:
        """Scales and shifts of all blocks for standardized contexts: once per day."""
        with self._products(context):
            result: Tensor = self.context_modulation(self.encoder(context))
        return result.to(context.dtype)

    def forward(
        self, state: Float[Tensor, "B S D"], times: float | Tensor, encoded: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B S D"]:
        """The velocity of every scenario.

        Parameters
        ----------
        state : Tensor
            Noised whitened residuals.
        times : float or Tensor
            Angles: one for all, or (B, S).
        encoded : Tensor
            What `encode` returned for the contexts.
        """
        with self._products(state):
            modulation = encoded.unsqueeze(1) + self.time_modulation(self._embed(times, state))
            hidden = self.entry(state)
            for block, pair in zip(
                self.blocks, modulation.chunk(self.config.num_blocks, dim=-1), strict=True
            ):
                hidden = block(hidden, pair)
            result: Tensor = self.exit(hidden)
        return result.to(state.dtype)

    def _products(self, like: Tensor) -> AbstractContextManager[object]:
        # No context at all unless asked for: the graph is traced through here.
        if self.product_type is None:
            return contextlib.nullcontext()
        return torch.autocast(like.device.type, dtype=self.product_type)

    def _embed(self, times: float | Tensor, like: Tensor) -> Tensor:
        # In the frequencies' own type: half precision would move the eighth one by a hundredth of a turn.
        dtype = self.frequencies.dtype
        angles = torch.as_tensor(times, dtype=dtype, device=like.device).unsqueeze(-1) * self.frequencies
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1).to(like.dtype)


class _Block(nn.Module):
    """h + outer(silu(inner(scale * norm(h) + shift)))."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.inner = nn.Linear(hidden, hidden)
        self.outer = nn.Linear(hidden, hidden)

    def forward(self, hidden: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation.chunk(2, dim=-1)
        mixed = self.inner(self.norm(hidden) * (1.0 + scale) + shift)
        result: Tensor = hidden + self.outer(nn.functional.silu(mixed))
        return result
