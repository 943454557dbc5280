"""The server on a real channel: health, load, cancellation, tokens, reflection."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from hedgecast.client import Client
from hedgecast.core import errors
from hedgecast.rpc import codec
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import Query
from hedgecast.service.server import SERVICES
from hedgecast.service.settings import ServiceSettings, load_settings


class Waiting:
    """A backend that waits until it is let go, and tells what happened to it."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.cancelled = threading.Event()
        self.go = threading.Event()

    async def models(self) -> tuple[ModelDescription, ...]:
        return ()

    async def answer(self, query: Query[Any]) -> Any:
        self.begun.release()
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise ValueError("secret of the backend")


def _settings(**changes: object) -> ServiceSettings:
    return load_settings(port=0, **changes)


def _request(rows: NamedRows) -> decision_pb.DecideRequest:
    return decision_pb.DecideRequest(model="last_day", history=codec.encode_rows(rows))


def _health(channel: grpc.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


@pytest.mark.parametrize("ready", [False, True])
def test_health_is_per_service_and_waits_for_warmth(local_backend: LocalBackend, ready: bool) -> None:
    server = background_server(local_backend, _settings(), ready=ready)
    with server as address, grpc.insecure_channel(address) as channel:
        for service in ("", *SERVICES):
            assert _health(channel, service) == (1 if ready else 2)
        with pytest.raises(grpc.RpcError) as caught:
            _health(channel, "other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_bytes_that_are_no_health_request_are_the_callers_error(local_backend: LocalBackend) -> None:
    with background_server(local_backend, _settings()) as address, grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError, match="not a message of its type") as caught:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff", timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert _health(channel) == 1


def test_reflection_lists_and_describes_the_services(local_backend: LocalBackend) -> None:
    with background_server(local_backend, _settings()) as address, grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(SERVICES) < set(database.get_services())
        found = database.FindFileContainingSymbol("hedgecast.rpc.v1.DecisionService")
        assert found.service[0].method[0].name == "Decide"


def test_more_than_the_limit_is_refused_with_a_delay_while_health_answers(rows: NamedRows) -> None:
    backend = Waiting()
    settings = _settings(max_concurrent_requests=2, retry_delay_seconds=0.25)
    with background_server(backend, settings) as address, grpc.insecure_channel(address) as channel:
        stub = decision_grpc.DecisionServiceStub(channel)
        first = [stub.Decide.future(_request(rows), timeout=20) for _ in range(2)]
        for _ in first:
            assert backend.begun.acquire(timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Decide(_request(rows), timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _detail(caught.value, error_details_pb2.RetryInfo).retry_delay.nanos == 250_000_000
        assert _detail(caught.value, error_details_pb2.ErrorInfo).reason == "OVERLOADED"
        assert _health(channel) == 1
        backend.go.set()
        for call in first:
            assert call.exception(timeout=10).code() is grpc.StatusCode.INTERNAL
            assert "secret" not in str(call.trailing_metadata()) + call.details()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Decide(_request(rows), timeout=5)
        assert caught.value.code() is grpc.StatusCode.INTERNAL, "the slots are free again"


def test_an_internal_error_is_logged_under_the_id_that_is_sent(
    rows: NamedRows, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Waiting()
    backend.go.set()
    with (
        background_server(backend, _settings()) as address,
        Client(address, retries=0) as client,
        pytest.raises(errors.ServiceError, match="internal error; quote incident") as caught,
    ):
        client.decide("last_day", history=rows.columns, history_times=rows.times)
    logged = [
        record for record in caplog.records if str(caught.value.facts["incident"]) in record.getMessage()
    ]
    assert logged[0].exc_info is not None
    assert "secret of the backend" in str(logged[0].exc_info[1])


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_work_stops_when_nobody_waits(rows: NamedRows, how: str) -> None:
    backend = Waiting()
    with background_server(backend, _settings()) as address, grpc.insecure_channel(address) as channel:
        stub = decision_grpc.DecisionServiceStub(channel)
        call = stub.Decide.future(_request(rows), timeout=0.5 if how == "deadline" else 20)
        assert backend.begun.acquire(timeout=10)
        if how == "cancel":
            call.cancel()
        assert backend.cancelled.wait(timeout=10)


def test_the_servers_default_deadline_applies_to_callers_without_one(rows: NamedRows) -> None:
    settings = _settings(default_deadline_seconds=0.1)
    with background_server(Waiting(), settings) as address, grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            decision_grpc.DecisionServiceStub(channel).Decide(_request(rows))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert _detail(caught.value, error_details_pb2.ErrorInfo).reason == "DEADLINE_EXCEEDED"


def test_a_request_under_way_finishes_when_the_server_stops(rows: NamedRows) -> None:
    backend = Waiting()
    with contextlib.ExitStack() as stack:
        with background_server(backend, _settings()) as address:
            channel = stack.enter_context(grpc.insecure_channel(address))
            call = decision_grpc.DecisionServiceStub(channel).Decide.future(_request(rows), timeout=20)
            assert backend.begun.acquire(timeout=10)
            timer = threading.Timer(0.3, backend.go.set)
            timer.start()
        # The block is left, so the server has stopped: with the handler's own outcome, not cancelled.
        assert call.exception(timeout=5).code() is grpc.StatusCode.INTERNAL
        assert not backend.cancelled.is_set()
        timer.join()


def test_a_request_that_takes_longer_than_the_drain_is_cut_off(rows: NamedRows) -> None:
    backend = Waiting()
    with contextlib.ExitStack() as stack:
        with background_server(backend, _settings(drain_seconds=0.2)) as address:
            channel = stack.enter_context(grpc.insecure_channel(address))
            call = decision_grpc.DecisionServiceStub(channel).Decide.future(_request(rows), timeout=20)
            assert backend.begun.acquire(timeout=10)
        assert call.exception(timeout=5) is not None
        assert backend.cancelled.wait(timeout=5)


class Blocking(Waiting):
    """One that holds the server's event loop up until it is let go."""

    async def answer(self, query: Query[Any]) -> Any:
        self.begun.release()
        self.go.wait(timeout=20)
        raise ValueError("secret of the backend")


def test_calls_that_came_before_the_stop_are_answered(rows: NamedRows) -> None:
    backend = Blocking()
    with contextlib.ExitStack() as stack:
        with background_server(backend, _settings()) as address:
            stub = decision_grpc.DecisionServiceStub(stack.enter_context(grpc.insecure_channel(address)))
            calls = [stub.Decide.future(_request(rows), timeout=20)]
            assert backend.begun.acquire(timeout=10)
            # These reach the server's socket; its event loop sees them when it has been told to stop.
            calls += [stub.Decide.future(_request(rows), timeout=20) for _ in range(8)]
            timer = threading.Timer(1.5, backend.go.set)
            timer.start()
        codes = [call.exception(timeout=5).code() for call in calls]
        timer.join()
    # What the backend made of them: nobody was told CANCELLED.
    assert codes == [grpc.StatusCode.INTERNAL] * 9


def test_a_message_over_the_limit_is_refused(local_backend: LocalBackend, rows: NamedRows) -> None:
    settings = _settings(max_message_bytes=2048)
    with background_server(local_backend, settings) as address, Client(address, retries=0) as client:
        assert client.models()
        with pytest.raises(errors.OverloadedError, match="larger than max"):
            client.decide("x" * 4096, history=rows.columns, history_times=rows.times)


def test_an_answer_over_the_limit_is_refused_alone(local_backend: LocalBackend, rows: NamedRows) -> None:
    large = _request(rows)
    large.MergeFrom(decision_pb.DecideRequest(scenario_count=1000, return_scenarios=True))
    small = _request(rows)
    small.MergeFrom(decision_pb.DecideRequest(scenario_count=5, return_scenarios=True))
    settings = _settings(max_message_bytes=20_000)
    with background_server(local_backend, settings) as address, grpc.insecure_channel(address) as channel:
        stub = decision_grpc.DecisionServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="at most 19744 are sent: ask for fewer") as caught:
            stub.Decide(large, timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = _detail(caught.value, error_details_pb2.BadRequest).field_violations
        assert violation.field == "return_scenarios"
        requests = [
            decision_pb.DecideStreamRequest(correlation_id=name, request=request)
            for name, request in (("large", large), ("small", small))
        ]
        answers = {one.correlation_id: one for one in stub.DecideStream(iter(requests), timeout=60)}
    assert answers["large"].error.reason == "INVALID_INPUT"
    assert answers["small"].response.scenario_count == 5


@pytest.mark.parametrize("calling", [False, True])
def test_a_connection_that_answers_no_ping_is_closed(local_backend: LocalBackend, calling: bool) -> None:
    def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
        return (
            struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + content
        )

    headers = {
        ":method": "POST", ":scheme": "http", ":path": "/hedgecast.rpc.v1.DecisionService/Decide",
        ":authority": "here", "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    block = b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in headers.items()
    )
    settings = _settings(keepalive_seconds=0.3, keepalive_timeout_seconds=0.3)
    with background_server(local_backend, settings) as address:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10.0) as connection:
            # The preface, our settings and that we have seen the server's; the call's message never comes.
            opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(4, 1, 0)
            connection.sendall(opening + (frame(1, 4, 1, block) if calling else b""))
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass


def test_a_taken_port_is_one_clear_error(local_backend: LocalBackend) -> None:
    with background_server(local_backend, _settings()) as address:
        taken = load_settings(port=int(address.rpartition(":")[2]))
        with (
            pytest.raises(errors.ConfigError, match="cannot listen on"),
            background_server(local_backend, taken),
        ):
            pass


def test_calls_need_a_token_where_one_is_asked_for(local_backend: LocalBackend, tmp_path: Path) -> None:
    table = tmp_path / "tokens"
    table.write_text(f"planner {hashlib.sha256(b'sesame').hexdigest()}\n")
    with background_server(local_backend, _settings(token_file=table)) as address:
        with Client(address, token="sesame") as client:
            assert client.models()
        for token in (None, "wrong"):
            with Client(address, token=token) as client, pytest.raises(errors.UnauthenticatedError):
                client.models()
        with grpc.insecure_channel(address) as channel:
            assert _health(channel) == 1


def _detail(error: grpc.RpcError, kind: type) -> object:
    status = rpc_status.from_call(error)
    assert status is not None
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            found = kind()
            detail.Unpack(found)
            return found
    raise AssertionError(f"no {kind.__name__} in {status}")
