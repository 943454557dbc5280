"""Plans of a caller's against each other: closed form, common scenarios, what is broken is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy import stats

from hedgecast.client import Client
from hedgecast.core.errors import InputError, ShapeError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.evaluate import paired
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.settings import ServiceSettings

STEPS = 6


@pytest.fixture
def client(local_backend: LocalBackend) -> Iterator[Client]:
    with background_server(local_backend, ServiceSettings(port=0)) as address, Client(address) as client:
        yield client


def test_plans_are_ranked_with_the_intervals_of_their_paired_costs(
    client: Client, rows: NamedRows, local_model: LocalModel
) -> None:
    ask = {"history": rows.columns, "history_times": rows.times, "seed": 5}
    mean = rows.columns["load"][-STEPS:]
    plans = {
        "high": {"schedule": mean + 5.0},
        "near": {"schedule": mean + 0.25},
        "negative": {"schedule": mean - 100.0},
    }
    found = client.evaluate("last_day", plans, **ask, scenario_count=300, confidence=0.9)
    assert [plan.label for plan in found.plans] == ["near", "high", "negative"]
    near, high, negative = found.plans
    # The best plan is made on scenarios 0 to 299 and all are compared on 300 to 599.
    drawn = local_model.draw(local_model.model.source.read(rows, rows), 300, 5, 300)[..., 0].astype(float)

    def costs(schedule: np.ndarray) -> np.ndarray:
        return (50 * np.maximum(drawn - schedule, 0) + 0.5 * np.maximum(schedule - drawn, 0)).sum(axis=1)

    best = costs(found.best_decision["schedule"])
    for plan in (near, high):
        values = costs(plans[plan.label]["schedule"])
        assert plan.expected_cost == pytest.approx(values.mean(), rel=1e-6)
        assert plan.expected_regret == pytest.approx(values.mean(), rel=1e-6)
        interval = stats.ttest_rel(values, best).confidence_interval(0.9)
        assert plan.above_best is not None
        assert plan.above_best.mean == pytest.approx((values - best).mean(), rel=1e-5, abs=1e-6)
        assert plan.above_best.lower_bound == pytest.approx(interval.low, rel=1e-5, abs=1e-6)
        assert plan.above_best.upper_bound == pytest.approx(interval.high, rel=1e-5, abs=1e-6)
    assert high.above_leader is not None
    assert high.above_leader.certain
    assert near.above_leader is not None
    assert (near.above_leader.mean, near.above_leader.standard_error) == (0.0, 0.0)
    assert not negative.feasible
    assert [violation.constraint for violation in negative.violations] == ["0.0 <= schedule"]
    assert negative.violations[0].amount == pytest.approx(100.0 - mean.min(), rel=1e-6)
    assert found.best.feasible
    assert found.scenario_count == 300


def test_on_own_scenarios_and_their_weights(client: Client, rows: NamedRows) -> None:
    decided = client.decide(
        "last_day", history=rows.columns, history_times=rows.times, scenario_count=20, return_scenarios=True
    )
    assert decided.scenarios is not None
    weights = np.linspace(1.0, 2.0, 20)
    own = dataclasses.replace(decided.scenarios, probabilities=weights / weights.sum())
    plan = {"schedule": decided.decision["schedule"]}
    found = client.evaluate("last_day", {"mine": plan}, own_scenarios=own)
    short = np.maximum(own.paths[..., 0] - plan["schedule"], 0)
    long = np.maximum(plan["schedule"] - own.paths[..., 0], 0)
    cost = own.probabilities @ (50 * short + 0.5 * long).sum(axis=1)
    assert found.plans[0].expected_cost == pytest.approx(cost, rel=1e-6)
    # The best of these very scenarios cannot be worse on them.
    assert found.best.expected_cost <= cost + 1e-6


def test_what_leaves_a_scenario_without_recourse_is_named(local_model: LocalModel, rows: NamedRows) -> None:
    schedule, load = cp.Variable(STEPS, name="schedule"), cp.Parameter(STEPS, name="load")
    extra = cp.Variable(STEPS, name="extra")
    program = TwoStageProgram(
        name="limited", decision=schedule, uncertain=load, constraints=[schedule >= 0], cost=cp.sum(schedule),
        recourse_cost=3 * cp.sum(extra),
        recourse_constraints=[extra >= 0, extra <= 1.0, schedule + extra >= load],
    )  # fmt: skip
    model = dataclasses.replace(local_model.model, program=lambda _: program)
    backend = LocalBackend([dataclasses.replace(local_model, model=model)])
    level = float(rows.columns["load"][-STEPS:].max())
    with background_server(backend, ServiceSettings(port=0)) as address, Client(address) as client:
        plans = {"low": {"schedule": np.full(STEPS, 1.0)}, "high": {"schedule": np.full(STEPS, level + 1.0)}}
        found = client.evaluate(
            "last_day", plans, history=rows.columns, history_times=rows.times, scenario_count=10
        )
        worst = client.evaluate(
            "last_day", plans, history=rows.columns, history_times=rows.times, scenario_count=10, risk="worst"
        )
    backend.close()
    for plan in worst.plans:
        # Infinite where a scenario has no recourse, never NaN, which ranks and compares as nothing.
        assert np.isinf(plan.objective) == (plan.label == "low")
    high, low = found.plans
    assert (high.label, high.feasible) == ("high", True)
    assert not low.feasible
    assert {violation.constraint for violation in low.violations} == {
        "extra <= 1.0",
        "load <= schedule + extra",
    }
    assert {violation.scenarios for violation in low.violations} == {10}
    assert low.above_best is None
    assert np.isinf(low.expected_cost)


def test_bad_plans_are_refused(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times}
    right = np.zeros(STEPS)
    for plans, error, message in (
        ({}, InputError, "has 0 plans"),
        ({"": {"schedule": right}}, InputError, "1 to 64 characters"),
        ({"a": {"shedule": right}}, ShapeError, "did you mean 'schedule'"),
        ({"a": {"schedule": right[:3]}}, ShapeError, r"shape \[3\]: newsvendor needs \[6\]"),
        ({"a": {}}, ShapeError, "lacks 'schedule'"),
    ):
        with pytest.raises(error, match=message):
            client.evaluate("last_day", plans, **ask)
    with pytest.raises(InputError, match="half the limit"):
        client.evaluate("last_day", {"a": {"schedule": right}}, **ask, scenario_count=5001)


def test_intervals_of_paired_differences() -> None:
    ones = torch.full((4,), 0.25, dtype=torch.float64)
    found = paired(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), ones, 0.95)
    assert found is not None
    low, high = stats.ttest_1samp([1, 2, 3, 4], 0).confidence_interval(0.95)
    assert (found.lower_bound, found.upper_bound) == (pytest.approx(low), pytest.approx(high))
    assert paired(torch.tensor([1.0, torch.inf, 0.0, 0.0], dtype=torch.float64), ones, 0.95) is None
    single = paired(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0.95)
    assert single is not None
    assert (single.lower_bound, single.upper_bound) == (-np.inf, np.inf)
