"""A Gaussian whose spread depends on the context, which whitening is kept from seeing: the flow must bend."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.whitening import Whitening
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.distillation import (
    DistillConfig,
    Distilled,
    distill,
    distillation_loss,
    energy_distance,
    student_of,
)
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.part import Part

SLOTS = 3
LEARNING = LearningConfig(
    generator=Generator.Config(
        denoiser=Denoiser.Config(hidden=32, num_blocks=2, encoding=8),
        whitening=Whitening.Config(gap_days=0, conditional_size=False, marginals="normal"),
    ),
    epochs=30,
    batch_days=100,
    samples_per_day=8,
    ema_decay=0.9,
    learning_rate=5e-3,
)


def spread(context: Tensor) -> Tensor:
    return torch.exp(0.9 * torch.tanh(context[:, 1:]))


def part(rows: int, first: int, seed: int) -> Part:
    draws = torch.Generator().manual_seed(seed)
    context = torch.randn(rows, 2, dtype=torch.float64, generator=draws)
    noise = torch.randn(rows, SLOTS, dtype=torch.float64, generator=draws)
    return Part.of_arrays(context, 20 + context[:, :1] + spread(context) * noise, first_row=first)


@pytest.fixture(scope="module")
def days() -> tuple[Part, Part, Part]:
    return part(1200, 0, 0), part(200, 1200, 1), part(200, 1400, 2)


@pytest.fixture(scope="module")
def teacher(days: tuple[Part, Part, Part]) -> Generator:
    return fit_diffusion(days[0], days[1], LEARNING, None)["diffusion"].generator


@pytest.fixture(scope="module")
def students(days: tuple[Part, Part, Part], teacher: Generator) -> dict[int, Distilled]:
    return {
        steps: distill(
            teacher,
            days[0].context,
            days[1].context,
            DistillConfig(steps=steps, epochs=15, learning_rate=5e-3, pool_per_day=64),
            LEARNING,
        )
        for steps in (1, 2)
    }


def distance_to_truth(model: Generator, days: Part) -> Tensor:
    """(B,) energy distance of each day to the exact law; 200 draws of each, the same for every model."""
    draws = torch.Generator().manual_seed(7)
    noise = torch.randn(len(days), 200, SLOTS, generator=draws)
    truth = torch.randn(len(days), 200, SLOTS, generator=draws, dtype=torch.float64)
    exact = 20 + days.context[:, None, :1] + spread(days.context)[:, None] * truth
    with torch.no_grad():
        return energy_distance(model.sample(days.context, noise).flatten(2).double(), exact)


def test_a_student_is_nearer_the_truth_than_its_teacher_in_one_step(
    days: tuple[Part, Part, Part], teacher: Generator, students: dict[int, Distilled]
) -> None:
    gain = distance_to_truth(student_of(teacher, 1), days[2]) - distance_to_truth(
        students[1].generator, days[2]
    )
    # Paired over 200 days that nobody has seen: more than four standard errors above zero.
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(len(gain))


@pytest.mark.parametrize("steps", [1, 2])
def test_scenario_i_of_a_student_is_scenario_i_of_its_teacher(
    days: tuple[Part, Part, Part], teacher: Generator, students: dict[int, Distilled], steps: int
) -> None:
    noise = torch.randn(200, 50, SLOTS, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        goal = teacher.sample_whitened(days[2].context, noise)
        off = students[steps].generator.sample_whitened(days[2].context, noise) - goal
        undistilled = student_of(teacher, steps).sample_whitened(days[2].context, noise) - goal
    assert float(off.square().mean()) < 0.1 * float(undistilled.square().mean())
    assert students[steps].noise_mismatch < 0.15
    assert students[steps].generator.config.evaluations == steps < teacher.config.evaluations


def test_a_student_is_a_pure_function_of_each_context_and_noise(
    days: tuple[Part, Part, Part], students: dict[int, Distilled]
) -> None:
    model, context = students[2].generator, days[2].context
    noise = torch.randn(3, 10, SLOTS, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        whole = model.sample(context[:3], noise)
        alone = model.sample(context[1:2], noise[1:2, :4])
    torch.testing.assert_close(whole[1:2, :4], alone, rtol=1e-5, atol=1e-5)


def test_training_lowers_the_loss_and_leaves_the_teacher_alone(
    days: tuple[Part, Part, Part], teacher: Generator
) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    config = DistillConfig(steps=1, epochs=2, pool_per_day=16, learning_rate=5e-3)
    seen: list[tuple[str, int, int]] = []
    first, again = (
        distill(
            teacher,
            days[0].context,
            days[1].context,
            config,
            LEARNING,
            lambda phase, done, total, text: seen.append((phase, done, total)),
        )
        for _ in range(2)
    )
    assert first.curve.scores[-1] < first.curve.scores[0]
    assert seen == [("distillation", 1, 2), ("distillation", 2, 2)] * 2
    # The same seed gives the same student, bit for bit.
    for name, value in first.generator.state_dict().items():
        assert torch.equal(value, again.generator.state_dict()[name]), name
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_epochs_a_student_is_its_teacher_in_fewer_steps(
    days: tuple[Part, Part, Part], teacher: Generator
) -> None:
    config = DistillConfig(steps=3, epochs=0, pool_per_day=16)
    found = distill(teacher, days[0].context, days[1].context, config, LEARNING)
    noise = torch.randn(2, 4, SLOTS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = student_of(teacher, 3).sample(days[2].context[:2], noise)
        assert torch.equal(found.generator.sample(days[2].context[:2], noise), plain)
    assert found.report()["student_evaluations"] == 3
    assert found.report()["distillation_best_epoch"] == 0


def test_the_energy_distance_of_two_normals_is_the_closed_form() -> None:
    # In one dimension, N(0, 1) against N(m, 1): 2 E|X - Y| - 2 E|X - X'| with E|N(m, s^2)| known.
    shift, num_days, count = 0.7, 400, 60
    draws = torch.Generator().manual_seed(3)
    noise = torch.randn(num_days, count, 1, dtype=torch.float64, generator=draws)
    folded = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    expected = 2 * (folded - 2 / math.sqrt(math.pi))
    # The partner of each is as dependent as can be: the same noise, shifted.
    found = energy_distance(noise, noise + shift)
    error = float(found.std()) / math.sqrt(num_days)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * error)
    assert error < 0.02


def test_equal_scenarios_have_no_loss_and_no_slope() -> None:
    paths = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    student = paths.clone().requires_grad_()
    loss = distillation_loss(student, paths, 1.0)
    (slope,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(slope.abs().max()) < 1e-12


def test_gradients_of_the_loss_agree_with_finite_differences() -> None:
    draws = torch.Generator().manual_seed(5)
    student = torch.randn(2, 4, 3, dtype=torch.float64, generator=draws).requires_grad_()
    teacher = torch.randn(2, 4, 3, dtype=torch.float64, generator=draws)
    assert torch.autograd.gradcheck(lambda paths: distillation_loss(paths, teacher, 0.7), (student,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "distill.steps = 0: must be 1 to 4"),
        ({"steps": 5}, "for more take the sampler 'adams'"),
        ({"samples_per_day": 1}, "a distance needs at least 2"),
        ({"pool_per_day": 8}, "the pool must hold them"),
        ({"epochs": -1}, "distill.epochs = -1"),
        ({"learning_rate": 0.0}, "the rate must be positive"),
        ({"score_weight": math.nan}, "the weight not negative"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(DistillConfig(), **changes)


def test_contexts_of_another_width_are_refused(days: tuple[Part, Part, Part], teacher: Generator) -> None:
    with pytest.raises(ShapeError, match=r"validation contexts have shape \(200, 1\): must be \(days, 2\)"):
        distill(teacher, days[0].context, days[1].context[:, :1], DistillConfig(), LEARNING)
