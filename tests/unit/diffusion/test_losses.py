from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hedgecast.diffusion.losses import noise_matching_errors, weighted_mean
from hedgecast.diffusion.schedule import training_times

DOUBLE = torch.float64


def draws(count: int, mean: float, deviation: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = mean + deviation * torch.randn(count, 1, 1, dtype=DOUBLE, generator=generator)
    noise = torch.randn(count, 1, 1, dtype=DOUBLE, generator=generator)
    times = training_times((count, 1), log_mean=0.0, log_std=1.0, generator=generator, dtype=DOUBLE)
    return clean, noise, times


def best_velocity(state: Tensor, times: Tensor, mean: float, deviation: float) -> Tensor:
    angle = times.unsqueeze(-1)
    variance = torch.cos(angle) ** 2 * deviation**2 + torch.sin(angle) ** 2
    slope = torch.cos(angle) * torch.sin(angle) * (1 - deviation**2) / variance
    return -torch.sin(angle) * mean + slope * (state - torch.cos(angle) * mean)


def test_the_minimizer_on_gaussian_data_is_the_known_denoiser() -> None:
    # At one angle the velocity of N(m, s^2) is a line in x; least squares on the target must find it.
    count, mean, deviation, angle = 400_000, 0.7, 0.5, 0.9
    clean, noise, _ = draws(count, mean, deviation)
    times = torch.full((count, 1), angle, dtype=DOUBLE)
    line = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    errors = noise_matching_errors(lambda x, t: line[0] + line[1] * x, clean, noise, times)
    gradient = torch.autograd.grad(errors.mean(), line, create_graph=True)[0]
    curvature = torch.stack([torch.autograd.grad(g, line, retain_graph=True)[0] for g in gradient])
    found = -torch.linalg.solve(curvature, gradient.detach())
    variance = math.cos(angle) ** 2 * deviation**2 + math.sin(angle) ** 2
    slope = math.cos(angle) * math.sin(angle) * (1 - deviation**2) / variance
    intercept = -math.sin(angle) * mean - slope * math.cos(angle) * mean
    # Residual variance s^2 / v <= 0.3, spread of x is 0.8: a standard error is about 0.7 / sqrt(n).
    assert found.tolist() == pytest.approx([intercept, slope], abs=5 * 0.7 / count**0.5 * 2)


def test_the_least_loss_on_gaussian_data_is_the_known_one() -> None:
    # Var[v | x_t] = s^2 / v(t): what no denoiser can know.
    mean, deviation = 0.7, 0.5
    clean, noise, times = draws(200_000, mean, deviation)
    errors = noise_matching_errors(
        lambda x, t: best_velocity(x, t, mean, deviation), clean, noise, times
    ).flatten()
    variance = torch.cos(times) ** 2 * deviation**2 + torch.sin(times) ** 2
    difference = errors - (deviation**2 / variance).flatten()
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / len(difference) ** 0.5


def test_whitened_data_and_no_network_have_loss_one() -> None:
    clean, noise, times = draws(200_000, 0.0, 1.0)
    errors = noise_matching_errors(lambda x, t: torch.zeros_like(x), clean, noise, times)
    assert float(errors.mean()) == pytest.approx(1.0, abs=4 * float(errors.std()) / 200_000**0.5)


def test_weights_are_normalized_and_equal_ones_change_nothing() -> None:
    errors = torch.tensor([[1.0, 3.0], [5.0, 7.0]], dtype=DOUBLE)
    assert float(weighted_mean(errors, None)) == 4.0
    assert float(weighted_mean(errors, torch.full((2,), 9.0, dtype=DOUBLE))) == pytest.approx(4.0)
    assert float(weighted_mean(errors, torch.tensor([3.0, 1.0], dtype=DOUBLE))) == pytest.approx(3.0)
    assert float(weighted_mean(errors, torch.zeros(2, dtype=DOUBLE))) == 0.0
