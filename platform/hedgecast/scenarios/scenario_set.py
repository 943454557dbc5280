"""The one object that passes between what makes scenarios and what uses them."""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ShapeError
from hedgecast.scenarios.fingerprint import RunningFingerprint


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioSet:
    """Joint paths of what is uncertain, for a batch of contexts.

    Nothing here says where the scenarios came from but ``source``, so that history, bootstrap,
    Gaussian and diffusion scenarios stand in one table by swapping one object.
    """

    paths: Tensor
    """(B, S, T, F) in the units of the data, never scaled."""
    names: tuple[str, ...]
    """F series names."""
    units: tuple[str, ...]
    """F units."""
    probabilities: Tensor | None = None
    """(B, S), rows summing to 1; None: equal weights."""
    times: np.ndarray | None = None
    """(B, T) datetime64[ns], UTC, start of each step."""
    source: str = ""
    """What made them: a method's name, or a model's name and version."""
    seed: int | None = None
    """Seed of the draw; None when the scenarios are not drawn."""

    def __post_init__(self) -> None:
        if self.paths.ndim != 4:
            raise ShapeError(
                f"paths has shape {tuple(self.paths.shape)}: must be (contexts, scenarios, steps, series)"
            )
        num_series = self.paths.shape[3]
        if len(self.names) != num_series or len(self.units) != num_series:
            raise ShapeError(
                f"{len(self.names)} names and {len(self.units)} units for {num_series} series: give one each"
            )
        if self.probabilities is not None and self.probabilities.shape != self.paths.shape[:2]:
            raise ShapeError(
                f"probabilities has shape {tuple(self.probabilities.shape)}: must be "
                f"{tuple(self.paths.shape[:2])}"
            )

    @property
    def num_contexts(self) -> int:
        """Contexts, B."""
        return int(self.paths.shape[0])

    @property
    def num_scenarios(self) -> int:
        """Scenarios of each context, S."""
        return int(self.paths.shape[1])

    @property
    def values(self) -> Tensor:
        """(B, S, T*F): each scenario in C order, as a program takes it."""
        return self.paths.flatten(2)

    def weights(self) -> Tensor:
        """(B, S) probabilities, equal ones written out."""
        if self.probabilities is not None:
            return self.probabilities
        return torch.full(
            self.paths.shape[:2],
            1.0 / self.num_scenarios,
            dtype=self.paths.dtype,
            device=self.paths.device,
        )

    def first(self, count: int) -> Self:
        """The first ``count`` scenarios of each context, weights renormalized."""
        if not 1 <= count <= self.num_scenarios:
            raise ShapeError(f"asked for the first {count} of {self.num_scenarios} scenarios")
        probabilities = self.probabilities
        if probabilities is not None:
            probabilities = probabilities[:, :count]
            probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
        return dataclasses.replace(self, paths=self.paths[:, :count], probabilities=probabilities)

    def contexts(self, start: int, stop: int) -> Self:
        """Contexts ``start`` to ``stop`` (exclusive)."""
        return dataclasses.replace(
            self,
            paths=self.paths[start:stop],
            probabilities=None if self.probabilities is None else self.probabilities[start:stop],
            times=None if self.times is None else self.times[start:stop],
        )

    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of shape, names, units, times, paths and probabilities, as float64."""
        digest = RunningFingerprint(tuple(self.paths.shape), self.names, self.units, self.times)
        for tensor in (self.paths, self.probabilities):
            if tensor is not None:
                digest.update(tensor.detach().cpu().double().numpy())
        return digest.hexdigest()
