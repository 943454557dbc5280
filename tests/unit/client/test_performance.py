"""What decisions of a version were worth, by both clients and the command, against a real server."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from hedgecast import client as public
from hedgecast.client import AsyncClient, Client, ScenarioArrays
from hedgecast.client.performance import model_performance
from hedgecast.core import errors
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.settings import load_settings

STEPS = 6


@pytest.fixture
def address(local_model: LocalModel, rows: NamedRows, tmp_path: Path) -> Iterator[str]:
    """Version 3 with two outcomes, and a canary with none."""
    newer = dataclasses.replace(local_model.model.description, version="4", aliases=("canary",))
    second = dataclasses.replace(local_model, model=dataclasses.replace(local_model.model, description=newer))
    backend = LocalBackend([local_model, second])
    settings = load_settings(port=0, outcomes_folder=tmp_path / "outcomes")
    with background_server(backend, settings) as address, Client(address) as client:
        for seed in range(2):
            answer = client.decide(
                "last_day", history=rows.columns, history_times=rows.times, scenario_count=20, seed=seed
            )
            client.record_outcome(answer.decision_id, _realized(answer.decision["schedule"] + 1.0 + seed))
        yield address
    backend.close()


def _realized(values: np.ndarray) -> ScenarioArrays:
    return ScenarioArrays(
        series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"),
        paths=values.reshape(1, STEPS, 1), probabilities=np.ones(1),
    )  # fmt: skip


def test_both_clients_say_what_the_service_says(address: str) -> None:
    async def run() -> public.ModelPerformance:
        async with AsyncClient(address) as client:
            return await client.performance("last_day@champion")

    with Client(address) as client:
        found = client.performance("last_day")
    with grpc.insecure_channel(address) as channel:
        request = model_pb.GetModelPerformanceRequest(name="last_day")
        message = model_grpc.ModelServiceStub(channel).GetModelPerformance(request, timeout=20)
    # NaN is not equal to itself: what is printed is compared.
    assert repr(found) == repr(model_performance(message)) == repr(asyncio.run(run()))
    assert (found.name, found.outcomes, found.state, found.warning) == ("last_day@3", 2, "TOO_FEW", "")
    # A unit short at every step costs 50, two units 100.
    assert found.cost.mean == pytest.approx(STEPS * (50.0 + 100.0) / 2, rel=1e-6)
    assert found.regret.mean == pytest.approx(found.cost.mean, rel=1e-6)
    assert found.regret.count == 2
    assert {(item.series, item.state) for item in found.coverages} == {("load", "TOO_FEW")}
    assert math.isnan(found.drift.p_value)
    assert found.canary is not None
    assert (found.canary.name, found.canary.action, found.canary.outcomes) == ("last_day@4", "GO_ON", 0)
    assert found.canary.upper_bound == math.inf


def test_every_field_is_read_as_it_was_sent() -> None:
    pairs = {
        public.ModelPerformance: model_pb.ModelPerformance,
        public.OutcomeMean: model_pb.SeriesMean,
        public.CoverageFigures: model_pb.Coverage,
        public.DriftFigures: model_pb.Drift,
        public.CanaryFigures: model_pb.Canary,
    }
    for record, message in pairs.items():
        assert len(dataclasses.fields(record)) == len(message.DESCRIPTOR.fields), record
    means = {
        name: model_pb.SeriesMean(mean=place, standard_error=place + 0.5, count=place + 2)
        for place, name in enumerate(("regret", "cost", "regret_excess", "cost_excess"))
    }
    sent = model_pb.ModelPerformance(
        name="a@1", outcome_count=9, **means, warning="w", state=model_pb.ModelPerformance.OUT_OF_BAND,
        drift=model_pb.Drift(location=0.1, spread=0.2, p_value=0.3, drifted=True),
        coverages=[
            model_pb.Coverage(
                series="load", level=0.9, expected_share=0.8, covered_share=0.7, lower_bound=0.6,
                upper_bound=0.95, state=model_pb.ModelPerformance.IN_BAND,
            )
        ],
        canary=model_pb.Canary(
            name="a@2", action=model_pb.Canary.PROMOTE, regret_difference=-2.0, lower_bound=-3.0,
            upper_bound=-1.0, confidence=0.95, outcome_count=80, reason="r",
        ),
    )  # fmt: skip
    mean = public.OutcomeMean
    assert model_performance(sent) == public.ModelPerformance(
        name="a@1",
        outcomes=9,
        regret=mean(mean=0.0, standard_error=0.5, count=2),
        cost=mean(mean=1.0, standard_error=1.5, count=3),
        regret_excess=mean(mean=2.0, standard_error=2.5, count=4),
        cost_excess=mean(mean=3.0, standard_error=3.5, count=5),
        coverages=(
            public.CoverageFigures(
                series="load", level=0.9, expected_share=0.8, covered_share=0.7, lower_bound=0.6,
                upper_bound=0.95, state="IN_BAND",
            ),
        ),
        drift=public.DriftFigures(location=0.1, spread=0.2, p_value=0.3, drifted=True),
        state="OUT_OF_BAND",
        warning="w",
        canary=public.CanaryFigures(
            name="a@2", action="PROMOTE", regret_difference=-2.0, lower_bound=-3.0, upper_bound=-1.0,
            confidence=0.95, outcomes=80, reason="r",
        ),
    )  # fmt: skip


def test_a_model_without_outcomes_is_an_error(address: str, local_backend: LocalBackend) -> None:
    with Client(address) as client:
        with pytest.raises(errors.DecisionNotFoundError, match="no outcome of last_day@4"):
            client.performance("last_day@4")
        with pytest.raises(errors.ModelNotFoundError):
            client.performance("other")
    with (
        background_server(local_backend, load_settings(port=0)) as without,
        Client(without) as client,
        pytest.raises(errors.NotOfferedError),
    ):
        client.performance("last_day")
