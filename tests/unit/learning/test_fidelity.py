from __future__ import annotations

import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.learning.fidelity import BUDGET, changes, score_days, scores_by_day
from hedgecast.scenarios.realism import realism_report
from hedgecast.scenarios.scenario_set import ScenarioSet


def scenarios(units: tuple[str, ...] = ("GW", "GW"), seed: int = 0) -> tuple[ScenarioSet, np.ndarray]:
    draws = np.random.default_rng(seed)
    level = draws.normal(size=(40, 1, 1, 1))
    paths = 5.0 + level + draws.normal(size=(40, 30, 4, 2))
    realized = 5.0 + level[:, 0] + draws.normal(size=(40, 4, 2))
    return ScenarioSet(paths=torch.from_numpy(paths), names=("a", "b"), units=units), realized


@pytest.mark.parametrize("units", [("GW", "GW"), ("GW", "EUR")])
def test_the_days_average_to_the_realism_report(units: tuple[str, ...]) -> None:
    drawn, realized = scenarios(units)
    report = realism_report(drawn, realized)
    days = score_days(drawn, realized)
    assert float(days["crps"].mean()) == pytest.approx(report.crps)
    assert float(days["energy_score"].mean()) == pytest.approx(report.energy_score)
    assert float(days["variogram_score"].mean()) == pytest.approx(report.variogram_score)


def test_days_that_did_not_come_true_whole_are_left_out() -> None:
    drawn, realized = scenarios()
    whole = score_days(drawn, realized)
    realized[3, 2, 1] = np.nan
    part = score_days(drawn, realized)
    placed = scores_by_day(drawn, realized)
    for name, values in part.items():
        assert values == pytest.approx(np.delete(whole[name], 3))
        assert np.flatnonzero(np.isnan(placed[name])).tolist() == [3]
        assert np.delete(placed[name], 3).tolist() == values.tolist()
    with pytest.raises(DataError, match="none of 40 days has every slot"):
        score_days(drawn, np.full_like(realized, np.nan))
    with pytest.raises(ShapeError, match=r"must be \(40, 4, 2\)"):
        score_days(drawn, realized[:, :3])


def test_equal_figures_change_by_nothing_and_others_by_their_ratio() -> None:
    draws = np.random.default_rng(1)
    old = {"cost": draws.gamma(4.0, 10.0, size=84), "crps": draws.gamma(4.0, 1.0, size=84)}
    same = changes(old, old)
    assert [(change.relative.mean, change.relative.low, change.relative.high) for change in same] == [
        (0.0, 0.0, 0.0)
    ] * 2
    dearer, better = changes(old, {"cost": 1.03 * old["cost"], "crps": 0.9 * old["crps"]})
    assert dearer.relative.mean == pytest.approx(0.03)
    assert dearer.after == pytest.approx(1.03 * dearer.before)
    assert (dearer.within, better.within) == (False, True)
    assert dearer.relative.low < 0.03 < dearer.relative.high
    assert changes(old, {name: (1 + BUDGET / 2) * values for name, values in old.items()})[0].within


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ShapeError, match="both need it on the same days"):
        changes({"cost": np.ones(3)}, {"cost": np.ones(4)})
    with pytest.raises(ShapeError, match="both need it on the same days"):
        changes({"cost": np.ones(3)}, {})
    with pytest.raises(ShapeError, match="cost has mean -1: a relative change needs a positive one"):
        changes({"cost": -np.ones(3)}, {"cost": np.ones(3)})
    (broken,) = changes({"cost": np.ones(3)}, {"cost": np.ones(3)})
    assert broken.within
