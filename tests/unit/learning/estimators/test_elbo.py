from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.learning.draws import Draws
from hedgecast.learning.estimators.elbo import Elbo, ElboConfig, Levels
from hedgecast.testing import gaussian_generator

DAYS = 3000


def vectors(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def levels(config: ElboConfig, *, advantages: Tensor | None = None, seed: int = 1) -> Levels:
    """Levels of `DAYS` days with three scenarios each, of a model whose mean is far from them."""
    model = gaussian_generator(torch.full((DAYS, 2), 2.0))
    scenarios = vectors(DAYS, 3, 2, seed=0)
    weights = vectors(DAYS, 3, seed=2) if advantages is None else advantages
    draws = Draws(torch.Generator().manual_seed(seed), DAYS, scenarios)
    context = torch.arange(DAYS, dtype=torch.float64).unsqueeze(1)
    return Elbo(config, log_mean=-0.4, log_std=1.4).levels(model, context, scenarios, weights, draws)


@pytest.mark.parametrize("importance", [False, True])
def test_likelihood_levels_integrate_the_bound(importance: bool) -> None:
    # int cos^2 t sin^2 t dl = int sin t cos t dt = 1/2, with dl = dt / (sin t cos t).
    found = levels(ElboConfig(noise_levels=4, importance=importance))
    values = (found.weights * torch.sin(found.times).square()).mean(dim=1)
    error = float(values.std()) / math.sqrt(DAYS)
    assert float(values.mean()) == pytest.approx(0.5, abs=3 * error + 2e-4)


@pytest.mark.parametrize("importance", [False, True])
def test_simple_levels_follow_the_density_of_training(importance: bool) -> None:
    found = levels(ElboConfig(weighting="simple", noise_levels=4, importance=importance))
    # Over D = 2: the weights have mean 1/2, and log tan t has training's mean.
    log_level = torch.log(torch.tan(found.times))
    for values, expected in ((found.weights, 0.5), (found.weights * log_level, 0.5 * -0.4)):
        days = values.mean(dim=1)
        assert float(days.mean()) == pytest.approx(expected, abs=3 * float(days.std()) / math.sqrt(DAYS))


def test_importance_draws_where_errors_are_large_and_bounds_its_weights() -> None:
    plain = levels(ElboConfig(noise_levels=4))
    important = levels(ElboConfig(noise_levels=4, importance=True))
    # Weighted by cos^2 t, errors near pure noise are nothing: those levels are drawn less often.
    shares = [float((found.times > 1.5).double().mean()) for found in (plain, important)]
    assert shares[1] < 0.5 * shares[0]
    # A quarter of the base density: no weight is over four times the plain one.
    assert float(important.weights.max()) <= 4 * 8 * 1.0001


def test_without_any_advantage_importance_draws_evenly() -> None:
    found = levels(ElboConfig(noise_levels=4, importance=True), advantages=torch.zeros(DAYS, 3).double())
    even = levels(ElboConfig(noise_levels=4), seed=3)
    assert float(found.weights.max()) <= float(even.weights.max()) * 1.01


def test_the_gradient_is_the_score_of_the_normal() -> None:
    """Mean and log deviation: y - m and (y - m)^2 - 1, each within 3 standard errors."""
    model = gaussian_generator(torch.full((DAYS, 1), 0.4))
    scenario = torch.full((DAYS, 1, 1), 1.5, dtype=torch.float64)
    context = torch.arange(DAYS, dtype=torch.float64).unsqueeze(1)
    elbo = Elbo(ElboConfig(noise_levels=8), log_mean=-0.4, log_std=1.4)
    draws = Draws(torch.Generator().manual_seed(4), DAYS, scenario)
    drawn = elbo.levels(model, context, scenario, torch.ones(DAYS, 1).double(), draws)
    slopes = torch.autograd.grad(
        elbo(model, context, scenario, drawn).sum(), [model.denoiser.mean, model.denoiser.log_deviation]
    )
    for slope, expected in zip(slopes, (1.1, 1.1**2 - 1.0), strict=True):
        error = float(slope.std()) / math.sqrt(DAYS)
        assert float(slope.mean()) == pytest.approx(expected, abs=3 * error)


def test_scenarios_of_a_day_share_their_levels() -> None:
    """Equal scenarios have equal terms: a difference between scenarios has no noise of its own."""
    model = gaussian_generator(torch.zeros(4, 2))
    one = vectors(4, 1, 2, seed=6)
    context = torch.arange(4, dtype=torch.float64).unsqueeze(1)
    elbo = Elbo(ElboConfig(), log_mean=-0.4, log_std=1.4)
    draws = Draws(torch.Generator().manual_seed(5), 4, one)
    twice = one.expand(-1, 2, -1)
    drawn = elbo.levels(model, context, twice, torch.ones(4, 2).double(), draws)
    terms = elbo(model, context, twice, drawn)
    assert torch.equal(terms[:, 0], terms[:, 1])


def test_no_noise_level_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise_levels = 0"):
        ElboConfig(noise_levels=0)
