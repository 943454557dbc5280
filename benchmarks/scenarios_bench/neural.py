"""NeuralForecast's simulate() on the same days: quantiles of NHITS, tied together by a copula or a shuffle.

NHITS with MQLoss at 0.01 to 0.99 learns from the same training days with the same columns (load, wind and
holidays before the day; holidays and the calendar of the day), stops early on the same validation days, and
simulates every test day from the 56 days before it, which is where its Schaake shuffle finds its templates.
Its settings are not searched for; ours are the study's. One thread each.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scenarios_bench.models import HeldOutDays

from hedgecast.commands.workflow import Prepared
from hedgecast.learning.fidelity import COST, score_days
from hedgecast.regret.backtest import backtest
from hedgecast.scenarios.bootstrap import block_bootstrap
from hedgecast.scenarios.scenario_set import ScenarioSet

METHODS = ("gaussian_copula", "schaake_shuffle")
SCENARIOS = 100
TIMED_SCENARIOS = 1_000
HISTORY = 56 * 24
INPUT = 168
CALENDAR = ("hour_sin", "hour_cos", "week_sin", "week_cos", "year_sin", "year_cos")
_SETTINGS: dict[str, Any] = {
    "mlp_units": [[256, 256]] * 3,
    "max_steps": 500,
    "windows_batch_size": 256,
    "val_check_steps": 50,
    "early_stop_patience_steps": 3,
    "scaler_type": "standard",
    "random_seed": 0,
}


def hours(prepared: Prepared) -> pd.DataFrame:
    """The study's table by the hour, UTC, with the calendar of the local clock."""
    table, schema = prepared.table, prepared.schema
    (target,) = schema.targets
    names = {target: "y", "wind_gw": "wind_gw", "holiday": "holiday"}
    columns = {new: table.columns[old] for old, new in names.items()}
    frame = pd.DataFrame({"ds": pd.DatetimeIndex(table.times), **columns}).interpolate(limit_direction="both")
    local = frame["ds"].dt.tz_localize("UTC").dt.tz_convert(schema.timezone)
    turns = {
        "hour": local.dt.hour / 24.0,
        "week": (local.dt.dayofweek + local.dt.hour / 24.0) / 7.0,
        "year": local.dt.dayofyear / 365.25,
    }
    for name, turn in turns.items():
        frame[f"{name}_sin"], frame[f"{name}_cos"] = np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)
    return frame


def ordinary(days: HeldOutDays) -> NDArray[np.int64]:
    """Rows of days with 24 hours, whose slots are their hours."""
    steps = [days.windows.steps_of(row) for row in range(len(days.numbers))]
    return np.array(
        [
            row
            for row, (times, slots) in enumerate(steps)
            if len(times) == 24 and np.array_equal(slots, np.arange(24))
        ]
    )


class Peer:
    """NeuralForecast, fitted on everything before the test days."""

    def __init__(self, prepared: Prepared) -> None:
        from neuralforecast import NeuralForecast  # type: ignore[import-untyped]
        from neuralforecast.losses.pytorch import MQLoss  # type: ignore[import-untyped]
        from neuralforecast.models import NHITS  # type: ignore[import-untyped]

        self._hours = hours(prepared)
        known = ["holiday", *CALENDAR]
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        model = NHITS(
            h=24,
            input_size=INPUT,
            loss=MQLoss(quantiles=[round(q / 100, 2) for q in range(1, 100)]),
            futr_exog_list=known,
            hist_exog_list=["wind_gw"],
            accelerator="cpu",
            enable_model_summary=False,
            **quiet,
            **_SETTINGS,
        )
        split = prepared.study.split
        before = self._hours[self._hours["ds"] < pd.Timestamp(split.test)]
        validation = int((before["ds"] >= pd.Timestamp(split.validation)).sum())
        self._known = known
        self._forecast = NeuralForecast(models=[model], freq="h")
        started = time.perf_counter()
        self._forecast.fit(before.assign(unique_id="load"), val_size=validation)
        self.seconds = time.perf_counter() - started

    def paths(self, starts: NDArray[np.datetime64], count: int, method: str) -> NDArray[np.float64]:
        """Paths (D, count, 24) of the days that begin at ``starts``, UTC."""
        places = np.searchsorted(self._hours["ds"].to_numpy(), starts)
        past = [
            self._hours.iloc[at - HISTORY : at].assign(unique_id=f"{n:04}") for n, at in enumerate(places)
        ]
        ahead = [self._hours.iloc[at : at + 24].assign(unique_id=f"{n:04}") for n, at in enumerate(places)]
        future = pd.concat(ahead)[["unique_id", "ds", *self._known]]
        found = self._forecast.simulate(
            df=pd.concat(past), futr_df=future, n_paths=count, seed=0, method=method
        )
        # Rows: paths, days, hours.
        return np.asarray(found["NHITS"], dtype=np.float64).reshape(count, len(starts), 24).swapaxes(0, 1)


