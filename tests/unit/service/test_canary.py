"""A second version in the shadow: common random numbers, pairs of outcomes, a recommendation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from hedgecast.client import Client, ScenarioArrays
from hedgecast.outcomes import OutcomeStore
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc
from hedgecast.service.background import background_server
from hedgecast.service.canary import canary_of, chosen
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.settings import load_settings

STEPS = 6


def test_the_share_is_by_the_id_alone() -> None:
    ids = [f"request-{number}" for number in range(4000)]
    share = np.mean([chosen(name, 0.25) for name in ids])
    # 4,000 fair draws: three standard errors are 0.021.
    assert abs(share - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 4000)
    assert not any(chosen(name, 0.0) for name in ids)
    assert all(chosen(name, 1.0) for name in ids)
    assert [chosen(name, 0.5) for name in ids] == [chosen(name, 0.5) for name in ids]


@pytest.fixture
def backend(local_model: LocalModel) -> Iterator[LocalBackend]:
    """Version 3, and version 4 in its shadow, whose scenarios lie a fifth too low."""
    newer = dataclasses.replace(local_model.model.description, version="4", aliases=("canary",))

    def low(
        context: Context, count: int, seed: int, start: int = 0, *, graph: str = SCENARIOS_GRAPH
    ) -> np.ndarray:
        return local_model.draw(context, count, seed, start) - np.float32(0.2)

    model = dataclasses.replace(local_model.model, description=newer)
    backend = LocalBackend([local_model, LocalModel(model=model, draw=low)])
    yield backend
    backend.close()


def test_only_another_version_of_the_same_model_is_a_canary(local_model: LocalModel) -> None:
    first = local_model.model.description
    second = dataclasses.replace(first, version="4", aliases=("canary",))
    other = dataclasses.replace(second, name="other")
    assert canary_of(first, (first, other)) is None
    assert canary_of(first, (first, other, second)) is second
    assert canary_of(second, (first, second)) is None


def test_a_worse_version_is_rolled_back(backend: LocalBackend, rows: NamedRows, tmp_path: Path) -> None:
    folder = tmp_path / "outcomes"
    settings = load_settings(port=0, outcomes_folder=folder, canary_share=1.0)
    generator = np.random.default_rng(2)
    mean = rows.columns["load"][-STEPS:]
    with background_server(backend, settings) as address, Client(address) as client:
        ids = []
        for seed in range(90):
            answer = client.decide(
                "last_day", history=rows.columns, history_times=rows.times, seed=seed, scenario_count=20,
                gap_replications=0,
            )  # fmt: skip
            assert answer.model == "last_day@3"
            ids.append(answer.decision_id)
            # Shadows share the one thread: what is busy is left out.
            time.sleep(0.02)
        time.sleep(0.5)
        for decision_id in ids:
            truth = (mean + 0.1 * generator.normal(size=STEPS)).reshape(1, STEPS, 1)
            realized = ScenarioArrays(
                series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"), paths=truth,
                probabilities=np.ones(1),
            )  # fmt: skip
            client.record_outcome(decision_id, realized)
        with grpc.insecure_channel(address) as channel:
            stub = model_grpc.ModelServiceStub(channel)
            found = stub.GetModelPerformance(model_pb.GetModelPerformanceRequest(name="last_day"), timeout=20)
    assert found.canary.name == "last_day@4"
    # Twelve in a thousand of 50 times too little against a fifth too low at every step: clear in ten blocks.
    assert found.canary.action == model_pb.Canary.ROLLBACK
    assert found.canary.lower_bound > 0
    assert found.canary.outcome_count >= 70
    with OutcomeStore(folder) as store:
        pairs = store.pairs("last_day", champion="3", challenger="4")
        assert len(pairs.champion) >= 70
        assert pairs.challenger.mean() > 10 * pairs.champion.mean()


def test_both_versions_see_the_same_noise(backend: LocalBackend, rows: NamedRows, tmp_path: Path) -> None:
    settings = load_settings(port=0, outcomes_folder=tmp_path / "o", canary_share=1.0)
    with background_server(backend, settings) as address, Client(address) as client:
        answer = client.decide(
            "last_day", history=rows.columns, history_times=rows.times, seed=9, scenario_count=20
        )
    # Stopping waits for the shadow.
    with OutcomeStore(tmp_path / "o") as store:
        (shadow,) = store.shadows(answer.decision_id)
    assert (shadow.model_version, shadow.seed, shadow.request_id) == ("4", 9, "")
    np.testing.assert_allclose(shadow.decision["schedule"], answer.decision["schedule"] - 0.2, atol=1e-5)


def test_a_retry_casts_no_second_shadow(backend: LocalBackend, rows: NamedRows, tmp_path: Path) -> None:
    settings = load_settings(port=0, outcomes_folder=tmp_path / "o", canary_share=1.0)
    with background_server(backend, settings) as address, Client(address) as client:
        tries = [
            client.decide(
                "last_day",
                history=rows.columns,
                history_times=rows.times,
                scenario_count=20,
                request_id="one",
            )
            for _ in range(3)
        ]
    assert len({answer.decision_id for answer in tries}) == 1
    with OutcomeStore(tmp_path / "o") as store:
        assert len(store.shadows(tries[0].decision_id)) == 1, "a day would count as often as it was asked for"


def test_without_a_share_there_is_no_shadow(backend: LocalBackend, rows: NamedRows, tmp_path: Path) -> None:
    with (
        background_server(backend, load_settings(port=0, outcomes_folder=tmp_path / "o")) as address,
        Client(address) as client,
    ):
        answer = client.decide("last_day", history=rows.columns, history_times=rows.times, scenario_count=20)
    with OutcomeStore(tmp_path / "o") as store:
        assert store.shadows(answer.decision_id) == ()
