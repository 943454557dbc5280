"""A backtest over days of 23, 24 and 25 hours against a loop by hand."""

from __future__ import annotations

import functools
import json

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError, DataError, ShapeError, SolveError
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.tables import SeriesTable
from hedgecast.data.windows import Windows, build_windows
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram
from hedgecast.regret.backtest import Backtest, backtest
from hedgecast.scenarios.scenario_set import ScenarioSet


def days_around(start: str, count: int) -> Windows:
    """Days of Berlin with a synthetic load."""
    times = np.datetime64(start, "ns") + np.arange((count + 1) * 24) * np.timedelta64(3600, "s").astype(
        "m8[ns]"
    )
    hour = np.arange(times.size)
    noise = np.random.default_rng(0).normal(size=times.size)
    table = SeriesTable(
        times=times,
        columns={"load": 5 + np.sin(hour / 24 * 2 * np.pi) + 0.3 * noise},
        units={"load": "GW"},
        timezone="Europe/Berlin",
        step_minutes=60,
        source="synthetic",
    )
    schema = FeatureSchema(
        timezone="Europe/Berlin", step_minutes=60, issue_minutes=0, history=24, horizon=24, targets=("load",)
    )
    return build_windows(table, schema)


@pytest.fixture(scope="module")
def spring() -> Windows:
    windows = days_around("2019-03-28T23:00", 6)
    assert sorted(set(windows.num_steps.tolist())) == [23, 24]
    return windows


def scenario_set(windows: Windows, paths: np.ndarray, source: str) -> ScenarioSet:
    return ScenarioSet(paths=torch.as_tensor(paths), names=("load",), units=("GW",), source=source)


def yesterday(windows: Windows, count: int) -> ScenarioSet:
    """Yesterday's slots, give or take Gaussian errors."""
    noise = np.random.default_rng(1).normal(size=(len(windows), count, 24, 1)) * 0.4
    return scenario_set(windows, windows.history[:, None] + noise, "yesterday")


def oracle(windows: Windows) -> ScenarioSet:
    """The day itself as the one scenario, by slot; a skipped slot may hold anything."""
    paths = np.nan_to_num(windows.slots)[:, None]
    return scenario_set(windows, paths, "oracle")


@functools.cache
def program_for(num_steps: int) -> TwoStageProgram:
    return build(num_steps, ramp_limit=0.5)


def run(windows: Windows, **changes: object) -> Backtest:
    methods = {"yesterday": yesterday(windows, 6), "oracle": oracle(windows)}
    return backtest(windows, methods, program_for, baseline="yesterday", **changes)  # type: ignore[arg-type]


def test_costs_are_those_of_a_loop_by_hand(spring: Windows) -> None:
    found = run(spring, batch_days=2)
    scenarios = yesterday(spring, 6)
    for row in range(len(spring)):
        _, slots = spring.steps_of(row)
        samples, real = scenarios.paths[row, :, slots, 0].numpy(), spring.realized(row)[:, 0]
        plan = cp.Variable(slots.size)
        costs = [
            50 * cp.sum(cp.pos(y - plan)) + 0.5 * cp.sum(cp.pos(plan - y)) + 0.5 * cp.sum_squares(plan - y)
            for y in samples
        ]
        problem = cp.Problem(cp.Minimize(sum(costs) / 6), [plan >= 0, cp.abs(cp.diff(plan)) <= 0.5])
        expected = problem.solve(solver=cp.CLARABEL)
        result = found.method("yesterday")
        assert result.expected[row] == pytest.approx(expected, rel=1e-5)
        chosen = result.decisions[row]
        assert chosen.size == slots.size
        short = real - chosen
        realized = 50 * short.clip(min=0) + 0.5 * (-short).clip(min=0) + 0.5 * short**2
        assert result.costs[row] == pytest.approx(realized.sum(), rel=1e-8)
        assert result.costs[row] == pytest.approx(cost_of(plan.value, real), rel=2e-3)


def cost_of(plan: np.ndarray, real: np.ndarray) -> float:
    short = real - plan
    return float((50 * short.clip(min=0) + 0.5 * (-short).clip(min=0) + 0.5 * short**2).sum())


def test_knowing_the_day_leaves_no_regret(spring: Windows) -> None:
    found = run(spring)
    assert found.method("oracle").costs == pytest.approx(found.best, rel=1e-3, abs=1e-3)
    assert np.all(found.method("yesterday").costs >= found.best - 1e-4)


def test_days_of_25_hours_repeat_a_slot() -> None:
    windows = days_around("2019-10-25T22:00", 4)
    found = run(windows)
    lengths = [decision.size for decision in found.method("yesterday").decisions]
    assert lengths == windows.num_steps.tolist()
    assert 25 in lengths


def test_batches_change_nothing(spring: Windows) -> None:
    one, all_at_once = run(spring, batch_days=1), run(spring, batch_days=64)
    for label in ("yesterday", "oracle"):
        assert one.method(label).costs == pytest.approx(all_at_once.method(label).costs, rel=1e-3, abs=1e-3)


def test_the_table_pairs_days_against_the_baseline(spring: Windows) -> None:
    found = run(spring)
    rows = {row.label: row for row in found.table(seed=0)}
    base, best = rows["yesterday"], rows["oracle"]
    assert base.is_baseline
    assert (base.difference.mean, base.difference.low, base.difference.high) == (0, 0, 0)
    assert best.difference.mean == pytest.approx(best.cost - base.cost)
    assert best.difference.high < 0
    assert base.regret == pytest.approx(base.cost - found.best.mean())
    assert found.table(seed=0) == found.table(seed=0)
    record = json.loads(json.dumps([row.to_dict() for row in found.table(seed=0)]))
    assert record[0]["num_scenarios"] == 6
    days = json.loads(json.dumps(found.records()))
    assert [day["day"] for day in days] == spring.days.astype(str).tolist()
    assert days[0]["regret"]["yesterday"] == pytest.approx(days[0]["cost"]["yesterday"] - days[0]["best"])


def test_progress_counts_every_day(spring: Windows) -> None:
    seen: list[tuple[str, int, int]] = []
    run(spring, batch_days=2, progress=lambda *step: seen.append(step))
    total = len(spring)
    for label in ("yesterday", "oracle"):
        done = [count for name, count, of in seen if name == label and of == total]
        assert done == sorted(done)
        assert done[-1] == total


def test_mistakes_are_named(spring: Windows) -> None:
    with pytest.raises(ConfigError, match="baseline 'ridge' is no method"):
        backtest(spring, {"oracle": oracle(spring)}, program_for, baseline="ridge")
    with pytest.raises(ShapeError, match="method 'oracle': paths have shape"):
        backtest(spring, {"oracle": oracle(spring.select(slice(0, 2)))}, program_for, baseline="oracle")
    with pytest.raises(DataError, match="no day to test on"):
        backtest(spring.select(slice(0, 0)), {}, program_for, baseline="oracle")
    bad = yesterday(spring, 3)
    bad.paths[1, 0, 5] = torch.nan
    with pytest.raises(SolveError, match=f"method 'bad', day {spring.days[1]}: invalid"):
        backtest(spring, {"bad": bad}, program_for, baseline="bad")
