"""Scenarios of a day from its context: a mean, a residual drawn by diffusion, and the units back.

`Generator.sample` is a pure function of context and noise: no draw, no branch on a value, a fixed number
of steps. That is what the ONNX graph is traced from, what makes a scenario the same in training and
in service, and what the pathwise gradient needs. All arithmetic is in the dtype of the module
(float32 unless converted); paths are in the units of the data.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.core import config as core_config
from hedgecast.core.errors import BundleError, ConfigError, ShapeError
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.samplers import EVALUATIONS, SOLVERS, Velocity, first_step, integrate
from hedgecast.diffusion.schedule import sampling_times
from hedgecast.diffusion.whitening import Whitening, WhiteningReport

_FORMAT = 1


class Generator(nn.Module):
    """Mean, size and covariance of a day (`Whitening`) and a conditional diffusion on what is left."""

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config(core_config.Config):
        """Network, statistics and sampler."""

        denoiser: Denoiser.Config = dataclasses.field(default_factory=Denoiser.Config)
        whitening: Whitening.Config = dataclasses.field(default_factory=Whitening.Config)
        sampler: Literal["ddim", "euler", "heun", "adams", "dpm"] = "heun"
        """`ddim` and `euler`: one network call a step; `heun`: two, second order; `adams` and `dpm`: one,
        second order from what the step before found."""
        sampler_steps: int = 4
        """Steps from noise to scenario."""
        context_limit: float = 4.0
        """The network sees standardized features clipped at this: it cannot extrapolate. The mean can."""

        def __post_init__(self) -> None:
            sampling_times(self.sampler_steps)
            if not self.context_limit > 0:
                raise ConfigError(f"context_limit = {self.context_limit}: must be positive")

        @property
        def evaluations(self) -> int:
            """Network calls of one sample."""
            return EVALUATIONS[self.sampler] * self.sampler_steps

    def __init__(self, config: Config, *, num_features: int, num_steps: int, num_series: int) -> None:
        super().__init__()
        self.config = config
        self.num_features = num_features
        self.num_steps = num_steps
        self.num_series = num_series
        self.whitening = Whitening(num_features, self.dim)
        self.denoiser = Denoiser(config.denoiser, num_features, self.dim)

    @property
    def dim(self) -> int:
        """Entries of one scenario, T*F."""
        return self.num_steps * self.num_series

    @classmethod
    def fitted(
        cls,
        config: Config,
        context: Float[Tensor, "B C"],
        targets: Float[Tensor, "B T F"],
        generator: torch.Generator,
        *,
        spread: Float[Tensor, " C"] | None = None,
    ) -> tuple[Self, WhiteningReport]:
        """A generator with statistics of the training days, which draws Gaussian residuals until trained.

        Parameters
        ----------
        config : Generator.Config
            Everything chosen beforehand.
        context, targets : Tensor
            Training days only, in the order of time; raw features, targets in units.
        generator : torch.Generator
            Source of the network's first weights.
        spread : Tensor, optional
            Positive scale of each feature over the same days; its standard deviation if left out.

        Returns
        -------
        Generator, WhiteningReport
            The report holds the whitened residuals to train on.
        """
        model = cls(
            config,
            num_features=context.shape[1],
            num_steps=targets.shape[1],
            num_series=targets.shape[2],
        )
        report = model.whitening.fit(context, targets.flatten(1), config.whitening, spread)
        model.denoiser.initialize(generator)
        return model, report

    def sample(
        self,
        context: Float[Tensor, "B C"],
        noise: Float[Tensor, "B S D"],
        *,
        grad_steps: int | None = None,
        checkpointed: bool = False,
    ) -> Float[Tensor, "B S T F"]:
        """Scenarios in units: a pure, differentiable function of its arguments and the weights.

        Parameters
        ----------
        context : Tensor
            Raw features.
        noise : Tensor
            Standard normal.
        grad_steps, checkpointed
            As in `integrate`.
        """
        whitened = self.sample_whitened(context, noise, grad_steps=grad_steps, checkpointed=checkpointed)
        return self.finish(context, whitened)

    def sample_whitened(
        self,
        context: Float[Tensor, "B C"],
        noise: Float[Tensor, "B S D"],
        *,
        grad_steps: int | None = None,
        checkpointed: bool = False,
    ) -> Float[Tensor, "B S D"]:
        """Whitened residuals of scenarios, of which `finish` makes `sample`'s paths; same arguments."""
        return integrate(
            SOLVERS[self.config.sampler],
            self._velocity(self.whitening.standardized(self._cast(context))),
            self._cast(noise),
            sampling_times(self.config.sampler_steps),
            grad_steps=grad_steps,
            checkpointed=checkpointed,
        )

    def forward(
        self, context: Float[Tensor, "B C"], noise: Float[Tensor, "B S D"]
    ) -> Float[Tensor, "B S T F"]:
        """`sample` with all gradients."""
        return self.sample(context, noise)

    def draw(
        self, context: Float[Tensor, "B C"], count: int, generator: torch.Generator
    ) -> Float[Tensor, "B S T F"]:
        """``count`` scenarios of each context; on one machine the same generator state gives the same bits.

        Raises
        ------
        ShapeError
            ``count < 1``, or contexts of another width than the training ones.
        """
        if count < 1:
            raise ShapeError(f"asked for {count} scenarios: at least 1 is needed")
        if context.ndim != 2 or context.shape[1] != self.num_features:
            raise ShapeError(
                f"context has shape {tuple(context.shape)}: must be (contexts, {self.num_features})"
            )
        noise = torch.randn(
            (len(context), count, self.dim),
            generator=generator,
            device=generator.device,
            dtype=self.whitening.factor.dtype,
        )
        return self.sample(context, noise.to(self.whitening.factor.device))

    def denoise_step(
        self,
        context: Float[Tensor, "B C"],
        state: Float[Tensor, "B S D"],
        time: Float[Tensor, ""],
        next_time: Float[Tensor, ""],
    ) -> Float[Tensor, "B S D"]:
        """One step of the configured sampler on whitened residuals, for the single-step graph.

        `sampling_times` gives the times, the first state is noise, and `finish` turns the last state into
        paths; together they are `sample`. Of a sampler that reads the step before (`adams`, `dpm`) this is
        its first step, and a row of them is its first-order relative.
        """
        standardized = self.whitening.standardized(self._cast(context))
        step = first_step(self.config.sampler)
        return step(self._velocity(standardized), self._cast(state), self._cast(time), self._cast(next_time))

    def finish(
        self, context: Float[Tensor, "B C"], state: Float[Tensor, "B S D"]
    ) -> Float[Tensor, "B S T F"]:
        """Paths in units from whitened residuals at time 0."""
        standardized = self.whitening.standardized(self._cast(context))
        return self._paths(self._cast(state), standardized)

    def whiten(self, context: Float[Tensor, "B C"], targets: Float[Tensor, "B T F"]) -> Float[Tensor, "B D"]:
        """Whitened residuals of days outside training."""
        return self.whitening.whiten(self._cast(targets.flatten(1)), self._cast(context))

    def encode(self, context: Float[Tensor, "B C"]) -> Float[Tensor, "B E"]:
        """What the denoiser takes for raw contexts: once per day, for any number of noised samples."""
        return self._encode(self.whitening.standardized(self._cast(context)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `from_dict`: sizes and configuration; all numbers are in the state_dict."""
        return {
            "format": _FORMAT,
            "num_features": self.num_features,
            "num_steps": self.num_steps,
            "num_series": self.num_series,
            "config": self.config.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A generator of the recorded sizes; load its ``state_dict`` next.

        Raises
        ------
        BundleError
            Another format.
        """
        if values.get("format") != _FORMAT:
            raise BundleError(
                f"generator of format {values.get('format')!r}: this version reads format {_FORMAT}; "
                "export the model again"
            )
        return cls(
            cls.Config.from_dict(values["config"], path="generator"),
            num_features=int(values["num_features"]),
            num_steps=int(values["num_steps"]),
            num_series=int(values["num_series"]),
        )

    def _encode(self, standardized: Tensor) -> Tensor:
        limit = self.config.context_limit
        return self.denoiser.encode(torch.clamp(standardized, -limit, limit))

    def _velocity(self, standardized: Tensor) -> Velocity:
        return functools.partial(self.denoiser, encoded=self._encode(standardized))

    def _paths(self, whitened: Tensor, standardized: Tensor) -> Tensor:
        days = self.whitening.unwhiten(whitened, standardized)
        return days.reshape(*days.shape[:2], self.num_steps, self.num_series)

    def _cast(self, values: Tensor) -> Tensor:
        factor = self.whitening.factor
        return values.to(dtype=factor.dtype, device=factor.device)
