"""The gate, figure by figure: what each check refuses, and when a champion may be replaced."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from hedgecast.learning.fidelity import SCORES
from hedgecast.registry.checks import FEWEST_DAYS, LARGEST_DISTANCE, Check, gate_checks, rule_for
from hedgecast.registry.descent import Descent
from hedgecast.registry.evidence import ValidationDays
from hedgecast.scenarios.realism import realism_report
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.testing import made_up_days, passing_metrics

PARITY = {"scenario_graph_relative_error": 1e-7, "denoiser_graph_relative_error": 1e-7}
GOOD = {**PARITY, **passing_metrics()}
DAYS = made_up_days()


STUDENT = Descent(distance=0.1, calls=1, teacher_calls=8, students_before=0)


def failed(
    metrics: dict[str, float] = GOOD,
    days: ValidationDays = DAYS,
    champion: ValidationDays | None = None,
    descent: Descent | None = None,
) -> list[Check]:
    return [check for check in gate_checks(metrics, days, champion, descent) if not check.passed]


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


def test_days_of_one_step_are_not_held_to_what_they_cannot_have() -> None:
    paths = torch.randn(90, 200, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    report = realism_report(ScenarioSet(paths=paths[:, 1:], names=("a",), units=("MW",)), paths[:, 0].numpy())
    figures = {name: value for name, value in report.to_dict().items() if isinstance(value, float)}
    one_step = {**GOOD, **figures, **{f"baseline_{name}": value for name, value in figures.items()}}
    assert math.isnan(one_step["increment_distance"])
    assert failed(one_step) == []
    assert len(gate_checks(one_step, DAYS)) == 15
    # Where the baseline has such a figure the model must have one, and nothing else may be missing for both.
    for key in ("increment_distance", "autocorrelation_distance"):
        assert len(failed({**one_step, f"baseline_{key}": 0.1})) == 1
    for key in ("increment_distance", "autocorrelation_distance", "variogram_score"):
        assert len(failed({name: value for name, value in one_step.items() if not name.endswith(key)})) == 1
    both = {"two_sample_auc": math.nan, "baseline_two_sample_auc": math.nan}
    assert len(failed({**one_step, **both})) == 1


def test_a_study_without_a_second_decision_is_told_where_to_name_one() -> None:
    without = {name: value for name, value in GOOD.items() if not name.endswith("transfer_regret")}
    (found,) = failed(without)
    assert "[transfer]" in str(found)
    (damaged,) = failed({**GOOD, "transfer_regret": math.nan})
    assert "[transfer]" not in str(damaged)


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


def teacher_days() -> ValidationDays:
    """A champion's days with scores, of which the 29th has 23 hours."""
    draws = np.random.default_rng(3)
    scores = {name: draws.gamma(9.0, size=84) for name in SCORES}
    for values in scores.values():
        values[28] = np.nan
    # So much better than the baseline that a student may lose a little of it.
    return dataclasses.replace(made_up_days(saved=40.0), scores=scores)


def student_days(**factors: float) -> ValidationDays:
    """The teacher's days with small changes of no sign, and figures that are ``factors`` times as large."""
    teacher, draws = teacher_days(), np.random.default_rng(4)
    regret = teacher.regret * (factors.get("regret", 1.0) + 0.02 * draws.normal(size=84))
    scores = {
        name: values * (factors.get(name, 1.0) + 0.02 * draws.normal(size=84))
        for name, values in teacher.scores.items()
    }
    return dataclasses.replace(teacher, cost=teacher.best + regret, scores=scores)


def test_a_student_as_good_as_its_teacher_replaces_it() -> None:
    days, champion = student_days(), teacher_days()
    assert failed(days=days, champion=champion, descent=STUDENT) == []
    assert rule_for(days, champion, STUDENT) == "student"
    # Nobody else is excused from being better.
    name = "regret less the champion's, upper 95 % bound"
    assert [check.name for check in failed(days=days, champion=champion)] == [name]
    assert (rule_for(days, champion), rule_for(days)) == ("better", "first")


