"""Every estimator on a Gaussian whose exact gradient is known; the variance table (pytest -s).

Scenarios are m + noise, the cost is 1/2 |z - y|^2, so the plan is the mean of the scenarios and the exact
gradient of the expected cost in m is m - y. A day is a replicate: all have the same m and y.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgecast.decisions.surrogate import SurrogateBackend
from hedgecast.decisions.surrogate_training import SurrogateConfig, train_surrogate
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.estimators.decision_weighted import DecisionWeighted
from hedgecast.learning.estimators.elbo import Elbo, ElboConfig
from hedgecast.learning.estimators.pathwise import Pathwise
from hedgecast.learning.estimators.score_function import ScoreFunction
from hedgecast.learning.estimators.seam import Estimate, GradientEstimator, Scene
from hedgecast.learning.estimators.surrogate_gradient import SurrogateGradient
from hedgecast.learning.objective import TaskLoss
from hedgecast.testing import gaussian_generator, reach

DAYS, SCENARIOS, STEPS = 2000, 8, 24
MEAN = torch.tensor([0.4, -0.3], dtype=torch.float64)
CAME = torch.tensor([1.2, 0.5], dtype=torch.float64)
# Exact up to Heun's reach, 0.9996: a tenth of a standard error.
EXACT = MEAN - CAME
LOG_MEAN, LOG_STD = -0.4, 1.4


def score_function(**changes: object) -> ScoreFunction:
    elbo = Elbo(ElboConfig(noise_levels=2, **changes), log_mean=LOG_MEAN, log_std=LOG_STD)  # type: ignore[arg-type]
    return ScoreFunction(scenarios=SCENARIOS, elbo=elbo, clip_ratio=0.2)


def pathwise(grad_steps: int = STEPS, *, checkpointed: bool = False, drawn: int = SCENARIOS) -> Pathwise:
    return Pathwise(scenarios=SCENARIOS, drawn=drawn, grad_steps=grad_steps, checkpointed=checkpointed)


def replicates(
    estimator: GradientEstimator, task: TaskLoss, make_scene: Callable[..., Scene], days: int = DAYS
) -> tuple[Tensor, Estimate]:
    """(days, 2) independent estimates of the gradient in the mean."""
    model = gaussian_generator(MEAN.expand(days, -1), sampler_steps=STEPS)
    estimate = estimator(model, make_scene(CAME.expand(days, -1), 1), task)
    (slope,) = torch.autograd.grad(estimate.loss, model.denoiser.mean)
    return days * slope, estimate


def table(name: str, found: Tensor, expected: Tensor) -> float:
    """Print a row; the largest distance of the mean from ``expected`` in standard errors."""
    error = found.std(dim=0) / math.sqrt(len(found))
    distance = ((found.mean(dim=0) - expected) / error).abs().max()
    print(
        f"\n{name:34s} mean {[round(v, 3) for v in found.mean(dim=0).tolist()]!s:18s} exact "
        f"{[round(v, 3) for v in expected.tolist()]!s:16s} variance {float(found.var(dim=0).sum()):8.3f}, "
        f"{float(distance):.1f} s.e.",
        end="",
    )
    return float(distance)


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("pathwise", pathwise()),
        ("score function", score_function()),
        ("score function, importance", score_function(importance=True)),
    ],
)
def test_the_mean_is_the_exact_gradient(
    name: str, estimator: GradientEstimator, quadratic: TaskLoss, make_scene: Callable[..., Scene]
) -> None:
    found, estimate = replicates(estimator, quadratic, make_scene)
    assert table(name, found, EXACT) < 3.0
    assert bool(estimate.counted.all())
    # E 1/2 |m + mean noise - y|^2
    cost = 0.5 * float(EXACT.square().sum()) + 2 * 0.5 / SCENARIOS
    assert estimate.cost == pytest.approx(cost, abs=3 * math.sqrt(0.5 / SCENARIOS / DAYS) + 1e-3)


def test_scenarios_that_stand_for_many_have_their_gradient_with_less_noise(
    quadratic: TaskLoss, make_scene: Callable[..., Scene]
) -> None:
    # The decision is the mean, which slices keep: as exact, at the variance of all that are drawn.
    few, _ = replicates(pathwise(), quadratic, make_scene)
    many, estimate = replicates(pathwise(drawn=8 * SCENARIOS), quadratic, make_scene)
    assert table("pathwise, 8 drawn for each", many, EXACT) < 3.0
    assert float(many.var(dim=0).sum()) < 0.25 * float(few.var(dim=0).sum())
    cost = 0.5 * float(EXACT.square().sum()) + 2 * 0.5 / (8 * SCENARIOS)
    assert estimate.cost == pytest.approx(cost, abs=3 * math.sqrt(0.5 / (8 * SCENARIOS) / DAYS) + 1e-3)


@pytest.mark.parametrize("last", [1, 12])
def test_the_last_steps_give_their_known_part(
    last: int, quadratic: TaskLoss, make_scene: Callable[..., Scene]
) -> None:
    found, _ = replicates(pathwise(last), quadratic, make_scene)
    whole, _ = replicates(pathwise(), quadratic, make_scene)
    assert table(f"pathwise, last {last} of {STEPS}", found, reach(STEPS, last) * EXACT) < 3.0
    # Not only in the mean: every replicate is the same share of the whole.
    torch.testing.assert_close(found, whole * reach(STEPS, last) / reach(STEPS), rtol=1e-6, atol=1e-9)


def test_checkpointing_changes_nothing(quadratic: TaskLoss, make_scene: Callable[..., Scene]) -> None:
    kept, _ = replicates(pathwise(), quadratic, make_scene, days=50)
    recomputed, _ = replicates(pathwise(checkpointed=True), quadratic, make_scene, days=50)
    assert torch.equal(kept, recomputed)


def test_the_simple_weighting_is_off_by_its_known_factor(
    quadratic: TaskLoss, make_scene: Callable[..., Scene]
) -> None:
    # d/dm of E |sin t (m - y) + cos t z|^2 / D is 2 E[sin^2 t] (m - y) / D, the score is y - m.
    normals = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    sines = torch.sin(torch.atan(torch.exp(LOG_MEAN + LOG_STD * normals)))
    factor = 2.0 * float(sines.square().mean()) / 2
    for importance in (False, True):
        estimator = score_function(weighting="simple", importance=importance)
        found, _ = replicates(estimator, quadratic, make_scene)
        name = "score function, simple" + (", importance" if importance else "")
        assert table(name, found, factor * EXACT) < 3.0


def test_decision_weights_pull_to_the_day_that_came(
    quadratic: TaskLoss, make_scene: Callable[..., Scene]
) -> None:
    # 2 u E[sin^2 t] (m - y) / D: no estimate of the task gradient, and here parallel to it.
    config = LearningConfig(samples_per_day=4)
    weight = torch.full((DAYS,), 1.5, dtype=torch.float64)
    model = gaussian_generator(MEAN.expand(DAYS, -1))
    estimate = DecisionWeighted(config)(model, make_scene(CAME.expand(DAYS, -1), 1, weight), quadratic)
    (slope,) = torch.autograd.grad(estimate.loss, model.denoiser.mean)
    normals = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    sines = torch.sin(torch.atan(torch.exp(config.noise_log_mean + config.noise_log_std * normals)))
    assert table("decision-weighted", DAYS * slope, 1.5 * float(sines.square().mean()) * EXACT) < 3.0
    assert estimate.cost is None


def test_the_surrogate_is_off_by_its_own_error(
    quadratic: TaskLoss,
    make_scene: Callable[..., Scene],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = MEAN + torch.randn(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    config = SurrogateConfig(
        num_instances=150, num_calibration=60, num_test=10, num_scenarios=SCENARIOS, num_epochs=5, width=8,
        num_members=2, budget=0.2,
    )  # fmt: skip
    program = quadratic.program
    folder = tmp_path_factory.mktemp("surrogates")
    trained = train_surrogate(program, pool, config=config)
    backend = SurrogateBackend(folder)
    trained.save(backend.home(program, quadratic.layer.risk))
    monkeypatch.setenv("HEDGECAST_SURROGATES", str(folder))
    found, estimate = replicates(SurrogateGradient(pathwise()), quadratic, make_scene, days=500)
    table("surrogate", found, EXACT)
    # Its bias is the map's: a fiftieth of the gradient, where the exact layer has none.
    assert float((found.mean(dim=0) - EXACT).norm()) < 0.05 * float(EXACT.norm())
    assert bool(estimate.counted.all())


def test_asymmetric_costs_have_the_known_gradient_in_mean_and_spread(
    expectile: TaskLoss, make_scene: Callable[..., Scene]
) -> None:
    """With many scenarios the plan is m + s q, q the normal's expectile.

    With S of them it varies by about s^2 / S, which adds f'' = 10 times that to the slope in log s, and more
    than twice as much to the score function's estimate: 24 / S with the true score of the normal.
    """
    days, scenarios, steps, mean, came = 300, 100, 16, 0.4, 1.2
    level = _normal_expectile(5.0, 2.0)
    slope = -2.0 * 5.0 * (came - mean - level) if came > mean + level else 2.0 * 2.0 * (mean + level - came)
    exact = torch.tensor([slope, slope * level], dtype=torch.float64)
    elbo = Elbo(ElboConfig(noise_levels=16), log_mean=LOG_MEAN, log_std=LOG_STD)
    for name, estimator in (
        (
            "asymmetric: pathwise",
            Pathwise(scenarios=scenarios, drawn=scenarios, grad_steps=steps, checkpointed=False),
        ),
        ("asymmetric: score function", ScoreFunction(scenarios=scenarios, elbo=elbo, clip_ratio=0.2)),
    ):
        model: Generator = gaussian_generator(torch.full((days, 1), mean), sampler_steps=steps)
        scene = make_scene(torch.full((days, 1), came, dtype=torch.float64), 4)
        estimate = estimator(model, scene, expectile)
        parameters = [model.denoiser.mean, model.denoiser.log_deviation]
        found = days * torch.cat(torch.autograd.grad(estimate.loss, parameters), dim=1)
        error = 3.0 * found.std(dim=0) / math.sqrt(days)
        table(name, found, exact)
        assert bool(((found.mean(dim=0) - exact).abs() < error + 30.0 / scenarios).all())


def _normal_expectile(above: float, below: float) -> float:
    """The z at which above E(y - z)_+ = below E(z - y)_+ for standard normal y."""
    low, high = -5.0, 5.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        density = math.exp(-0.5 * middle**2) / math.sqrt(2 * math.pi)
        tail = 0.5 * math.erfc(middle / math.sqrt(2))
        short = density - middle * tail
        low, high = (middle, high) if above * short > below * (short + middle) else (low, middle)
    return low
