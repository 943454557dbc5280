"""Decisions are kept as they are answered, outcomes when they are known, and models are told by them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from hedgecast.client import Client, DecisionAnswer, ScenarioArrays
from hedgecast.client.requests import decide_request
from hedgecast.core import errors
from hedgecast.outcomes import OutcomeStore
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.outcomes import OutcomeBook
from hedgecast.service.requests import decide_query
from hedgecast.service.settings import ServiceSettings, load_settings

STEPS = 6


def _realized(values: np.ndarray) -> ScenarioArrays:
    return ScenarioArrays(
        series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"),
        paths=values.reshape(1, STEPS, 1), probabilities=np.ones(1),
    )  # fmt: skip


def _decide(client: Client, rows: NamedRows, seed: int = 0, **options: object) -> DecisionAnswer:
    return client.decide(
        "last_day", history=rows.columns, history_times=rows.times, scenario_count=40, gap_replications=0,
        seed=seed, **options,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def address(local_backend: LocalBackend, tmp_path: Path) -> Iterator[str]:
    settings = load_settings(port=0, outcomes_folder=tmp_path / "outcomes")
    with background_server(local_backend, settings) as address:
        yield address


def _performance(address: str, name: str = "last_day") -> model_pb.ModelPerformance:
    with grpc.insecure_channel(address) as channel:
        stub = model_grpc.ModelServiceStub(channel)
        return stub.GetModelPerformance(model_pb.GetModelPerformanceRequest(name=name), timeout=20)


def test_an_outcome_is_what_the_decision_was_worth(address: str, rows: NamedRows) -> None:
    with Client(address) as client:
        answer = _decide(client, rows, request_id="one")
        assert answer.decision_id
        assert _decide(client, rows, request_id="one").decision_id == answer.decision_id
        truth = answer.decision["schedule"] + np.array([1.0, -1.0, 0.0, 2.0, 0.0, 0.0])
        found = client.record_outcome(answer.decision_id, _realized(truth))
        assert found.realized_cost == pytest.approx(50 * 3.0 + 0.5 * 1.0, rel=1e-6)
        # With the load known there would have been no cost.
        assert found.realized_regret == pytest.approx(found.realized_cost, rel=1e-6)
        assert found.expected_cost == pytest.approx(answer.expected_cost)
        assert found.model == "last_day@3"
        assert set(found.covered["load"]) == {0.05, 0.25, 0.5, 0.75, 0.95}
        again = client.record_outcome(answer.decision_id, _realized(truth), request_id="other")
        assert again == found
        with pytest.raises(errors.OutcomeConflictError):
            client.record_outcome(answer.decision_id, _realized(truth + 1.0))
    figures = _performance(address)
    assert (figures.name, figures.outcome_count) == ("last_day@3", 1)
    assert figures.regret.mean == pytest.approx(found.realized_regret)
    assert figures.state == model_pb.ModelPerformance.TOO_FEW


def test_what_does_not_fit_is_refused(address: str, rows: NamedRows) -> None:
    with Client(address) as client:
        answer = _decide(client, rows)
        right = _realized(np.full(STEPS, 40.0))
        cases = (
            ("none", right, errors.DecisionNotFoundError, "none"),
            ("", right, errors.InputError, "decision_id is empty"),
            (
                answer.decision_id,
                dataclasses.replace(right, series=("x",)),
                errors.ShapeError,
                "has series x",
            ),
            (
                answer.decision_id,
                dataclasses.replace(right, paths=np.zeros((2, STEPS, 1))),
                errors.ShapeError,
                "what came true is one",
            ),
            (answer.decision_id, dataclasses.replace(right, units=("MW",)), errors.DataError, "'MW'"),
        )
        for decision_id, realized, error, message in cases:
            with pytest.raises(error, match=message) as caught:
                client.record_outcome(decision_id, realized)
            # The field is one of the request that was made.
            assert "own_scenarios" not in str(caught.value)
            assert str(caught.value.facts["field"]).startswith(("realized", "decision_id"))
        validated = _decide(client, rows, validate_only=True)
        assert validated.decision_id == ""
        _decide(client, rows, request_id="same")
        with pytest.raises(errors.OutcomeConflictError):
            _decide(client, rows, seed=1, request_id="same")


@pytest.mark.parametrize(("moved", "same"), [(1e-9, True), (0.1, False)])
def test_a_retry_that_ends_on_another_plan_can_be_settled(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path, moved: float, same: bool
) -> None:
    message = decide_request("last_day", {"history": rows.columns, "history_times": rows.times})
    query = decide_query(message, load_settings(), deadline_seconds=60.0)
    query = dataclasses.replace(query, keep=True, request_id="one")
    answer = asyncio.run(local_backend.answer(query))
    assert answer.solution is not None
    (plan,) = answer.solution.decision
    plan = dataclasses.replace(plan, values=plan.values + moved)
    other = dataclasses.replace(answer, solution=dataclasses.replace(answer.solution, decision=(plan,)))

    async def kept() -> list[str]:
        return [await book.keep(query, one, "planner") for one in (answer, other, other)]

    book = OutcomeBook(OutcomeStore(tmp_path / "outcomes"))
    first, second, third = asyncio.run(kept())
    book.close()
    assert first
    assert second
    assert (second == first) is same
    assert (third == first) is same


def test_another_callers_decision_does_not_exist(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    import hashlib

    lines = [f"{name} {hashlib.sha256(name.encode()).hexdigest()}" for name in ("ann", "bob")]
    settings = load_settings(port=0, outcomes_folder=tmp_path / "o", tokens="\n".join(lines))
    with background_server(local_backend, settings) as address:
        with Client(address, token="ann") as ann:
            decision_id = _decide(ann, rows).decision_id
        told = []
        with Client(address, token="bob") as bob:
            for asked in (decision_id, "x" * len(decision_id)):
                with pytest.raises(errors.DecisionNotFoundError) as caught:
                    bob.record_outcome(asked, _realized(np.full(STEPS, 40.0)))
                told.append(str(caught.value).replace(asked, "ID"))
        assert told[0] == told[1], "the words do not tell that there is one"


def test_without_a_folder_nothing_is_kept(local_backend: LocalBackend, rows: NamedRows) -> None:
    with background_server(local_backend, ServiceSettings(port=0)) as address, Client(address) as client:
        assert _decide(client, rows).decision_id == ""
        with pytest.raises(errors.NotOfferedError, match="HEDGECAST_OUTCOMES_FOLDER"):
            client.record_outcome("some", _realized(np.zeros(STEPS)))
        with pytest.raises(grpc.RpcError) as caught:
            _performance(address)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_model_that_is_wrong_about_the_world_says_so(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    folder = tmp_path / "outcomes"
    settings = load_settings(port=0, outcomes_folder=folder, metrics_port=0)
    generator = np.random.default_rng(4)
    mean = rows.columns["load"][-STEPS:]
    with background_server(local_backend, settings) as address, Client(address) as client:
        for seed in range(60):
            answer = _decide(client, rows, seed=seed)
            if any(text.startswith("REALIZED_COVERAGE") for text in answer.warnings):
                break
            # The load comes out a deviation and a half above what the scenarios say.
            truth = mean + 0.15 + 0.1 * generator.normal(size=STEPS)
            client.record_outcome(answer.decision_id, _realized(truth))
        assert 5 < seed < 59, "too few outcomes prove nothing, sixty do"
        figures = _performance(address)
        assert figures.state == model_pb.ModelPerformance.OUT_OF_BAND
        assert "load" in figures.warning
    # The alarm is there after a restart too.
    with background_server(local_backend, settings) as address, Client(address) as client:
        ask = {"history": rows.columns, "history_times": rows.times, "scenario_count": 40}
        answers = [
            _decide(client, rows),
            client.evaluate("last_day", {"mean": {"schedule": mean}}, **ask),
            client.explain("last_day", **ask),
            client.scenarios("last_day", **ask),
            *(stage.best for stage in client.decide_until_certified("last_day", **ask, target_gap=1e6)),
        ]
        assert len(answers) == 5
        for answer in answers:
            (warning,) = [text for text in answer.warnings if text.startswith("REALIZED")]
            assert "outside" in warning


def test_outcomes_of_a_version_that_is_no_longer_served(
    local_model: LocalModel, rows: NamedRows, tmp_path: Path
) -> None:
    settings = load_settings(port=0, outcomes_folder=tmp_path / "outcomes")
    backend = LocalBackend([local_model])
    with background_server(backend, settings) as address, Client(address) as client:
        decision_id = _decide(client, rows).decision_id
    backend.close()
    newer = dataclasses.replace(local_model.model.description, version="4")
    model = dataclasses.replace(local_model, model=dataclasses.replace(local_model.model, description=newer))
    backend = LocalBackend([model])
    with background_server(backend, settings) as address, Client(address) as client:
        found = client.record_outcome(decision_id, _realized(np.full(STEPS, 40.0)))
        assert found.model == "last_day@3"
    backend.close()
