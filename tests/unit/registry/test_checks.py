import math

import pytest

from hedgecast.registry.checks import COVERAGE, Check, gate_checks

GOOD = {
    "scenario_graph_relative_error": 1e-7,
    "denoiser_graph_relative_error": 1e-7,
    "cost_difference_low": -0.4,
    "crps_ratio": 0.98,
    "coverage_90": 0.91,
    "unsolved_share": 0.0,
}


def test_a_sound_model_passes_every_check() -> None:
    checks = gate_checks(GOOD)
    assert len(checks) == 7
    assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scenario_graph_relative_error", 2e-4),
        ("denoiser_graph_relative_error", 2e-4),
        ("cost_difference_low", 0.1),
        ("crps_ratio", 1.2),
        ("coverage_90", 0.5),
        ("coverage_90", 0.99),
        ("unsolved_share", 0.01),
    ],
)
def test_each_figure_alone_refuses(key: str, value: float) -> None:
    failed = [check for check in gate_checks({**GOOD, key: value}) if not check.passed]
    assert len(failed) == 1
    assert f"{value:.4g}" in str(failed[0])


def test_a_missing_or_undefined_figure_never_passes() -> None:
    without = {key: value for key, value in GOOD.items() if key != COVERAGE}
    assert not all(check.passed for check in gate_checks(without))
    assert not Check(name="x", figure=math.nan, bound=1.0, relation="at most").passed
    assert not Check(name="x", figure=math.nan, bound=1.0, relation="at least").passed
