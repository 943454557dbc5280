from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.whitening import Whitening
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.methods.scoring_rule import fit_scoring_rule
from hedgecast.learning.part import Part

from .conftest import LinearGaussian


def test_untrained_it_draws_the_gaussian_of_the_data(
    linear_gaussian: LinearGaussian, small: LearningConfig
) -> None:
    none = dataclasses.replace(small, epochs=0)
    method = fit_scoring_rule(linear_gaussian.train, linear_gaussian.validation, none)
    drawn = method.scenarios(linear_gaussian.test, 4000, 0).values
    torch.testing.assert_close(
        drawn.mean(dim=1), linear_gaussian.mean(linear_gaussian.test), rtol=0, atol=0.3
    )
    centered = drawn - drawn.mean(dim=1, keepdim=True)
    covariance = torch.einsum("bsi,bsj->bij", centered, centered).mean(dim=0) / 4000
    torch.testing.assert_close(
        covariance, linear_gaussian.factor @ linear_gaussian.factor.T, rtol=0, atol=0.1
    )


def test_it_learns_two_modes_that_no_gaussian_has() -> None:
    draws = np.random.default_rng(0)

    def part(rows: int, first: int) -> Part:
        context = draws.normal(size=(rows, 2))
        sign = np.where(draws.random((rows, 1)) < 0.5, -2.0, 2.0)
        return Part.of_arrays(
            context, 20 + context[:, :1] + sign + 0.3 * draws.normal(size=(rows, 3)), first_row=first
        )

    train, validation, test = part(1000, 0), part(200, 1000), part(30, 1200)
    config = LearningConfig(
        generator=Generator.Config(
            denoiser=Denoiser.Config(hidden=32, num_blocks=2, encoding=8),
            whitening=Whitening.Config(gap_days=0),
        ),
        epochs=60,
        batch_days=50,
        samples_per_day=16,
        learning_rate=1e-2,
        ema_decay=0.95,
        patience=60,
    )
    method = fit_scoring_rule(train, validation, config)
    assert min(method.curve.scores) < 0.995 * method.curve.scores[0]
    middle = method.scenarios(test, 200, 0).values.mean(dim=2) - 20 - test.context[:, :1]
    # Of a Gaussian of the same size a third lies near the middle, of the data almost none.
    assert float((middle.abs() < 0.8).double().mean()) < 0.2
