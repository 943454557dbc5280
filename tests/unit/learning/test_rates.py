from __future__ import annotations

import itertools
import math

import pytest
import torch

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.rates import rate_factor


def curve(steps: int, **changes: object) -> list[float]:
    config = LearningConfig.from_dict(dict(changes))
    return [rate_factor(config, step, steps) for step in range(steps + 1)]


def test_the_cosine_is_torch_s() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    expected = []
    for _ in range(21):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert curve(20) == pytest.approx(expected, abs=1e-12)


def test_a_warm_up_rises_to_one_and_the_fall_ends_at_zero() -> None:
    for schedule in ("cosine", "linear"):
        found = curve(20, rate_schedule=schedule, warmup_steps=5)
        assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
        assert all(a > b for a, b in itertools.pairwise(found[5:]))
        assert found[-1] == pytest.approx(0.0, abs=1e-12)
    assert curve(20, rate_schedule="linear")[5] == pytest.approx(0.75)
    assert curve(20)[10] == pytest.approx(0.5)


def test_a_constant_rate_stays() -> None:
    assert curve(6, rate_schedule="constant") == [1.0] * 7


def test_steps_beyond_the_last_have_rate_zero() -> None:
    config = LearningConfig()
    assert rate_factor(config, 30, 20) == pytest.approx(0.0, abs=1e-12)
    assert rate_factor(config, 0, 0) == 1.0
    # More steps of warming up than steps: it never falls.
    assert math.isclose(rate_factor(LearningConfig(warmup_steps=10), 9, 5), 1.0)
