from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.learning.config import LearningConfig, ScoreFunctionConfig
from hedgecast.learning.estimators.elbo import Elbo, ElboConfig
from hedgecast.learning.estimators.score_function import ScoreFunction, clipped, leave_one_out
from hedgecast.learning.estimators.seam import Scene
from hedgecast.learning.objective import TaskLoss
from hedgecast.testing import gaussian_generator

DAYS = 40


def estimator(clip_ratio: float = 0.2) -> ScoreFunction:
    elbo = Elbo(ElboConfig(noise_levels=8), log_mean=-0.4, log_std=1.4)
    return ScoreFunction(scenarios=16, elbo=elbo, clip_ratio=clip_ratio)


def test_the_baseline_is_the_mean_of_the_others() -> None:
    weights = torch.tensor([[1.0, 2.0, 6.0]])
    torch.testing.assert_close(leave_one_out(weights), torch.tensor([[1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]]))


def test_a_common_shift_of_the_weights_changes_nothing() -> None:
    weights = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(leave_one_out(weights + 7.0), leave_one_out(weights))
    assert float(leave_one_out(weights).sum(dim=1).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("advantage", "ratio", "pulls"),
    [
        (1.0, 1.0, True),
        (1.0, 0.7, False),  # costly, and already less likely by more than the clip
        (1.0, 1.4, True),  # costly and more likely: back
        (-1.0, 1.3, False),  # cheap, and already more likely
        (-1.0, 0.5, True),
    ],
)
def test_terms_stop_pulling_beyond_the_clip(advantage: float, ratio: float, pulls: bool) -> None:
    ratios = torch.tensor([[ratio]], requires_grad=True)
    (slope,) = torch.autograd.grad(clipped(torch.tensor([[advantage]]), ratios, 0.2).sum(), ratios)
    assert float(slope) == (advantage if pulls else 0.0)


def test_scenarios_used_again_lower_the_cost_until_the_clip(
    quadratic: TaskLoss, make_scene: Callable[..., Scene]
) -> None:
    came = torch.full((DAYS, 2), 1.0, dtype=torch.float64)
    model = gaussian_generator(torch.zeros(DAYS, 2), sampler_steps=8)
    estimate = estimator()(model, make_scene(came, 1), quadratic)
    assert estimate.again is not None
    optimizer = torch.optim.SGD([model.denoiser.mean], lr=4.0)
    loss, sizes = estimate.loss, []
    torch.testing.assert_close(estimate.again(), loss)
    for _ in range(12):
        (slope,) = torch.autograd.grad(loss, model.denoiser.mean)
        sizes.append(float(slope.norm()))
        model.denoiser.mean.grad = slope
        optimizer.step()
        loss = estimate.again()
    # The plan is the mean: it moved towards what came, and the clip stopped most terms.
    assert float(model.denoiser.mean.detach().mean()) > 0.1
    assert sizes[-1] < 0.5 * sizes[0]
    assert float(estimate.again().detach()) < float(estimate.loss.detach())


def test_a_day_that_was_not_solved_has_no_pull(quadratic: TaskLoss, make_scene: Callable[..., Scene]) -> None:
    model = gaussian_generator(torch.zeros(DAYS, 2), sampler_steps=4)
    came = torch.ones(DAYS, 2, dtype=torch.float64)
    whole = estimator()(model, make_scene(came, 1), quadratic)
    (slope,) = torch.autograd.grad(whole.loss, model.denoiser.mean)
    came = came.clone()
    came[3] = torch.nan
    estimate = estimator()(model, make_scene(came, 1), quadratic)
    assert torch.nonzero(~estimate.counted).flatten().tolist() == [3]
    (masked,) = torch.autograd.grad(estimate.loss, model.denoiser.mean)
    rest = [day for day in range(DAYS) if day != 3]
    torch.testing.assert_close(masked[rest], slope[rest] * DAYS / (DAYS - 1))
    assert not bool(masked[3].any())


def test_only_the_score_function_uses_scenarios_again() -> None:
    with pytest.raises(ConfigError, match=r"sample_reuse = 2 with estimator 'pathwise'"):
        LearningConfig(score_function=ScoreFunctionConfig(sample_reuse=2))
    with pytest.raises(ConfigError, match="clip_ratio"):
        ScoreFunctionConfig(clip_ratio=1.0)
