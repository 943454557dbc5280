"""A small real model for the service's tests: Gaussian scenarios around the last day, one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.bundles import warm_up
from hedgecast.service.decide import ServedModel
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.models import ArraySpec, ColumnSpec, ModelDescription, ProgramDescription

STEPS = 6
HOUR = np.timedelta64(1, "h")


class LastDay:
    """Tomorrow is like the last six hours, give or take a Gaussian tenth."""

    def read(self, history: NamedRows, known: NamedRows) -> Context:
        if history.num_rows < STEPS:
            raise DataError(f"history has {history.num_rows} rows: needs {STEPS}", field="history.row_times")
        last = history.times[-1].astype("datetime64[ns]")
        return Context(
            features=history.columns["load"][-STEPS:],
            day_number=0,
            step_times=last + HOUR * np.arange(1, STEPS + 1),
            step_slots=np.arange(STEPS),
        )

    def draw(
        self, context: Context, count: int, seed: int, start: int = 0, *, baseline: bool = False
    ) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(start + count, STEPS))[start:]
        return (context.features + 0.1 * noise)[..., None].astype(np.float32)

    def scenario_set(self, context: Context, paths: np.ndarray, seed: int) -> ScenarioSet:
        return ScenarioSet(
            paths=torch.from_numpy(paths.astype(np.float64))[None],
            names=("load",),
            units=("GW",),
            times=context.step_times[None],
            source="last day",
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


@pytest.fixture(scope="session")
def local_model() -> LocalModel:
    source = LastDay()
    description = ModelDescription(
        name="last_day",
        version="3",
        fingerprint="f" * 64,
        aliases=("champion",),
        program=ProgramDescription(
            name="newsvendor",
            version="1",
            fingerprint="p" * 64,
            decision=(ArraySpec(name="schedule", shape=(STEPS,), unit="GW"),),
            uncertain=(ArraySpec(name="load", shape=(STEPS,), unit="GW"),),
            given=(ArraySpec(name="capacity", shape=(), unit="GW"),),
        ),
        history_columns=(ColumnSpec(name="load", unit="GW"),),
        known_columns=(),
        history_steps=STEPS,
        horizon_steps=STEPS,
        step_seconds=3600.0,
        time_zone="UTC",
        series=(ColumnSpec(name="load", unit="GW"),),
    )
    served = ServedModel(description=description, source=source, program=newsvendor)
    # Compiled kernels take a minute on a machine that has none: before any deadline runs.
    context = Context(np.full(STEPS, 40.0), 0, np.arange(STEPS).astype("datetime64[ns]"), np.arange(STEPS))
    warm_up(served, context, source.draw(context, 8, 0))
    return LocalModel(model=served, draw=source.draw)


@pytest.fixture
def local_backend(local_model: LocalModel) -> Iterator[LocalBackend]:
    older = dataclasses.replace(local_model.model.description, version="2", aliases=())
    backend = LocalBackend(
        [
            local_model,
            dataclasses.replace(local_model, model=dataclasses.replace(local_model.model, description=older)),
        ]
    )
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def rows() -> NamedRows:
    times = np.datetime64("2020-06-01T00:00", "ns") + HOUR * np.arange(2 * STEPS)
    return NamedRows(times=times, columns={"load": 40.0 + 5.0 * np.sin(np.arange(2 * STEPS))})
