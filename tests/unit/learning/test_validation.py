from __future__ import annotations

import dataclasses

import pytest
import torch

from hedgecast.core.errors import NotConvergedError
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning import validation
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.objective import TaskLoss, noise_matching_loss
from hedgecast.learning.validation import Days, validation_cost, validation_noise_loss
from hedgecast.programs.catalog.generation_scheduling import build

CONFIG = LearningConfig(
    generator=Generator.Config(denoiser=Denoiser.Config(hidden=16, num_blocks=1, encoding=8)),
    smoothing=1e-2,
    validation_scenarios=90,
)


@pytest.fixture(scope="module")
def task() -> TaskLoss:
    return TaskLoss(build(3, ramp_limit=1e3), smoothing=CONFIG.smoothing)


def made(rows: int = 40) -> tuple[Generator, Days]:
    draws = torch.Generator().manual_seed(0)
    context = torch.randn(200, 3, dtype=torch.float64, generator=draws)
    targets = 20 + context[:, :1, None] + torch.randn(200, 3, 1, dtype=torch.float64, generator=draws)
    model, _ = Generator.fitted(CONFIG.generator, context, targets, draws)
    with torch.no_grad():
        model.denoiser.exit.weight.normal_(0.0, 0.1, generator=draws)
        return model, Days(context[:rows], model.whiten(context[:rows], targets[:rows]), targets[:rows])


def test_chunks_of_days_add_up_to_all_of_them(task: TaskLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    model, days = made()
    noise = validation_noise_loss(model, days, CONFIG, 5)
    cost = validation_cost(model, task, days, CONFIG, 5)
    many = dataclasses.replace(CONFIG, samples_per_day=validation.SAMPLES_PER_DAY)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        whole = noise_matching_loss(model, days.context, days.whitened, many, draws)
        paths = model.draw(days.context, 90, torch.Generator().manual_seed(5))
        expected = task(paths, days.realized)[0]
    assert noise == pytest.approx(float(whole), rel=1e-6)
    assert cost == pytest.approx(float(expected), rel=1e-6)
    # Of 64 draws and 90 scenarios a day: seven days and five.
    monkeypatch.setattr(validation, "_CHUNK", 450)
    assert validation_noise_loss(model, days, CONFIG, 5) == pytest.approx(noise, rel=1e-6)
    assert validation_cost(model, task, days, CONFIG, 5) == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize(("scenarios", "together"), [(90, 450), (10, 400), (500, 500)])
def test_many_scenarios_make_chunks_of_fewer_days(
    task: TaskLoss, monkeypatch: pytest.MonkeyPatch, scenarios: int, together: int
) -> None:
    model, days = made()
    monkeypatch.setattr(validation, "_CHUNK", 450)
    sizes, sample = [], model.sample

    def noted(context: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        sizes.append(noise.shape[0] * noise.shape[1])
        return sample(context, noise)

    monkeypatch.setattr(model, "sample", noted)
    validation_cost(model, task, days, dataclasses.replace(CONFIG, validation_scenarios=scenarios), 5)
    assert max(sizes) == together
    assert sum(sizes) == 40 * scenarios


def test_one_seed_draws_the_same_for_two_models(task: TaskLoss) -> None:
    model, days = made(10)
    assert validation_cost(model, task, days, CONFIG, 5) == validation_cost(model, task, days, CONFIG, 5)
    assert validation_cost(model, task, days, CONFIG, 5) != validation_cost(model, task, days, CONFIG, 6)


def test_too_many_unsolved_days_are_no_cost(task: TaskLoss) -> None:
    model, days = made(10)
    realized = days.realized.clone()
    realized[:2] = torch.nan
    broken = dataclasses.replace(days, realized=realized)
    with pytest.raises(NotConvergedError, match="2 of 10 solves of validation failed"):
        validation_cost(model, task, broken, CONFIG, 5)
    allowed = dataclasses.replace(CONFIG, largest_unsolved_share=0.5)
    rest = Days(days.context[2:], days.whitened[2:], days.realized[2:])
    found = validation_cost(model, task, broken, allowed, 5)
    # Other scenarios for the same days: the draws are for all ten.
    assert found == pytest.approx(validation_cost(model, task, rest, CONFIG, 5), rel=0.2)
