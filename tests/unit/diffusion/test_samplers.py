"""The flow of Gaussian data is known in closed form; both solvers are held against it.

For x_0 ~ N(m, s^2): x_t ~ N(cos(t) m, v(t)), v = cos^2 s^2 + sin^2, so
F(x, t) = E[cos z - sin x_0 | x] = -sin m + (cos sin (1 - s^2) / v) (x - cos m),
and the flow takes noise z to m + s z.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.samplers import (
    EVALUATIONS,
    MULTISTEPS,
    SOLVERS,
    Multistep,
    Past,
    Step,
    adams_step,
    ddim_step,
    first_step,
    heun_step,
    integrate,
)
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
    end = integrate(SOLVERS[name], gaussian_flow(MEAN, DEVIATION), start, sampling_times(num_steps))
    return float((end - (MEAN + DEVIATION * start)).abs().max())


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("adams", 2)])
def test_doubling_the_steps_divides_the_error_by_two_to_the_order(name: str, order: int) -> None:
    ratios = [error(name, steps) / error(name, 2 * steps) for steps in (32, 64)]
    assert ratios == pytest.approx([2.0**order] * 2, rel=0.15)


def test_dpm_is_of_second_order_where_its_clock_is_finite() -> None:
    # From 1.4 to 0.1: the exact flow of Gaussian data keeps (x - cos t m) / sqrt(v).
    start, flow = noise(500), gaussian_flow(MEAN, DEVIATION)

    def spread(time: float) -> float:
        return math.sqrt((math.cos(time) * DEVIATION) ** 2 + math.sin(time) ** 2)

    begin, end = 1.4, 0.1
    exact = math.cos(end) * MEAN + (start - math.cos(begin) * MEAN) * spread(end) / spread(begin)

    def distance(num_steps: int) -> float:
        times = [begin + (end - begin) * step / num_steps for step in range(num_steps + 1)]
        return float((integrate(MULTISTEPS["dpm"], flow, start, times) - exact).abs().max())

    assert [distance(n) / distance(2 * n) for n in (64, 128)] == pytest.approx([4.0, 4.0], rel=0.1)


def test_dpm_over_the_whole_interval_is_of_second_order_up_to_a_logarithm() -> None:
    assert error("dpm", 128) / error("dpm", 1024) > 8.0**2 * 0.5


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_moments_of_the_samples_are_those_of_the_data(name: str) -> None:
    count = 100_000
    samples = integrate(
        SOLVERS[name], gaussian_flow(MEAN, DEVIATION), noise(count, seed=1), sampling_times(200)
    )
    # Four standard errors of mean and deviation, and the solver's own error at 200 steps.
    slack = error(name, 200)
    assert float(samples.mean()) == pytest.approx(MEAN, abs=4 * DEVIATION / count**0.5 + slack)
    assert float(samples.std()) == pytest.approx(DEVIATION, abs=4 * DEVIATION / (2 * count) ** 0.5 + slack)


@pytest.mark.parametrize(("name", "num_steps"), [("heun", 1), ("adams", 1), ("adams", 3)])
def test_standard_normal_data_need_one_step(name: str, num_steps: int) -> None:
    start = noise(20)
    end = integrate(SOLVERS[name], gaussian_flow(0.0, 1.0), start, sampling_times(num_steps))
    assert torch.equal(end, start)


@pytest.mark.parametrize(("name", "num_steps"), [("ddim", 1), ("dpm", 1), ("dpm", 3)])
def test_a_single_point_needs_one_step_of_ddim(name: str, num_steps: int) -> None:
    # Data that are one number m: F = -sin m + cot (x - cos m), which keeps the noise; DDIM is exact.
    end = integrate(SOLVERS[name], gaussian_flow(MEAN, 0.0), noise(20), sampling_times(num_steps))
    torch.testing.assert_close(end, torch.full((20,), MEAN, dtype=torch.float64))


@pytest.mark.parametrize("deviation", [0.8, 1.3])
@pytest.mark.parametrize("evaluations", [6, 8, 10])
def test_of_second_order_adams_is_nearest_at_few_velocities_where_data_are_nearly_normal(
    deviation: float, evaluations: int
) -> None:
    start, flow = noise(500), gaussian_flow(0.2, deviation)

    def distance(name: str) -> float:
        times = sampling_times(evaluations // EVALUATIONS[name])
        return float((integrate(SOLVERS[name], flow, start, times) - (0.2 + deviation * start)).abs().max())

    assert distance("adams") < 0.8 * min(distance("heun"), distance("dpm"), distance("ddim"))


def test_dpm_takes_the_published_step() -> None:
    # Algorithm 2 of Lu et al. (2022) as written there, in alpha = cos, sigma = sin.
    flow, times, start = gaussian_flow(MEAN, DEVIATION), (1.3, 0.9, 0.4), noise(20)
    alpha, sigma = [math.cos(time) for time in times], [math.sin(time) for time in times]
    clock = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    h1, h2 = clock[1] - clock[0], clock[2] - clock[1]
    data = [alpha[0] * start - sigma[0] * flow(start, times[0])]
    middle = sigma[1] / sigma[0] * start - alpha[1] * math.expm1(-h1) * data[0]
    data.append(alpha[1] * middle - sigma[1] * flow(middle, times[1]))
    ratio = h1 / h2
    line = (1.0 + 1.0 / (2.0 * ratio)) * data[1] - 1.0 / (2.0 * ratio) * data[0]
    expected = sigma[2] / sigma[1] * middle - alpha[2] * math.expm1(-h2) * line
    torch.testing.assert_close(integrate(MULTISTEPS["dpm"], flow, start, times), expected)


def test_a_line_of_velocities_is_followed_exactly_in_unequal_steps() -> None:
    times = (1.5, 1.0, 0.8, 0.1)
    state = noise(5)
    past: Past = (1.5, torch.full((5,), 2.0 + 1.5, dtype=torch.float64))
    for now, following in itertools.pairwise(times[1:]):
        state, past = adams_step(lambda x, t: torch.full_like(x, 2.0 + float(t)), state, now, following, past)
    # The integral of 2 + t from 1 to 0.1.
    torch.testing.assert_close(state, noise(5) - (2.0 * 0.9 + 0.5 * (1.0 - 0.01)))


def test_without_a_past_a_step_is_of_first_order() -> None:
    assert (first_step("adams"), first_step("dpm")) == (SOLVERS["euler"], ddim_step)
    start, flow = noise(7), gaussian_flow(MEAN, DEVIATION)
    for name, solver in MULTISTEPS.items():
        torch.testing.assert_close(
            integrate(solver, flow, start, (1.2, 0.7)), first_step(name)(flow, start, 1.2, 0.7)
        )


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_a_solver_asks_for_as_many_velocities_as_it_says(name: str) -> None:
    asked: list[float] = []

    def velocity(state: Tensor, time: float | Tensor) -> Tensor:
        asked.append(float(time))
        return -state

    integrate(SOLVERS[name], velocity, noise(2), sampling_times(5))
    assert len(asked) == 5 * EVALUATIONS[name]


def test_dpm_is_finite_at_both_ends_in_float32() -> None:
    end = integrate(MULTISTEPS["dpm"], gaussian_flow(MEAN, DEVIATION), noise(4).float(), sampling_times(4))
    assert end.dtype == torch.float32
    assert bool(end.isfinite().all())


def bent(state: Tensor, time: float | Tensor) -> Tensor:
    return torch.tanh(state.roll(1, dims=-1)) * torch.as_tensor(time, dtype=state.dtype) - 0.3 * state


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_gradients_agree_with_finite_differences(name: str) -> None:
    start = noise(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: integrate(SOLVERS[name], bent, x, sampling_times(4)), (start,))


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("keep", [1, 2, 4, 9])
def test_truncation_changes_no_value_and_cuts_the_early_gradient(name: str, keep: int) -> None:
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def velocity(state: Tensor, time: float | Tensor) -> Tensor:
        return scale * bent(state, time)

    times, start = sampling_times(4), noise(2, 3)
    whole = integrate(SOLVERS[name], velocity, start, times)
    cut = integrate(SOLVERS[name], velocity, start, times, grad_steps=keep)
    assert torch.equal(whole, cut)
    if name in MULTISTEPS:
        # The last steps also read what the early ones left; that is a constant, too.
        (slope,) = torch.autograd.grad(cut.sum(), scale)
        assert float(slope) == pytest.approx(_by_differences(name, start, keep), rel=1e-6)
        return
    # By hand: the early steps give a constant, from which the last ones start.
    begin = max(4 - keep, 0)
    with torch.no_grad():
        middle = integrate(SOLVERS[name], velocity, start, times[: begin + 1]) if begin else start
    by_hand = integrate(SOLVERS[name], velocity, middle, times[begin:])
    slopes = [torch.autograd.grad(end.sum(), scale)[0] for end in (cut, by_hand)]
    assert torch.equal(slopes[0], slopes[1])


def _by_differences(name: str, start: Tensor, keep: int) -> float:
    """Slope of the sum of the ends in the scale of the last ``keep`` velocities alone."""

    def end(change: float) -> float:
        calls = iter(range(4))

        def velocity(state: Tensor, time: float | Tensor) -> Tensor:
            return (1.3 + (change if next(calls) >= 4 - keep else 0.0)) * bent(state, time)

        return float(integrate(SOLVERS[name], velocity, start, sampling_times(4)).sum())

    return (end(1e-6) - end(-1e-6)) / 2e-6


@pytest.mark.parametrize("solver", [heun_step, *MULTISTEPS.values()])
def test_checkpoints_change_neither_values_nor_gradients(solver: Step | Multistep) -> None:
    start = noise(2, 3).requires_grad_()
    stored, recomputed = (
        integrate(solver, bent, start, sampling_times(3), checkpointed=flag) for flag in (False, True)
    )
    assert torch.equal(stored, recomputed)
    slopes = [torch.autograd.grad(end.square().sum(), start)[0] for end in (stored, recomputed)]
    assert torch.equal(slopes[0], slopes[1])


def test_no_gradient_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="grad_steps = 0"):
        integrate(heun_step, bent, noise(1), sampling_times(2), grad_steps=0)
