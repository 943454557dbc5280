"""Figures against closed forms; alarms as often as they say, and where they should be."""

import dataclasses
import datetime

import numpy as np
import pytest
from scipy import stats

from hedgecast.core.errors import ConfigError
from hedgecast.outcomes import OutcomeStore, PerformanceConfig, performance_of
from hedgecast.outcomes.figures import CoverageSeries, Figures

LEVELS = (0.05, 0.5, 0.95)
CONFIG = PerformanceConfig(window=365, recent=60, min_count=30, confidence=0.99)


def _figures(
    count: int,
    *,
    seed: int = 1,
    points: int = 24,
    scale: float = 1.0,
    within_day: float = 0.9,
    days: float = 0.0,
    cost_level=None,
) -> Figures:
    """A version whose scenarios are standard normal, and what came true ``scale`` times as wide."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count + 30, points))
    for point in range(1, points):
        noise[:, point] = within_day * noise[:, point - 1] + np.sqrt(1 - within_day**2) * noise[:, point]
    for day in range(1, count + 30):
        noise[day] = days * noise[day - 1] + np.sqrt(1 - days**2) * noise[day]
    realized = scale * noise[30:]
    cost = realized.mean(axis=1)
    return Figures(
        model="power",
        version="3",
        total=count,
        issued_at=np.datetime64("2030-01-01", "us") + np.arange(count) * np.timedelta64(1, "D"),
        cost=cost,
        regret=np.abs(cost),
        expected_cost=np.zeros(count),
        expected_regret=np.full(count, 0.5),
        cost_level=rng.uniform(size=count) if cost_level is None else cost_level,
        coverage={
            ("load", level): CoverageSeries(
                shares=(realized <= stats.norm.ppf(level)).mean(axis=1),
                expected=np.full(count, level),
                num_points=np.full(count, float(points)),
            )
            for level in LEVELS
        },
    )


def test_means_and_standard_errors_are_those_of_the_window() -> None:
    figures = _figures(400)
    performance = performance_of(figures, CONFIG)
    regret = figures.regret[-365:]
    assert performance.regret.count == 365
    assert performance.regret.mean == pytest.approx(regret.mean())
    # Independent days, n = 365: Newey-West with 5 lags is within a third of the plain standard error.
    assert performance.regret.standard_error == pytest.approx(regret.std(ddof=1) / np.sqrt(365), rel=1 / 3)
    assert performance.regret_excess.mean == pytest.approx(regret.mean() - 0.5)
    assert performance.cost_excess.mean == pytest.approx(performance.cost.mean)
    assert performance.total == 400
    assert performance.first_issued_at == datetime.datetime(2030, 2, 5, tzinfo=datetime.UTC)
    assert performance.last_issued_at == datetime.datetime(2031, 2, 4, tzinfo=datetime.UTC)


def test_the_standard_error_holds_for_days_that_follow_each_other() -> None:
    # 150 series of 365 autoregressive days; the exact variance of the mean is that of their covariance.
    lags = np.arange(365)
    covariance = stats.norm.var() * 0.5 ** np.abs(lags[:, None] - lags)
    exact = np.sqrt(covariance.sum()) / 365
    found = []
    for seed in range(150):
        figures = _figures(365, seed=seed, points=1, days=0.5)
        found.append(performance_of(figures, CONFIG).cost.standard_error)
    error = np.std(found, ddof=1) / np.sqrt(150)
    # 4 standard errors, and the Bartlett kernel's own bias with 5 lags, 22 % of the variance at most.
    assert exact * np.sqrt(0.78) - 4 * error <= np.mean(found) <= exact + 4 * error


def test_the_band_of_single_points_is_binomial_with_a_trial_a_day() -> None:
    counts = []
    for seed in range(20):
        coverage = performance_of(_figures(365, seed=seed, points=1), CONFIG).coverage[1]
        counts.append(coverage.effective_count)
        law = stats.binom(int(coverage.effective_count), 0.5)
        alpha = 0.01 / 3
        assert coverage.low == pytest.approx(law.ppf(alpha / 2) / law.args[0])
        assert coverage.high == pytest.approx(law.ppf(1 - alpha / 2) / law.args[0])
    # Capped at one a point; the estimate of the variance is within a third.
    assert 365 * 0.75 <= np.mean(counts) <= 365


@pytest.mark.parametrize(("count", "within_day", "days", "most"), [
    (30, 0.9, 0.0, 0.01),
    (365, 0.0, 0.0, 0.01),
    (365, 0.9, 0.0, 0.02),
    (120, 0.9, 0.5, 0.06),
])  # fmt: skip
def test_a_right_version_gives_an_alarm_no_more_often_than_documented(count, within_day, days, most) -> None:
    alarms = [
        performance_of(_figures(count, seed=seed, within_day=within_day, days=days), CONFIG).state
        == "out_of_band"
        for seed in range(200)
    ]
    # n = 200, 3 standard errors above what docs/outcomes.md says.
    assert np.mean(alarms) <= most + 3 * np.sqrt(most * (1 - most) / 200)


@pytest.mark.parametrize(("scale", "count", "least"), [(1.25, 300, 0.95), (2.0, 60, 0.95)])
def test_scenarios_that_are_too_narrow_are_found(scale, count, least) -> None:
    found = [performance_of(_figures(count, seed=seed, scale=scale), CONFIG) for seed in range(40)]
    outside = [performance.state == "out_of_band" for performance in found]
    # n = 40: at most 3 standard errors below what docs/outcomes.md says.
    assert np.mean(outside) >= least - 3 * np.sqrt(least * (1 - least) / 40)
    one = next(performance for performance in found if performance.state == "out_of_band")
    assert "power version 3" in one.warning
    assert "5.0% quantile" in one.warning or "95.0% quantile" in one.warning


def test_a_version_that_is_always_wrong_is_found_at_once() -> None:
    figures = _figures(30)
    series = CoverageSeries(shares=np.zeros(30), expected=np.full(30, 0.95), num_points=np.full(30, 24.0))
    performance = performance_of(dataclasses.replace(figures, coverage={("load", 0.95): series}), CONFIG)
    assert performance.state == "out_of_band"


def test_few_outcomes_say_nothing() -> None:
    performance = performance_of(_figures(29, scale=3.0), CONFIG)
    assert performance.state == "too_few"
    assert performance.warning == ""
    assert performance.drift.drifted is False
    assert np.isnan(performance.drift.p_value)


def test_drift_is_found_and_a_steady_version_has_none() -> None:
    rng = np.random.default_rng(8)
    steady, higher, wider = [], [], []
    for _ in range(300):
        earlier = rng.uniform(size=200)
        steady.append(_drifted(np.concatenate([earlier, rng.uniform(size=60)])))
    for _ in range(40):
        earlier = rng.uniform(size=200)
        higher.append(_drifted(np.concatenate([earlier, rng.beta(2, 1, size=60)])))
        wider.append(_drifted(np.concatenate([earlier, rng.beta(0.4, 0.4, size=60)])))
    # n = 300: 0.03 is what was measured for 60 against 200 at confidence 0.99; 3 standard errors above.
    assert np.mean(steady) <= 0.03 + 3 * np.sqrt(0.03 * 0.97 / 300)
    assert np.mean(higher) >= 0.8
    assert np.mean(wider) >= 0.8


def _drifted(levels: np.ndarray) -> bool:
    drift = performance_of(_figures(levels.size, points=1, cost_level=levels), CONFIG).drift
    assert drift.recent_count == 60
    assert drift.earlier_count == levels.size - 60
    return drift.drifted


def test_shifts_are_differences_of_means_and_unknown_levels_are_left_out() -> None:
    levels = np.concatenate([np.full(50, np.nan), np.tile([0.2, 0.4], 50), np.tile([0.7, 0.9], 30)])
    drift = performance_of(_figures(levels.size, points=1, cost_level=levels), CONFIG).drift
    assert drift.location == pytest.approx(0.5)
    assert drift.spread == pytest.approx(0.1)
    assert (drift.earlier_count, drift.recent_count) == (100, 60)
    assert drift.drifted
    same = np.full(200, 0.4)
    assert performance_of(_figures(200, points=1, cost_level=same), CONFIG).drift.p_value == 1.0


def test_figures_of_a_store_are_by_version_and_in_the_order_of_issue(tmp_path, decided, happened) -> None:
    with OutcomeStore(tmp_path, latest=2) as store:
        for number in (3, 1, 2, 4):
            version = "4" if number == 4 else "3"
            store.keep(decided(number, model_version=version))
            store.record(f"d-{number}", happened(decided(number), regret=float(number)))
            if number == 1:
                store.roll()
        figures = store.figures()
        assert list(figures) == [("power", "3"), ("power", "4")]
        assert figures["power", "3"].regret.tolist() == [2.0, 3.0]
        assert figures["power", "3"].total == 3
        assert figures["power", "4"].expected_cost.tolist() == [104.0]
        band, outcome = decided(4).bands["load"], store.outcome("d-4")
        series = figures["power", "4"].coverage["load", 0.95]
        assert series.expected.tolist() == [band.expected[2]]
        assert series.shares.tolist() == [outcome.covered["load"].shares[2]]
        assert performance_of(figures["power", "4"]).state == "too_few"


@pytest.mark.parametrize("change", [{"recent": 29}, {"window": 60}, {"min_count": 1}, {"confidence": 1.0}])
def test_a_configuration_that_says_nothing_is_refused(change) -> None:
    with pytest.raises(ConfigError):
        PerformanceConfig.from_dict(change)
