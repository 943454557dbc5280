"""The flow of Gaussian data is known in closed form; both solvers are held against it.

For x_0 ~ N(m, s^2): x_t ~ N(cos(t) m, v(t)), v = cos^2 s^2 + sin^2, so
F(x, t) = E[cos z - sin x_0 | x] = -sin m + (cos sin (1 - s^2) / v) (x - cos m),
and the flow takes noise z to m + s z.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.samplers import STEPS, ddim_step, heun_step, integrate
from hedgecast.diffusion.schedule import sampling_times

MEAN, DEVIATION = 0.6, 0.4


def gaussian_flow(mean: float, deviation: float) -> Callable[[Tensor, float | Tensor], Tensor]:
    def velocity(state: Tensor, time: float | Tensor) -> Tensor:
        angle = torch.as_tensor(time, dtype=state.dtype)
        cos, sin = torch.cos(angle), torch.sin(angle)
        variance = cos**2 * deviation**2 + sin**2
        slope = cos * sin * (1 - deviation**2) / variance
        return -sin * mean + slope * (state - cos * mean)

    return velocity


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def error(name: str, num_steps: int) -> float:
    start = noise(500)
    end = integrate(STEPS[name], gaussian_flow(MEAN, DEVIATION), start, sampling_times(num_steps))
    return float((end - (MEAN + DEVIATION * start)).abs().max())


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_doubling_the_steps_divides_the_error_by_two_to_the_order(name: str, order: int) -> None:
    ratios = [error(name, steps) / error(name, 2 * steps) for steps in (32, 64)]
    assert ratios == pytest.approx([2.0**order] * 2, rel=0.15)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_moments_of_the_samples_are_those_of_the_data(name: str) -> None:
    count = 100_000
    samples = integrate(
        STEPS[name], gaussian_flow(MEAN, DEVIATION), noise(count, seed=1), sampling_times(200)
    )
    # Four standard errors of mean and deviation, and the solver's own error at 200 steps.
    slack = error(name, 200)
    assert float(samples.mean()) == pytest.approx(MEAN, abs=4 * DEVIATION / count**0.5 + slack)
    assert float(samples.std()) == pytest.approx(DEVIATION, abs=4 * DEVIATION / (2 * count) ** 0.5 + slack)


def test_standard_normal_data_need_one_step() -> None:
    start = noise(20)
    end = integrate(heun_step, gaussian_flow(0.0, 1.0), start, sampling_times(1))
    assert torch.equal(end, start)


def test_a_single_point_needs_one_step_of_ddim() -> None:
    # Data that are one number m: F = -sin m + cot (x - cos m), which keeps the noise; DDIM is exact.
    end = integrate(ddim_step, gaussian_flow(MEAN, 0.0), noise(20), sampling_times(1))
    torch.testing.assert_close(end, torch.full((20,), MEAN, dtype=torch.float64))


def bent(state: Tensor, time: float | Tensor) -> Tensor:
    return torch.tanh(state.roll(1, dims=-1)) * torch.as_tensor(time, dtype=state.dtype) - 0.3 * state


@pytest.mark.parametrize("name", sorted(STEPS))
def test_gradients_agree_with_finite_differences(name: str) -> None:
    start = noise(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: integrate(STEPS[name], bent, x, sampling_times(4)), (start,))


@pytest.mark.parametrize("name", sorted(STEPS))
@pytest.mark.parametrize("keep", [1, 2, 4, 9])
def test_truncation_changes_no_value_and_cuts_the_early_gradient(name: str, keep: int) -> None:
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def velocity(state: Tensor, time: float | Tensor) -> Tensor:
        return scale * bent(state, time)

    times, start = sampling_times(4), noise(2, 3)
    whole = integrate(STEPS[name], velocity, start, times)
    cut = integrate(STEPS[name], velocity, start, times, grad_steps=keep)
    assert torch.equal(whole, cut)
    # By hand: the early steps give a constant, from which the last ones start.
    begin = max(4 - keep, 0)
    with torch.no_grad():
        middle = integrate(STEPS[name], velocity, start, times[: begin + 1]) if begin else start
    by_hand = integrate(STEPS[name], velocity, middle, times[begin:])
    slopes = [torch.autograd.grad(end.sum(), scale)[0] for end in (cut, by_hand)]
    assert torch.equal(slopes[0], slopes[1])


def test_checkpoints_change_neither_values_nor_gradients() -> None:
    start = noise(2, 3).requires_grad_()
    stored, recomputed = (
        integrate(heun_step, bent, start, sampling_times(3), checkpointed=flag) for flag in (False, True)
    )
    assert torch.equal(stored, recomputed)
    slopes = [torch.autograd.grad(end.square().sum(), start)[0] for end in (stored, recomputed)]
    assert torch.equal(slopes[0], slopes[1])


def test_no_gradient_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="grad_steps = 0"):
        integrate(heun_step, bent, noise(1), sampling_times(2), grad_steps=0)