def measure(models: Any) -> dict[str, Any]:
    """Scores, regret and seconds of both methods and of ours; ``models`` is the module of that name."""
    from hedgecast.registry.session import ScenarioSession

    prepared = models.prepared()
    days = models.held_out_days(every=2)
    rows = ordinary(days)
    windows = days.windows.select(rows)
    starts = np.array([windows.steps_of(row)[0][0] for row in range(len(rows))])
    session = ScenarioSession(models.bundle(models.STUDENT))
    with _quiet():
        peer = Peer(prepared)
        sets = {
            f"NeuralForecast, {method}": peer.paths(starts, SCENARIOS, method)[..., None]
            for method in METHODS
        }
    ours = session.draw(days.context[rows], days.numbers[rows], SCENARIOS, 0)
    sets = {"hedgecast, student of 1 call": ours.astype(np.float64), **sets}
    seconds = {
        name: _seconds(lambda: session.draw(days.context[:1], [0], TIMED_SCENARIOS, 0)) for name in sets
    }
    with _quiet():
        for method in METHODS:
            seconds[f"NeuralForecast, {method}"] = _seconds(
                lambda method=method: peer.paths(starts[:1], TIMED_SCENARIOS, method)
            )
    return {
        "days": len(rows),
        "scenarios": SCENARIOS,
        "timed_scenarios": TIMED_SCENARIOS,
        "training_seconds": {"NeuralForecast": peer.seconds},
        "settings": {key: str(value) for key, value in _SETTINGS.items()},
        "rows": figures(prepared, windows, sets, seconds),
    }


def figures(
    prepared: Prepared,
    windows: Any,
    sets: Mapping[str, NDArray[np.float64]],
    seconds: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """Means by day, and each row's difference to the first with its 95 % paired interval."""
    schema = prepared.schema
    named = {
        name: ScenarioSet(
            paths=torch.from_numpy(np.ascontiguousarray(paths)),
            names=tuple(schema.targets),
            units=tuple(schema.target_units),
            source=name,
        )
        for name, paths in sets.items()
    }
    first = next(iter(named))
    result = backtest(windows, named, prepared.program, baseline=first)
    found: dict[str, dict[str, Any]] = {}
    own: dict[str, NDArray[np.float64]] = {}
    for name, scenarios in named.items():
        costs = result.method(name).costs
        days = {**score_days(scenarios, windows.slots), COST: costs, "regret": costs - result.best}
        own = own or days
        found[name] = {
            "mean": {figure: float(values.mean()) for figure, values in days.items()},
            "less_ours": {figure: _difference(values - own[figure]) for figure, values in days.items()},
            "seconds_per_day": seconds[name],
        }
    return found


def _difference(values: NDArray[np.float64]) -> dict[str, float]:
    interval = block_bootstrap(values, torch.Generator().manual_seed(0))
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _seconds(call: Any, rounds: int = 5) -> float:
    """Median processor time of one call, the first left out."""
    call()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return float(np.median(times))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's lines and its advice kept off the terminal."""
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning", "lightning_fabric")
    ]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
