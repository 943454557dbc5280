"""A model without a network that answers at once, and what is said of it: for tests of the service."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
import torch
from numpy.typing import NDArray

from hedgecast.core.errors import DataError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.ladder import MeasuredStep
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.envelope import Envelope
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.bundles import warm_up
from hedgecast.service.decide import ServedModel
from hedgecast.service.local import LocalModel
from hedgecast.service.models import ArraySpec, ColumnSpec, ModelDescription, ProgramDescription

if TYPE_CHECKING:
    pass

"""Hourly steps that the model of `last_day_model` looks back and plans ahead."""
LAST_DAY_STEPS = 6

_HOUR = np.timedelta64(1, "h")


class LastDay:
    """The next six hours are like the last six, give or take a Gaussian tenth."""

    made_by = "last day"

    def read(self, history: NamedRows, known: NamedRows) -> Context:  # noqa: ARG002 - nothing is known ahead
        """The last six loads."""
        if history.num_rows < LAST_DAY_STEPS:
            raise DataError(
                f"history has {history.num_rows} rows: needs {LAST_DAY_STEPS}", field="history.row_times"
            )
        last = history.times[-1].astype("datetime64[ns]")
        return Context(
            features=history.columns["load"][-LAST_DAY_STEPS:],
            day_number=0,
            step_times=last + _HOUR * np.arange(1, LAST_DAY_STEPS + 1),
            step_slots=np.arange(LAST_DAY_STEPS),
        )

    def draw(
        self,
        context: Context,
        count: int,
        seed: int,
        start: int = 0,
        *,
        graph: str = SCENARIOS_GRAPH,  # noqa: ARG002 - it is its own baseline
    ) -> NDArray[np.float32]:
        """(count, T, 1) from scenario ``start`` of the seed."""
        noise = np.random.default_rng(seed).normal(size=(start + count, LAST_DAY_STEPS))[start:]
        paths: NDArray[np.float32] = (context.features + 0.1 * noise)[..., None].astype(np.float32)
        return paths

    def scenario_set(self, context: Context, paths: NDArray[np.float32], seed: int) -> ScenarioSet:
        """The paths with their names and times."""
        return ScenarioSet(
            paths=torch.from_numpy(paths.astype(np.float64))[None],
            names=("load",),
            units=("GW",),
            times=context.step_times[None],
            source=self.made_by,
            seed=seed,
        )


@functools.cache
def newsvendor(num_steps: int) -> TwoStageProgram:
    """Without a binding capacity each step is the 50 / 50.5 quantile of its load."""
    schedule = cp.Variable(num_steps, name="schedule")
    load = cp.Parameter(num_steps, name="load")
    capacity = cp.Parameter(name="capacity", value=100.0)
    return TwoStageProgram(
        name="newsvendor",
        decision=schedule,
        uncertain=load,
        given=capacity,
        constraints=[schedule >= 0, schedule <= capacity],
        recourse_cost=50 * cp.sum(cp.pos(load - schedule)) + 0.5 * cp.sum(cp.pos(schedule - load)),
    )


def last_day_model() -> LocalModel:
    """A small real model to serve, ``last_day@3``, warm: `LastDay` scenarios, `newsvendor` decisions."""
    source = LastDay()
    load = ColumnSpec(name="load", unit="GW")
    description = ModelDescription(
        name="last_day",
        version="3",
        fingerprint="f" * 64,
        aliases=("champion",),
        program=ProgramDescription(
            name="newsvendor",
            version="1",
            fingerprint="p" * 64,
            decision=(ArraySpec(name="schedule", shape=(LAST_DAY_STEPS,), unit="GW"),),
            uncertain=(ArraySpec(name="load", shape=(LAST_DAY_STEPS,), unit="GW"),),
            given=(ArraySpec(name="capacity", shape=(), unit="GW"),),
        ),
        history_columns=(load,),
        known_columns=(),
        history_steps=LAST_DAY_STEPS,
        horizon_steps=LAST_DAY_STEPS,
        step_seconds=3600.0,
        time_zone="UTC",
        series=(load,),
    )
    served = ServedModel(description=description, source=source, program=newsvendor)
    # Compiled kernels take a minute on a machine that has none: before any deadline runs.
    slots = np.arange(LAST_DAY_STEPS)
    context = Context(np.full(LAST_DAY_STEPS, 40.0), 0, slots.astype("datetime64[ns]"), slots)
    warm_up(served, context, source.draw(context, 8, 0))
    return LocalModel(model=served, draw=source.draw)


def last_day_rows() -> NamedRows:
    """Twelve hours of made-up load, from 2020-06-01: what `last_day_model` wants to be told."""
    steps = np.arange(2 * LAST_DAY_STEPS)
    times = np.datetime64("2020-06-01T00:00", "ns") + _HOUR * steps
    return NamedRows(times=times, columns={"load": 40.0 + 5.0 * np.sin(steps)})


def last_day_envelope(rows: NamedRows, **changes: object) -> Envelope:
    """Bounds that hold what `last_day_model` draws after ``rows``, and not what spreads ten times wider."""
    last = rows.columns["load"][-LAST_DAY_STEPS:]
    envelope = Envelope(
        features=tuple(f"load_{index}" for index in range(LAST_DAY_STEPS)),
        feature_low=tuple(last - 1.0),
        feature_high=tuple(last + 1.0),
        columns=("load",),
        longest_runs=(1,),
        series=("load",),
        series_low=(30.0,),
        series_high=(50.0,),
        spread_low=(0.08,),
        spread_high=(0.12,),
    )
    return dataclasses.replace(envelope, **changes)  # type: ignore[arg-type]


def fewer_scenarios_step() -> MeasuredStep:
    """What 20 scenarios for 200 might cost."""
    return MeasuredStep(
        rungs=("fewer_scenarios",),
        regret_increase=3.0,
        lower_bound=1.0,
        upper_bound=5.0,
        confidence=0.95,
        reference_regret=40.0,
        num_days=84,
        first_day="2021-07-01",
        last_day="2021-09-22",
        num_scenarios=20,
        reference_scenarios=200,
        measured_time="2021-10-01T00:00:00Z",
    )