@pytest.mark.parametrize("figure", ["regret", *SCORES])
def test_a_student_that_is_three_percent_worse_is_refused(figure: str) -> None:
    found = failed(days=student_days(**{figure: 1.03}), champion=teacher_days(), descent=STUDENT)
    label = {"crps": "CRPS"}.get(figure, figure.replace("_", " "))
    assert [check.name for check in found] == [f"{label} less the teacher's, share of it, upper 95 % bound"]
    assert (found[0].bound, found[0].relation) == (0.02, "below")
    assert 0.03 < found[0].figure < 0.045
    # One percent worse is within the margin, and shown to be.
    better = student_days(**{figure: 1.01})
    assert failed(days=better, champion=teacher_days(), descent=STUDENT) == []


def test_a_student_that_is_not_shown_to_be_as_good_is_refused() -> None:
    teacher, noise = teacher_days(), np.random.default_rng(5).normal(size=84)
    # As good on average, but its days differ by half of the regret.
    unsure = dataclasses.replace(
        teacher, cost=teacher.cost + 0.5 * teacher.regret.mean() * (noise - noise.mean())
    )
    (check,) = failed(days=unsure, champion=teacher, descent=STUDENT)
    assert check.name.startswith("regret less the teacher's")
    assert check.figure > 0.05


def test_the_share_of_the_regret_does_not_depend_on_what_is_paid_anyhow() -> None:
    def shifted(days: ValidationDays) -> ValidationDays:
        return dataclasses.replace(
            days, cost=days.cost - 1e5, best=days.best - 1e5, baseline_cost=days.baseline_cost - 1e5
        )

    days, champion = student_days(regret=1.01), teacher_days()
    plain = gate_checks(GOOD, days, champion, STUDENT)
    profit = gate_checks(GOOD, shifted(days), shifted(champion), STUDENT)
    assert [check.figure for check in profit] == pytest.approx([check.figure for check in plain])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"distance": 0.9}, "share of what its network does fails: 0.9, must be at most 0.5"),
        ({"distance": math.nan}, "share of what its network does fails: nan, must be at most 0.5"),
        ({"calls": 8}, "network calls against the teacher's fails: 8, must be below 8"),
        ({"students_before": 1}, "students among its teachers fails: 1, must be at most 0"),
    ],
)
def test_who_is_no_student_or_of_no_use_as_one_is_refused(change: dict[str, float], said: str) -> None:
    descent = dataclasses.replace(STUDENT, **change)  # type: ignore[arg-type]
    (check,) = failed(days=student_days(), champion=teacher_days(), descent=descent)
    assert str(check).endswith(said)
    assert LARGEST_DISTANCE == 0.5


def test_a_student_without_scores_or_of_other_days_is_refused() -> None:
    without = dataclasses.replace(student_days(), scores={})
    found = failed(days=without, champion=teacher_days(), descent=STUDENT)
    assert [check.name.rpartition(" (")[2] for check in found] == ["not kept by the day: distill again)"] * 3
    later = dataclasses.replace(student_days(), data="9" * 64)
    found = failed(days=later, champion=teacher_days(), descent=STUDENT)
    assert [math.isnan(check.figure) for check in found] == [False, True, True, True, True]


def test_a_student_that_is_shown_better_needs_no_other_reason() -> None:
    better = student_days(regret=0.9, crps=1.05)
    nearly = dataclasses.replace(STUDENT, distance=0.9)
    assert rule_for(better, teacher_days(), nearly) == "better"
    assert failed(days=better, champion=teacher_days(), descent=nearly) == []
    # Its scenarios must be real, as everybody's.
    collapsed = failed({**GOOD, "coverage": 0.5}, student_days(), teacher_days(), STUDENT)
    assert [check.name for check in collapsed] == ["coverage of the central 90 %"]
