"""The gate, figure by figure: what each check refuses, and when a champion may be replaced."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from hedgecast.registry.checks import FEWEST_DAYS, Check, gate_checks
from hedgecast.registry.evidence import ValidationDays
from hedgecast.testing import made_up_days, passing_metrics

PARITY = {"scenario_graph_relative_error": 1e-7, "denoiser_graph_relative_error": 1e-7}
GOOD = {**PARITY, **passing_metrics()}
DAYS = made_up_days()


def failed(
    metrics: dict[str, float] = GOOD, days: ValidationDays = DAYS, champion: ValidationDays | None = None
) -> list[Check]:
    return [check for check in gate_checks(metrics, days, champion) if not check.passed]


def test_a_sound_first_model_passes_every_check() -> None:
    assert failed() == []
    assert len(gate_checks(GOOD, DAYS)) == 18


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scenario_graph_relative_error", 2e-4),
        ("denoiser_graph_relative_error", 2e-4),
        ("unsolved_share", 0.01),
        ("coverage", 0.5),
        ("coverage", 0.99),
        ("pit_distance", 0.21),
        ("increment_distance", 0.3),
        ("autocorrelation_distance", 0.25),
        ("two_sample_auc", 0.75),
        ("diversity_ratio", 0.4),
        ("diversity_ratio", 1.4),
    ],
)
def test_each_figure_alone_refuses(key: str, value: float) -> None:
    found = failed({**GOOD, key: value})
    assert len(found) == 1
    assert f"fails: {value:.4g}, must be" in str(found[0])


@pytest.mark.parametrize("key", ["crps", "crps_tails", "energy_score", "variogram_score", "transfer_regret"])
def test_scores_are_held_against_the_baseline(key: str) -> None:
    assert failed({**GOOD, key: 1.05 * GOOD[key]}) == []
    found = failed({**GOOD, key: 1.3 * GOOD[key]})
    assert [check.figure for check in found] == [pytest.approx(1.3)]
    # Another unit of the data changes nothing.
    scaled = {**GOOD, key: 1300 * GOOD[key], f"baseline_{key}": 1000 * GOOD[key]}
    assert [check.figure for check in failed(scaled)] == [pytest.approx(1.3)]


def test_where_the_baseline_is_far_off_the_model_may_be_as_far() -> None:
    odd = {**GOOD, "two_sample_auc": 0.9, "baseline_two_sample_auc": 0.88}
    assert failed(odd) == []
    found = failed({**odd, "two_sample_auc": 0.95})
    assert [(check.figure, check.bound) for check in found] == [(0.95, pytest.approx(0.93))]


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_figure_never_passes_and_never_raises(key: str) -> None:
    without = {name: value for name, value in GOOD.items() if name != key}
    found = failed(without)
    # The baseline's own figure is a bound only where a ratio or a wider bound is made of it.
    needed = not key.startswith("baseline_") or key.removeprefix("baseline_") in (
        "crps",
        "crps_tails",
        "energy_score",
        "variogram_score",
        "transfer_regret",
    )
    assert bool(found) == needed
    assert all(math.isnan(check.figure) for check in found)


def test_no_number_and_no_bound_passes() -> None:
    for relation in ("at most", "at least", "below"):
        assert not Check("x", math.nan, 1.0, relation).passed
        assert not Check("x", 1.0, math.nan, relation).passed
    assert Check("x", 0.0, 0.0, "at most").passed
    assert not Check("x", 0.0, 0.0, "below").passed
    record = json.loads(json.dumps(Check("x", math.nan, 1.0, "at most").to_dict()))
    assert record == {"name": "x", "figure": None, "bound": 1.0, "relation": "at most", "passed": False}


def test_a_model_shown_worse_than_the_baseline_is_refused() -> None:
    found = failed(days=made_up_days(saved=-5.0))
    assert [check.name for check in found] == ["cost less that of ridge-residual, lower 95 % bound"]
    # Worse on average, and not shown: 84 days whose difference varies ten times as much as its mean.
    noise = 300.0 * np.random.default_rng(1).normal(size=84)
    unsure = dataclasses.replace(DAYS, cost=DAYS.baseline_cost + 30.0 + noise - noise.mean())
    assert failed(days=unsure) == []


def test_too_few_days_are_refused() -> None:
    found = failed(days=made_up_days(num_days=FEWEST_DAYS - 1))
    assert [check.name for check in found] == ["validation days"]


def test_a_champion_gives_way_only_to_a_model_shown_better() -> None:
    champion = made_up_days(saved=10.0)
    better, same, worse = made_up_days(saved=40.0, seed=0), champion, made_up_days(saved=5.0)
    assert failed(days=better, champion=champion) == []
    name = "regret less the champion's, upper 95 % bound"
    assert [check.name for check in failed(days=same, champion=champion)] == [name]
    assert [check.name for check in failed(days=worse, champion=champion)] == [name]
    # Better on average, and not shown.
    noise = 300.0 * np.random.default_rng(1).normal(size=84)
    unsure = dataclasses.replace(champion, cost=champion.cost - 20.0 + noise - noise.mean())
    assert [check.name for check in failed(days=unsure, champion=champion)] == [name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": "9" * 64}, "what came true on these days"),
        ({"program": "9" * 64}, "decision program or its costs"),
        ({"num_scenarios": 1000}, "scenarios (200, the other's 1000)"),
        ({"days": DAYS.days + 1}, "days (84 from 2021-07-01 to 2021-09-22, the other's 84 from 2021-07-02"),
    ],
)
def test_unlike_days_allow_no_comparison(change: dict[str, object], named: str) -> None:
    champion = dataclasses.replace(DAYS, **change)  # type: ignore[arg-type]
    found = failed(days=made_up_days(saved=40.0), champion=champion)
    assert [check.figure for check in found][:1] == [1.0]
    assert named in found[0].name
    assert math.isnan(found[1].figure)
    assert len(found) == 2
