from __future__ import annotations

import dataclasses

import pytest
import torch

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.whitening import Whitening
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.part import Part

SLOTS = 3


@dataclasses.dataclass(frozen=True)
class LinearGaussian:
    """y = 20 + A x + L z: what every method should find, known in closed form."""

    train: Part
    validation: Part
    test: Part
    weight: torch.Tensor
    factor: torch.Tensor

    def mean(self, part: Part) -> torch.Tensor:
        return 20 + part.context @ self.weight


@pytest.fixture(scope="session")
def linear_gaussian() -> LinearGaussian:
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(2, SLOTS, dtype=torch.float64, generator=draws)
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.3, 0.3, 0.6]], dtype=torch.float64)

    def part(rows: int, first: int) -> Part:
        context = torch.randn(rows, 2, dtype=torch.float64, generator=draws)
        noise = torch.randn(rows, SLOTS, dtype=torch.float64, generator=draws)
        return Part.of_arrays(context, 20 + context @ weight + noise @ factor.T, first_row=first)

    return LinearGaussian(part(1200, 0), part(300, 1200), part(40, 1500), weight, factor)


@pytest.fixture(scope="session")
def small() -> LearningConfig:
    """A network and a budget for seconds."""
    return LearningConfig(
        generator=Generator.Config(
            denoiser=Denoiser.Config(hidden=24, num_blocks=1, encoding=8),
            whitening=Whitening.Config(gap_days=0),
        ),
        epochs=12,
        joint_epochs=2,
        batch_days=100,
        samples_per_day=8,
        scenarios=20,
        ema_decay=0.9,
        smoothing=1e-2,
        learning_rate=5e-3,
    )
