from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError, NotConvergedError
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.estimators.decision_weighted import DecisionWeighted, decision_weights
from hedgecast.learning.estimators.seam import Scene
from hedgecast.learning.objective import TaskLoss
from hedgecast.testing import gaussian_generator

DAYS, SCENARIOS = 40, 12


def came() -> Tensor:
    return torch.randn(DAYS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights(task: TaskLoss, mean: Tensor, strength: float, seed: int = 5) -> Tensor:
    return decision_weights(
        gaussian_generator(mean, sampler_steps=8),
        task.program,
        torch.arange(len(mean), dtype=torch.float64).unsqueeze(1),
        came()[: len(mean)],
        strength=strength,
        scenarios=SCENARIOS,
        generator=torch.Generator().manual_seed(seed),
    )


def test_weights_are_the_squared_slopes_of_the_cost(quadratic: TaskLoss) -> None:
    # The slope of 1/2 |z - y|^2 in y is y - z, with z the mean of the scenarios that were drawn.
    mean = torch.zeros(DAYS, 2).double()
    generator, plans = torch.Generator().manual_seed(5), []
    model = gaussian_generator(mean, sampler_steps=8)
    context = torch.arange(DAYS, dtype=torch.float64).unsqueeze(1)
    with torch.no_grad():
        for begin in (0, 32):
            paths = model.draw(context[begin : begin + 32], SCENARIOS, generator)
            plans.append(paths[..., 0].mean(dim=1))
    steepness = (came() - torch.cat(plans)).square().sum(dim=1)
    expected = (1.0 + 3.0 * steepness / steepness.mean()) / 4.0
    found = weights(quadratic, mean, 3.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(found.mean()) == pytest.approx(1.0)


def test_no_strength_is_plain_noise_matching(quadratic: TaskLoss) -> None:
    torch.testing.assert_close(weights(quadratic, torch.zeros(DAYS, 2), 0.0), torch.ones(DAYS).double())


def test_a_day_without_a_decision_weighs_one_and_most_must_have_one(quadratic: TaskLoss) -> None:
    mean = torch.zeros(DAYS, 2)
    mean[7] = torch.nan
    assert float(weights(quadratic, mean, 1.0)[7]) == 1.0
    with pytest.raises(NotConvergedError, match="40 of 40"):
        weights(quadratic, torch.full((DAYS, 2), torch.nan), 1.0)


def test_days_without_weights_are_refused(quadratic: TaskLoss, make_scene: Callable[..., Scene]) -> None:
    model = gaussian_generator(torch.zeros(DAYS, 2))
    with pytest.raises(ConfigError, match="day_weights"):
        DecisionWeighted(LearningConfig())(model, make_scene(came(), 0), quadratic)
