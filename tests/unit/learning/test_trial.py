from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.part import Part
from hedgecast.learning.task import Task
from hedgecast.learning.trial import Trial, realism_figures, run_trial
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.scenarios.scenario_set import ScenarioSet


def arrays(rows: int, first: int) -> Part:
    draws = np.random.default_rng(first)
    context = draws.normal(size=(rows, 3))
    targets = 10 + context[:, :1] + draws.normal(size=(rows, 4))
    return Part.of_arrays(context, targets, first_row=first)


@pytest.fixture(scope="module")
def task() -> Task:
    test = arrays(30, 360)
    program = build(4, ramp_limit=1e3)
    return Task(
        train=arrays(300, 0),
        validation=arrays(60, 300),
        test=test,
        test_days=test,
        program_for=lambda _: program,
        config=LearningConfig(epochs=1, joint_epochs=1, scenarios=10, smoothing=1e-2),
    )


@pytest.fixture(scope="module")
def trial(task: Task) -> Trial:
    return run_trial(task, "ridge-residual", seed=3, counts=(10, 40))


def test_a_trial_holds_what_was_asked_for(trial: Trial) -> None:
    assert list(trial.tested) == [10, 40]
    assert [found.num_scenarios for found in trial.tested.values()] == [10, 40]
    assert trial.best.shape == trial.tested[10].costs.shape == (30,)
    # Knowing the day costs nothing here, and more scenarios of a right law cost less.
    assert float(np.abs(trial.best).max()) < 1e-4
    assert trial.tested[40].costs.mean() < trial.tested[10].costs.mean()
    assert 0 < trial.memory_mib["before"] <= trial.memory_mib["peak"]


def test_equal_seeds_give_equal_costs(task: Task, trial: Trial) -> None:
    again, other = (run_trial(task, "ridge-residual", seed=seed, counts=(10,)) for seed in (3, 4))
    np.testing.assert_array_equal(again.tested[10].costs, trial.tested[10].costs)
    assert not np.array_equal(other.tested[10].costs, trial.tested[10].costs)


def test_few_that_stand_for_many_cost_less_than_as_many_drawn(task: Task, trial: Trial) -> None:
    few = run_trial(task, "ridge-residual", seed=3, counts=(10, 200), drawn=200)
    assert {count: found.num_scenarios for count, found in few.tested.items()} == {10: 200, 200: 200}
    whole = run_trial(task, "ridge-residual", seed=3, counts=(200,)).tested[200]
    np.testing.assert_array_equal(few.tested[200].costs, whole.costs)
    # A tenth of what ten drawn ones lose stays.
    lost = few.tested[10].costs.mean() - whole.costs.mean()
    assert abs(lost) < 0.5 * (trial.tested[10].costs.mean() - whole.costs.mean())
    assert few.tested[10].realism == few.tested[200].realism == whole.realism


def test_a_point_forecast_has_nothing_to_reduce(task: Task) -> None:
    assert run_trial(task, "point", seed=0, counts=(10,), drawn=20).tested[10].num_scenarios == 1


def test_what_is_saved_is_read_back(trial: Trial, tmp_path: Path) -> None:
    trial.save(tmp_path)
    found = Trial.load(tmp_path)
    np.testing.assert_array_equal(found.days, trial.days)
    np.testing.assert_array_equal(found.best, trial.best)
    for count, tested in trial.tested.items():
        np.testing.assert_array_equal(found.tested[count].costs, tested.costs)
        np.testing.assert_equal(dict(found.tested[count].realism), dict(tested.realism))
    plain = [
        dataclasses.replace(one, days=np.array([]), best=np.array([]), tested={}) for one in (found, trial)
    ]
    assert repr(plain[0]) == repr(plain[1])


def test_one_scenario_has_no_coverage_and_the_file_stays_strict_json(task: Task, tmp_path: Path) -> None:
    run_trial(task, "point", seed=0, counts=(10,)).save(tmp_path)
    text = (tmp_path / "trial.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert record["tested"]["10"]["num_scenarios"] == 1
    assert record["tested"]["10"]["realism"]["coverage"] is None
    assert np.isnan(Trial.load(tmp_path).tested[10].realism["coverage"])


def test_a_damaged_trial_is_named(trial: Trial, tmp_path: Path) -> None:
    trial.save(tmp_path)
    (tmp_path / "days.npz").write_bytes(b"")
    with pytest.raises(DataError, match="no readable trial"):
        Trial.load(tmp_path)


def test_a_collapsed_method_shows_in_its_realism(task: Task) -> None:
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(30, 200, 4, 1, dtype=torch.float64, generator=draws)
    mean = (10 + task.test.context[:, :1])[:, None, :, None]
    figures = {}
    for label, size, shift in (("right", 1.0, 0.0), ("shrunk", 0.1, 0.0), ("extreme", 0.1, 3.0)):
        paths = mean + shift + size * noise
        scenarios = ScenarioSet(paths=paths, names=("load",), units=("GW",))
        figures[label] = realism_figures(task, scenarios)
    # Four standard errors of a share of 120.
    assert figures["right"]["coverage"] == pytest.approx(0.9, abs=0.11)
    assert figures["shrunk"]["coverage"] < 0.3
    assert figures["right"]["diversity_ratio"] == pytest.approx(1.0, abs=0.15)
    assert figures["shrunk"]["diversity_ratio"] < 0.3
    assert figures["shrunk"]["crps"] > 1.2 * figures["right"]["crps"]
    # Pushed to where shortage is dear: cheap decisions perhaps, and no forecast.
    assert figures["extreme"]["coverage"] < 0.1
    assert figures["extreme"]["pit_distance"] > 0.8


def test_the_second_decision_tells_a_law_from_a_trick(task: Task) -> None:
    # Shortage and excess exchanged: what lies high is good for the first decision only.
    second = build(4, ramp_limit=1e3, shortage_cost=0.5, excess_cost=50.0)
    both = dataclasses.replace(task, second_program_for=lambda _: second)
    noise = torch.randn(30, 100, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = (10 + task.test.context[:, :1])[:, None, :, None]
    regrets = {}
    for label, paths in (("law", mean + noise), ("trick", mean + 2.3 + 0.01 * noise)):
        scenarios = ScenarioSet(paths=paths, names=("load",), units=("GW",), source=label)
        regrets[label] = realism_figures(both, scenarios)["transfer_regret"]
    assert regrets["trick"] > 10 * regrets["law"] > 0
    assert "transfer_regret" not in realism_figures(task, scenarios)
