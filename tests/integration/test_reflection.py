"""A client that knows the address alone learns the rest by reflection, as grpcurl does: JSON in, JSON out."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from hedgecast.client import Client
from hedgecast.rpc.v1.decision_service_pb2 import DecideRequest
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import last_day_model, last_day_rows

DECISIONS = "hedgecast.rpc.v1.DecisionService"
MODELS = "hedgecast.rpc.v1.ModelService"


class Explorer:
    """Calls methods by name; its messages are made of the descriptors that the server sends."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = descriptor_pool.DescriptorPool(self._database)

    def services(self) -> set[str]:
        return set(self._database.get_services())

    def methods(self, service: str) -> dict[str, MethodDescriptor]:
        return dict(self._pool.FindServiceByName(service).methods_by_name)

    def message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))

    def call(self, service: str, method: str, question: dict[str, Any]) -> dict[str, Any]:
        found = self.methods(service)[method]
        reply = message_factory.GetMessageClass(found.output_type)
        asked = json_format.ParseDict(question, message_factory.GetMessageClass(found.input_type)())
        stub = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        answer: dict[str, Any] = json_format.MessageToDict(stub(asked, timeout=60))
        return answer


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    backend = LocalBackend([last_day_model()])
    with background_server(backend, load_settings(port=0)) as address:
        yield address
    backend.close()


@pytest.fixture
def explorer(address: str) -> Iterator[Explorer]:
    with grpc.insecure_channel(address) as channel:
        yield Explorer(channel)


def _question(**changes: Any) -> dict[str, Any]:
    rows = last_day_rows()
    return {
        "model": "last_day",
        "history": {
            "rowTimes": [f"{time}Z" for time in rows.times.astype("datetime64[s]")],
            "columns": [{"name": "load", "values": list(rows.columns["load"])}],
        },
        "scenarioCount": 50,
        "seed": "7",
        "gapReplicationCount": 0,
        **changes,
    }


def test_services_and_their_calls_can_be_found(explorer: Explorer) -> None:
    assert explorer.services() >= {DECISIONS, MODELS, "grpc.health.v1.Health"}
    calls = explorer.methods(DECISIONS)
    kinds = {name: (call.client_streaming, call.server_streaming) for name, call in calls.items()}
    assert kinds["Decide"] == (False, False)
    assert kinds["DecideUntilCertified"] == (False, True)
    assert kinds["DecideStream"] == (True, True)
    assert {"EvaluateDecisions", "ExplainDecision", "RecordOutcome"} <= set(kinds)
    # The messages are the server's own, not those that were generated here.
    assert explorer.message("hedgecast.rpc.v1.DecideRequest") is not DecideRequest


def test_models_come_as_json(explorer: Explorer) -> None:
    (model,) = explorer.call(MODELS, "ListModels", {})["models"]
    assert model["name"] == "last_day@3"
    assert model["aliases"] == ["champion"]
    assert model["stepDuration"] == "3600s"
    assert model["program"]["decision"] == [{"name": "schedule", "shape": ["6"], "unit": "GW"}]


def test_a_decision_in_json_is_that_of_our_client(explorer: Explorer, address: str) -> None:
    answer = explorer.call(DECISIONS, "Decide", _question(risk={"cvar": {"alpha": 0.8}}))
    rows = last_day_rows()
    with Client(address) as client:
        ours = client.decide(
            "last_day",
            history=rows.columns,
            history_times=rows.times,
            scenario_count=50,
            seed=7,
            risk="cvar:0.8",
            gap_replications=0,
        )
    (schedule,) = answer["decision"]
    values = np.frombuffer(base64.b64decode(schedule["values"]["data"]), "<f8")
    np.testing.assert_array_equal(values, ours.decision["schedule"])
    assert schedule["stepTimes"][0] == "2020-06-01T12:00:00Z"
    assert answer["scenarioFingerprint"] == ours.scenario_fingerprint
    assert answer["expectedCost"] == ours.expected_cost
    assert answer["verdict"]["state"] == "OPTIMAL"
    assert answer["seed"] == "7"


def test_what_the_server_does_not_know_is_refused(explorer: Explorer) -> None:
    with pytest.raises(json_format.ParseError, match="seeed"):
        explorer.call(DECISIONS, "Decide", _question(seeed="7"))
    with pytest.raises(grpc.RpcError) as caught:
        explorer.call(DECISIONS, "Decide", _question(seed="-7"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "seed" in caught.value.details()
