"""The token bucket against its definition, on a clock that the test turns."""

from __future__ import annotations

import math

import numpy as np

from hedgecast.service.rates import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take(1.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(1.0) == 0.5
    clock.now = 0.5
    assert bucket.take(1.0) == 0.0
    assert bucket.take(1.0) == 0.5


def test_a_refusal_takes_nothing_and_its_delay_is_exact() -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, 100, clock)
    assert bucket.take(80.0) == 0.0
    for _ in range(5):
        assert bucket.take(50.0) == 3.0
    clock.now = 3.0
    assert bucket.take(50.0) == 0.0


def test_a_pause_never_fills_it_over_the_brim() -> None:
    clock = Clock()
    bucket = TokenBucket(5.0, 4, clock)
    clock.now = 1e9
    assert bucket.take(4.0) == 0.0
    assert bucket.take(1.0) > 0.0


def test_more_than_it_holds_is_never_granted() -> None:
    assert TokenBucket(1.0, 2, Clock()).take(2.5) == math.inf


def test_over_any_time_no_more_than_burst_and_rate_go_through() -> None:
    clock = Clock()
    bucket = TokenBucket(3.0, 7, clock)
    draws = np.random.default_rng(0)
    granted = 0.0
    for _ in range(5000):
        clock.now += float(draws.exponential(0.05))
        amount = float(draws.uniform(0.1, 2.0))
        if bucket.take(amount) == 0.0:
            granted += amount
        assert granted <= 7.0 + 3.0 * clock.now + 1e-6
    assert granted > 0.9 * 3.0 * clock.now, "and what is due is given"
