from __future__ import annotations

import math

import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.schedule import (
    denoised,
    noised,
    sampling_times,
    training_times,
    velocity_target,
)


def test_sampling_times_run_from_noise_to_data_in_equal_steps() -> None:
    times = torch.tensor(sampling_times(5), dtype=torch.float64)
    assert float(times[0]) == math.pi / 2
    assert float(times[-1]) == 0.0
    torch.testing.assert_close(times.diff(), torch.full((5,), -math.pi / 10, dtype=torch.float64))


def test_no_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        sampling_times(0)


def test_the_ends_are_data_and_noise() -> None:
    clean, noise = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(noised(clean, noise, torch.zeros(4, dtype=torch.float64)), clean)
    torch.testing.assert_close(
        noised(clean, noise, torch.full((4,), math.pi / 2, dtype=torch.float64)), noise
    )


def test_the_true_velocity_denoises_exactly() -> None:
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator)
    times = torch.rand(6, dtype=torch.float64, generator=generator) * math.pi / 2
    state, velocity = noised(clean, noise, times), velocity_target(clean, noise, times)
    torch.testing.assert_close(denoised(state, velocity, times), clean)


def test_the_velocity_is_the_derivative_of_the_state() -> None:
    clean, noise = torch.randn(2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    time = torch.tensor([0.7], dtype=torch.float64)
    slope = (noised(clean, noise, time + 1e-6) - noised(clean, noise, time - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, velocity_target(clean, noise, time), rtol=1e-8, atol=1e-8)


def test_training_times_are_lognormal_and_stratified() -> None:
    count, mean, std = 4096, -0.4, 1.4
    times = training_times(
        (64, 64),
        log_mean=mean,
        log_std=std,
        generator=torch.Generator().manual_seed(3),
        dtype=torch.float64,
    )
    assert times.shape == (64, 64)
    assert bool(((times > 0) & (times < math.pi / 2)).all())
    logs = torch.log(torch.tan(times)).flatten()
    # One draw in each of n strata: each quantile is within 1/n of its place.
    ranks = torch.special.ndtr((logs.sort().values - mean) / std)
    places = torch.arange(count, dtype=torch.float64)
    assert bool((ranks >= places / count - 1e-6).all())
    assert bool((ranks <= (places + 1) / count + 1e-6).all())


def test_equal_generators_give_equal_times() -> None:
    first, second = (
        training_times((5, 3), log_mean=0.0, log_std=1.0, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert torch.equal(first, second)
