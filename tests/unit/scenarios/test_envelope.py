"""What lies outside the training days, by hand."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.scenarios.envelope import (
    Envelope,
    SafetyConfig,
    context_findings,
    envelope_of,
    history_findings,
    run_lengths,
    scenario_findings,
)

NOON = np.datetime64("2030-01-01T12:00", "ns")
NOW = datetime.datetime(2030, 1, 1, 14, tzinfo=datetime.UTC)


@pytest.fixture
def envelope() -> Envelope:
    generator = np.random.default_rng(0)
    history = np.array([[1.0, 1.0, 2.0, 2.0, 2.0, 3.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    return envelope_of(
        {"load_1": np.array([10.0, 20.0]), "always": np.array([3.0, 3.0])},
        {"load": history},
        {"load": generator.uniform(0.0, 10.0, (2, 6))},
        {"load": np.array([1.0, 2.0])},
    )


def test_runs_are_the_longest_of_each_row() -> None:
    rows = np.array([[1, 1, 1, 2, 2], [1, 2, 3, 4, 5], [7, 7, 7, 7, 7]], float)
    assert run_lengths(rows).tolist() == [3, 1, 5]


def test_it_survives_a_file(envelope: Envelope) -> None:
    assert Envelope.from_dict(envelope.to_dict()) == envelope
    assert envelope.longest_runs == (3,)


def test_a_context_may_leave_the_range_by_the_margin(envelope: Envelope) -> None:
    for value, found in ((21.0, 0), (21.1, 1), (9.0, 0), (8.9, 1), (np.nan, 1)):
        context = np.array([value, 3.0])
        assert len(list(context_findings(envelope, context, 0.1))) == found
    (finding,) = context_findings(envelope, np.array([15.0, 3.5]), 0.1)
    assert finding.reason == "CONTEXT_OUTSIDE_TRAINING"
    assert "1 of 2 features" in finding.message
    assert "always is 3.5, seen 3 to 3" in finding.message
    # Rounding is no departure.
    assert not list(context_findings(envelope, np.array([15.0, 3.0 + 1e-12]), 0.0))


def test_a_history_may_be_too_old_or_stand_still(envelope: Envelope) -> None:
    moving = {"load": np.arange(20.0)}

    def findings(columns: dict[str, np.ndarray], hours: float) -> list[str]:
        found = history_findings(envelope, columns, NOON, now=NOW, max_age_hours=hours)
        return [finding.message for finding in found]

    assert findings(moving, 0.0) == []
    assert findings(moving, 2.0) == []
    assert findings(moving, 1.5) == ["the last row of history is 2.0 h old, allowed are 1.5 h"]
    # Three in training: ten may be, eleven may not.
    for run, count in ((10, 0), (11, 1)):
        still = {"load": np.concatenate([np.arange(9.0), np.full(run, 50.0)])}
        assert len(findings(still, 0.0)) == count
    assert "stood at 50 for the last 20 steps" in findings({"load": np.full(20, 50.0)}, 0.0)[0]


def test_scenarios_must_be_finite_near_and_of_some_width(envelope: Envelope) -> None:
    generator = np.random.default_rng(1)
    good = (5.0 + 1.5 * generator.normal(size=(100, 6, 1))).astype(np.float32)
    assert not list(scenario_findings(envelope, good))
    broken = good.copy()
    broken[3, 2] = np.nan
    assert "1 of 600 entries are not finite" in next(scenario_findings(envelope, broken)).message
    far = good.copy()
    far[7, 0] = 60.0
    assert "in 1 of 100 scenarios" in next(scenario_findings(envelope, far)).message
    collapsed = 5.0 + 0.2 * (good - 5.0)
    assert "spread by 0.28" in next(scenario_findings(envelope, collapsed)).message
    # Of a few scenarios the spread is too uncertain to be held against anything.
    assert not list(scenario_findings(envelope, collapsed[:19]))


def test_negative_margins_are_refused() -> None:
    for values in ({"margin": -0.1}, {"max_age_hours": -1.0}, {"margin": float("nan")}):
        with pytest.raises(ConfigError, match="must not be negative"):
            SafetyConfig(**values)
    with pytest.raises(ConfigError):
        SafetyConfig.from_dict({"context": "ignore"})
