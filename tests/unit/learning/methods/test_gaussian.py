from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.distributions import Normal

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.methods.gaussian import Gaussian, fit_gaussian, negative_log_likelihood
from hedgecast.programs.catalog.generation_scheduling import build

from .conftest import LinearGaussian


@pytest.fixture(scope="module")
def fitted(linear_gaussian: LinearGaussian, small: LearningConfig) -> dict[str, Gaussian]:
    program = build(3, ramp_limit=1e3)
    return fit_gaussian(linear_gaussian.train, linear_gaussian.validation, small, program)


def test_the_loss_is_the_normal_likelihood() -> None:
    draws = torch.Generator().manual_seed(0)
    shift, log_scale, whitened = torch.randn(3, 5, 4, dtype=torch.float64, generator=draws)
    constant = 4 * 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    expected = -Normal(shift, log_scale.exp()).log_prob(whitened).sum(dim=1).mean() - constant
    torch.testing.assert_close(negative_log_likelihood(shift, log_scale, whitened), expected)


def test_mean_and_covariance_are_those_of_the_data(
    fitted: dict[str, Gaussian], linear_gaussian: LinearGaussian
) -> None:
    test, count = linear_gaussian.test, 4000
    drawn = fitted["gaussian"].scenarios(test, count, 0).values
    # The network may add what 1,200 days cannot refute: a few hundredths.
    torch.testing.assert_close(drawn.mean(dim=1), linear_gaussian.mean(test), rtol=0, atol=0.25)
    centered = drawn - drawn.mean(dim=1, keepdim=True)
    covariance = torch.einsum("bsi,bsj->bij", centered, centered).mean(dim=0) / count
    expected = linear_gaussian.factor @ linear_gaussian.factor.T
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.1)


def test_without_an_epoch_it_is_the_linear_gaussian(
    linear_gaussian: LinearGaussian, small: LearningConfig
) -> None:
    none = dataclasses.replace(small, epochs=0)
    gaussian = fit_gaussian(linear_gaussian.train, linear_gaussian.validation, none, None)["gaussian"]
    assert gaussian.curve.best_epoch == 0
    whitening = gaussian.network.whitening
    standardized = whitening.standardized(linear_gaussian.test.context.float())
    drawn = gaussian.scenarios(linear_gaussian.test, 20_000, 0).values
    # Four standard errors of a mean of 20,000.
    torch.testing.assert_close(
        drawn.mean(dim=1), whitening.mean(standardized).double(), rtol=0, atol=4 * 1.2 / 20_000**0.5
    )


def test_training_through_the_decision_leaves_the_likely_model_alone(
    fitted: dict[str, Gaussian], linear_gaussian: LinearGaussian, small: LearningConfig
) -> None:
    alone = fit_gaussian(linear_gaussian.train, linear_gaussian.validation, small, None)
    assert set(alone) == {"gaussian"}
    first, second = (found["gaussian"].network.state_dict() for found in (alone, fitted))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_decision_trained_model_never_costs_more_on_validation_days(fitted: dict[str, Gaussian]) -> None:
    curve = fitted["dfl-gaussian"].curve
    assert len(curve.scores) == 3
    assert curve.scores[curve.best_epoch] == min(curve.scores)
    # The likelihood is right here, so little is to be gained.
    assert min(curve.scores) == pytest.approx(curve.scores[0], rel=0.05)
