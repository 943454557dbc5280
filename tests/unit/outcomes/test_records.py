"""Bands, and what came true against them."""

import numpy as np
import pytest

from hedgecast.core.errors import ShapeError
from hedgecast.outcomes.records import Band, band_of, covered_shares, level_of

LEVELS = np.array([0.05, 0.5, 0.95])


def test_a_quantile_is_a_scenario_and_its_expected_share_is_its_rank() -> None:
    band = band_of(np.arange(1.0, 20.0)[::-1], LEVELS)
    # ceil(level 19): the 1st, the 10th and the 19th of 1..19.
    assert band.quantiles.tolist() == [1.0, 10.0, 19.0]
    assert band.expected.tolist() == [1 / 20, 10 / 20, 19 / 20]


@pytest.mark.parametrize("law", ["normal", "lognormal", "mass at zero"])
def test_what_comes_true_is_covered_as_often_as_expected(law: str) -> None:
    rng = np.random.default_rng(3)
    draws = rng.normal(size=(4000, 30, 3))
    if law == "lognormal":
        draws = np.exp(2.0 * draws)
    if law == "mass at zero":
        draws = np.maximum(draws, 0.0)
    shares, expected = [], []
    for scenarios, realized in zip(draws[:, 1:], draws[:, 0], strict=True):
        band = band_of(scenarios, LEVELS)
        covered = covered_shares(band, realized, name="y")
        shares.append(covered.shares)
        expected.append(covered.expected)
    differences = np.array(shares) - np.array(expected)
    error = differences.std(axis=0, ddof=1) / np.sqrt(4000)
    # n = 4000 sets of 29 scenarios, 4 standard errors. Ties of a mass make the last k / (S + 1) short by up
    # to its own 1 / (S + 1) times the mass, which is below: half the scenarios are zero.
    slack = 0.5 / 30 if law == "mass at zero" else 0.0
    assert np.all(differences.mean(axis=0) <= 4 * error + slack)
    assert np.all(differences.mean(axis=0) >= -4 * error)


def test_points_without_uncertainty_say_nothing() -> None:
    scenarios = np.random.default_rng(1).normal(size=(50, 4))
    scenarios[:, :2] = 0.0
    band = band_of(scenarios, LEVELS)
    assert band.uncertain.tolist() == [False, False, True, True]
    covered = covered_shares(band, np.array([5.0, -5.0, 100.0, -100.0]), name="y")
    assert covered.num_points == 2
    assert covered.shares.tolist() == [0.5, 0.5, 0.5]


def test_an_outcome_leaves_out_a_name_without_an_uncertain_point(decided, happened) -> None:
    decision = decided(bands={"load": band_of(np.ones((9, 4, 2)), LEVELS)})
    assert happened(decision).covered == {}


def test_an_outcome_has_its_coverage_and_the_level_of_its_cost(decided, happened) -> None:
    outcome = happened(decided(), value=1000.0, cost=-1e9)
    assert outcome.covered["load"].shares.tolist() == [0.0, 0.0, 0.0]
    assert outcome.cost_level == 0.025


@pytest.mark.parametrize(
    ("value", "level"),
    [(-1.0, 0.05), (0.0, 0.1), (1.0, 0.3), (2.0, 0.5), (3.0, 0.6), (5.0, 0.8), (7.0, 0.8), (9.0, 0.9)],
)
def test_a_value_lies_between_the_levels_around_it(value: float, level: float) -> None:
    levels = np.array([0.1, 0.5, 0.7, 0.8])
    band = Band(levels=levels, quantiles=np.array([0.0, 2.0, 4.0, 5.0]), expected=levels)
    if value == 7.0:
        band = Band(levels=levels, quantiles=np.array([0.0, 2.0, 7.0, 7.0]), expected=levels)
        level = 0.75
    assert level_of(band, value) == pytest.approx(level)


def test_wrong_levels_and_shapes_are_refused(decided) -> None:
    for levels in ([0.5], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0], [float("nan"), 0.5]):
        with pytest.raises(ShapeError, match="levels"):
            band_of(np.ones((3, 2)), np.array(levels))
    with pytest.raises(ShapeError, match="first axis"):
        band_of(np.ones((0, 2)), LEVELS)
    with pytest.raises(ShapeError, match=r"realized\['load'\] has shape \(4,\)"):
        covered_shares(decided().bands["load"], np.ones(4), name="load")
