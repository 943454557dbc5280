"""The whole report: every figure at its place, on right and on planted scenarios."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.scenarios.realism import LEVELS, Realism, crps, realism_report
from hedgecast.scenarios.scenario_set import ScenarioSet


def scenario_set(paths: np.ndarray, units: tuple[str, ...] = ("GW",)) -> ScenarioSet:
    names = tuple(f"series_{index}" for index in range(len(units)))
    return ScenarioSet(paths=torch.from_numpy(paths), names=names, units=units, source="made up")


def days(seed: int = 0, num_series: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """150 days of random walks around a level known ahead, 60 scenarios each."""
    draws = np.random.default_rng(seed)
    pooled = draws.normal(size=(150, 61, 6, num_series)).cumsum(axis=2) + 10 * draws.normal(
        size=(150, 1, 1, 1)
    )
    return pooled[:, 1:], pooled[:, 0]


@pytest.fixture(scope="module")
def right() -> Realism:
    paths, realized = days()
    return realism_report(scenario_set(paths), realized)


def test_the_right_law_looks_right(right: Realism) -> None:
    assert (right.num_days, right.num_days_left_out, right.num_scenarios) == (150, 0, 60)
    assert right.coverage == pytest.approx(0.885, abs=0.05)
    assert tuple(band.level for band in right.coverages) == LEVELS
    assert all(band.low <= band.share <= band.high for band in right.coverages)
    assert right.pit_p_value > 0.01
    assert sum(right.rank_histogram) == pytest.approx(1.0)
    assert right.two_sample_auc == pytest.approx(0.5, abs=0.1)
    assert right.diversity_ratio == pytest.approx(1.0, abs=0.08)
    assert right.increment_distance < 0.2
    assert right.autocorrelation_distance < 0.1
    paths, realized = days()
    assert right.crps == pytest.approx(crps(paths[..., 0], realized[..., 0]).mean())
    assert 0 < right.crps_tails < right.crps < right.energy_score


def test_collapsed_scenarios_look_collapsed(right: Realism) -> None:
    paths, realized = days()
    center = paths.mean(axis=1, keepdims=True)
    found = realism_report(scenario_set(center + 0.2 * (paths - center)), realized)
    assert found.coverage < 0.5
    assert found.pit_distance > 3 * right.pit_distance
    assert found.pit_p_value < 0.01
    assert found.diversity_ratio < 0.5
    assert found.two_sample_auc > 0.8
    for name in ("crps", "crps_tails", "energy_score", "variogram_score"):
        assert getattr(found, name) > 1.05 * getattr(right, name), name


def test_scenarios_pushed_to_the_extreme_look_false(right: Realism) -> None:
    paths, realized = days()
    high = np.quantile(paths, 0.98, axis=1, keepdims=True)
    found = realism_report(scenario_set(high + 0.3 * (paths - paths.mean(axis=1, keepdims=True))), realized)
    assert found.coverage < 0.3
    assert found.two_sample_auc > 0.95
    assert found.diversity_ratio < 0.5
    assert found.crps > 1.5 * right.crps


def test_it_is_plain_values_and_the_same_twice(right: Realism) -> None:
    paths, realized = days()
    again = realism_report(scenario_set(paths), realized)
    assert again == right
    record = json.loads(json.dumps(right.to_dict()))
    assert record["coverages"][0]["level"] == LEVELS[0]
    assert record["crps"] == right.crps


def test_a_day_with_a_skipped_slot_is_left_out_and_counted(right: Realism) -> None:
    paths, realized = days()
    gap = np.insert(realized, 70, np.nan, axis=0)
    found = realism_report(scenario_set(np.insert(paths, 70, 0.0, axis=0)), gap)
    assert (found.num_days, found.num_days_left_out) == (150, 1)
    assert found.energy_score == right.energy_score


def test_series_of_unlike_units_weigh_the_same() -> None:
    paths, realized = days(3, num_series=2)
    units = ("GW", "EUR/MWh")
    one = realism_report(scenario_set(paths, units), realized)
    scale = np.array([1.0, 1000.0])
    other = realism_report(scenario_set(paths * scale, units), realized * scale)
    for name in ("crps", "crps_tails", "energy_score", "variogram_score", "increment_distance"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9), name


def test_one_scenario_has_scores_and_no_calibration() -> None:
    paths, realized = days()
    found = realism_report(scenario_set(paths[:, :1]), realized)
    assert found.crps == pytest.approx(np.abs(paths[:, 0] - realized).mean())
    assert found.coverages == ()
    assert found.rank_histogram == ()
    for name in ("coverage", "pit_distance", "two_sample_auc", "diversity_ratio", "autocorrelation_distance"):
        assert math.isnan(getattr(found, name)), name


def test_mistakes_are_named() -> None:
    paths, realized = days()
    weighted = ScenarioSet(
        paths=torch.from_numpy(paths),
        names=("a",),
        units=("GW",),
        probabilities=torch.full((150, 60), 1 / 60),
    )
    with pytest.raises(ShapeError, match="carry probabilities"):
        realism_report(weighted, realized)
    with pytest.raises(ShapeError, match=r"realized has shape \(149, 6, 1\): must be \(150, 6, 1\)"):
        realism_report(scenario_set(paths), realized[1:])
    with pytest.raises(DataError, match="none of 150 days"):
        realism_report(scenario_set(paths), np.full_like(realized, np.nan))
    paths[7, 3] = np.inf
    with pytest.raises(ShapeError, match="made up: context 7 holds"):
        realism_report(scenario_set(paths), realized)
