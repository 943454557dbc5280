from __future__ import annotations

import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.learning.methods.ridge import fit_baselines
from hedgecast.learning.part import Part
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.regret.backtest import backtest


def part(rows: int, first: int = 0, *, seed: int = 0) -> Part:
    draws = np.random.default_rng(seed)
    context = draws.normal(size=(rows, 3))
    targets = 5 + context[:, :1] + 0.2 * draws.normal(size=(rows, 4))
    return Part.of_arrays(context, targets, first_row=first)


def test_rows_of_arrays_are_numbered_days_without_a_season() -> None:
    found = part(6, 10)
    assert found.targets.shape == (6, 4, 1)
    assert (found.dim, len(found), found.names, found.units) == (4, 6, ("series_0",), ("",))
    np.testing.assert_array_equal(found.days.astype(int), np.arange(10, 16))
    assert not found.seasonal


def test_dates_make_a_season() -> None:
    days = np.arange("2021-01-01", "2021-01-04", dtype="datetime64[D]")
    assert Part.of_arrays(np.zeros((3, 1)), np.zeros((3, 2)), days=days).seasonal


def test_selected_days_still_read_the_record_of_all() -> None:
    whole = part(6)
    some = whole.select(np.array([4, 5])).select(slice(1, 2))
    assert some.record is whole
    assert torch.equal(some.targets, whole.targets[5:])


def test_a_part_of_arrays_is_what_a_backtest_decides_on() -> None:
    train, test = part(120), part(20, 120, seed=1)
    program = build(4, ramp_limit=1e3)
    sets = {method.name: method.scenarios(test, 50, 0) for method in fit_baselines(train)}
    found = backtest(test, sets, lambda steps: program, baseline="point")
    # By hand: with a loose ramp each step is on its own, and the decision of one scenario is that scenario.
    mean, real = sets["point"].values[:, 0], test.targets.flatten(1)
    short, over = (real - mean).clamp(min=0), (mean - real).clamp(min=0)
    by_hand = (50 * short + 0.5 * over + 0.5 * (mean - real) ** 2).sum(dim=1)
    np.testing.assert_allclose(found.method("point").costs, by_hand.numpy(), rtol=1e-4)
    assert found.method("ridge-residual").costs.mean() < found.method("point").costs.mean()


def test_features_of_a_group_share_a_floor() -> None:
    context = np.array([[0.0, 0.0], [10.0, 1e-6], [20.0, 0.0]])
    alone = Part.of_arrays(context, np.zeros((3, 1))).spread()
    together = Part.of_arrays(context, np.zeros((3, 1)), groups=("a", "a")).spread()
    assert together[0] == alone[0] == context[:, 0].std()
    assert float(together[1] / together[0]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("arrays", "named", "message"),
    [
        (((3, 2), (4, 5)), {}, "context \\(3, 2\\), targets \\(4, 5, 1\\)"),
        (((3, 2), (3, 5)), {"units": ("GW", "MW")}, "1 names and 2 units for 1 series"),
        (((3, 2), (3, 5)), {"groups": ("a",)}, "1 groups for 2 features"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    arrays: tuple[tuple[int, ...], tuple[int, ...]], named: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        Part.of_arrays(np.zeros(arrays[0]), np.zeros(arrays[1]), **named)  # type: ignore[arg-type]


def test_days_out_of_order_are_refused() -> None:
    days = np.array(["2021-01-02", "2021-01-01"], dtype="datetime64[D]")
    with pytest.raises(DataError, match="days must increase"):
        Part.of_arrays(np.zeros((2, 1)), np.zeros((2, 1)), days=days)


def test_targets_that_are_not_known_cannot_be_decided_on() -> None:
    with pytest.raises(DataError, match="not known"):
        Part.of_arrays(np.zeros((1, 1)), np.full((1, 2), np.nan)).realized(0)
