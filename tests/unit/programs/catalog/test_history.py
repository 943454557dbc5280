from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog import battery_storage, freight_routing, history, portfolio


def test_whole_days_are_kept_and_others_counted() -> None:
    lines = ["Country,Datetime (UTC),Datetime (Local),Price (EUR/MWhe)"]
    lines += [f"NL,u,2020-01-01 {hour:02d}:00:00,{hour}.5" for hour in range(24)]
    lines += [f"NL,u,02/01/2020 {hour:02d}:00,{-hour}" for hour in range(24)]
    lines += ["NL,u,2020-01-02 03:00:00,999", "", "NL,u,,"]
    lines += [f"NL,u,2020-01-03 {hour:02d}:00:00,1" for hour in range(23)]
    found = history.whole_days("\n".join(lines).encode())
    assert found.rows.shape == (2, 24, 1)
    np.testing.assert_array_equal(found.rows[0, :, 0], np.arange(24) + 0.5)
    np.testing.assert_array_equal(found.rows[1, :, 0], -np.arange(24))
    assert "2020-01-01 to 2020-01-03: 2 days, 1 not whole" in found.source


def test_late_shares_count_cancelled_flights() -> None:
    table = pa.table(
        {
            "month": [1, 1, 1, 1, 2],
            "day": [1, 1, 1, 2, 1],
            "origin": ["JFK"] * 5,
            "dest": ["LAX"] * 5,
            "arr_delay": [10.0, None, 121.0, 120.0, 500.0],
        }
    )
    found = history.late_shares(table)
    np.testing.assert_allclose(found.rows[:, 0, 0], [2 / 3, 0.0, 1.0])
    assert found.names == ("JFK-LAX",)


def test_real_prices_make_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGECAST_CACHE", str(tmp_path))
    fetched = history.history("battery_storage")
    assert fetched.paths.shape == (1, 3647, 24, 1)
    assert fetched.units == ("EUR/MWh",)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(history, "fetch_members", None)
    cached = history.history("battery_storage")
    assert cached.fingerprint() == fetched.fingerprint()
    decision = battery_storage.build().solve(cached.values).require_optimal()
    assert decision.objective.item() < 0


def test_real_returns_are_cut_into_windows() -> None:
    days, weeks = history.history("portfolio"), history.history("portfolio", 5)
    assert days.paths.shape == (1, 8312, 1, 20)
    assert weeks.paths.shape == (1, 8308, 5, 20)
    torch.testing.assert_close(weeks.paths[0, 7, 3], days.paths[0, 10, 0], rtol=0.0, atol=0.0)
    assert abs(days.paths).max() < 1.5
    decision = portfolio.build().solve(days.values).require_optimal()
    assert decision.values["weights"].sum().item() == pytest.approx(1.0, abs=1e-6)


def test_real_delays_lose_no_freight() -> None:
    weeks = history.history("freight_routing")
    assert weeks.paths.shape == (1, 361, 5, 4)
    torch.testing.assert_close(weeks.paths.sum(dim=2), torch.full((1, 361, 4), 50.0, dtype=torch.float64))
    assert freight_routing.build().solve(weeks.values[:, ::10]).require_optimal().objective.item() > 0


def test_a_length_or_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_steps = 12: the history of 'battery_storage' has days of 24"):
        history.history("battery_storage", 12)
    with pytest.raises(ConfigError, match="program 'newsvendor' has no history: there are battery_storage"):
        history.history("newsvendor")
