"""Decisions and outcomes to keep."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hedgecast.outcomes import DecisionRecord, OutcomeRecord, band_of

NOW = datetime.datetime(2030, 6, 1, 12, 0, tzinfo=datetime.UTC)
LEVELS = np.array([0.05, 0.5, 0.95])


@pytest.fixture
def now() -> datetime.datetime:
    return NOW


@pytest.fixture
def decided() -> Callable[..., DecisionRecord]:
    """Makes the decision of a number, with any field changed."""

    def make(number: int = 1, **changes: Any) -> DecisionRecord:
        paths = np.random.default_rng(number).normal(50.0, 5.0, (99, 4, 2))
        fields: dict[str, Any] = {
            "decision_id": f"d-{number}",
            "request_id": f"r-{number}",
            "principal": "planner",
            "model": "power",
            "model_version": "3",
            "program": "scheduling",
            "program_version": "1",
            "fingerprint": f"f-{number}",
            "seed": number,
            "issued_at": NOW + datetime.timedelta(days=number),
            "risk": "cvar(0.9)",
            "given": {"price": np.array([1.0, 2.0]), "cap": np.array(3.0)},
            "decision": {"order": np.arange(4.0) + number, "on": np.zeros((2, 2))},
            "expected_cost": 100.0 + number,
            "expected_regret": 5.0,
            "cost": band_of(paths.sum(axis=(1, 2)), LEVELS),
            "bands": {"load": band_of(paths, LEVELS)},
        }
        return DecisionRecord(**(fields | changes))

    return make


@pytest.fixture
def happened() -> Callable[..., OutcomeRecord]:
    """Makes an outcome of a decision; ``value`` is what came true at each point."""

    def make(decision: DecisionRecord, value: float = 50.0, **changes: Any) -> OutcomeRecord:
        fields: dict[str, Any] = {
            "realized": {"load": np.full((4, 2), value)},
            "cost": 101.5,
            "regret": 2.5,
            "recorded_at": decision.issued_at + datetime.timedelta(days=1),
            "request_id": f"o-{decision.decision_id}",
            "principal": "meter",
        }
        return OutcomeRecord.of(decision, **(fields | changes))

    return make
