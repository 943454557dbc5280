"""The port of health checks: plain text beside mutual TLS, the same state, and no other method."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hedgecast.client import Client, TlsFiles
from hedgecast.core import errors
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _state(port: int, service: str = "") -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)


def test_no_other_method_is_answered(local_backend: LocalBackend) -> None:
    port = _free_port()
    with (
        background_server(local_backend, load_settings(port=0, health_port=port)),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        model_grpc.ModelServiceStub(channel).ListModels(model_pb.ListModelsRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_taken_port_is_one_clear_error_and_nothing_stays_open(local_backend: LocalBackend) -> None:
    metrics = _free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = load_settings(port=0, health_port=taken.getsockname()[1], metrics_port=metrics)
        with (
            pytest.raises(errors.ConfigError, match=r"cannot answer health checks on 127\.0\.0\.1:\d+"),
            background_server(local_backend, settings),
        ):
            pass
    with socket.socket() as again:
        again.bind(("127.0.0.1", metrics))


@pytest.mark.parametrize(("ready", "state"), [(True, SERVING), (False, NOT_SERVING)])
def test_a_probe_without_a_certificate_is_told_what_clients_with_one_are(
    local_backend: LocalBackend, authority: Callable[[str], Any], ready: bool, state: int
) -> None:
    ca, port = authority("ours"), _free_port()
    certificate, key = ca.issue("server")
    settings = load_settings(
        port=0, health_port=port, tls_certificate=certificate, tls_key=key, tls_client_ca=ca.certificates
    )
    with background_server(local_backend, settings, ready=ready) as address:
        assert _state(port) == state
        assert _state(port, "hedgecast.rpc.v1.DecisionService") == state
        # The main port lets nobody in who has no certificate.
        tls = TlsFiles(authorities=ca.certificates)
        with (
            Client(address, tls=tls, retries=0, deadline_seconds=5) as client,
            pytest.raises(errors.UnavailableError),
        ):
            client.models()


def test_touching_the_file_drains_and_an_older_touch_does_not(
    local_backend: LocalBackend, tmp_path: Path
) -> None:
    port, file = _free_port(), tmp_path / "drain"
    file.touch()
    settings = load_settings(port=0, health_port=port, drain_file=file, drain_seconds=0.5)
    with background_server(local_backend, settings) as address:
        # Longer than the server takes between two looks.
        time.sleep(0.5)
        assert _state(port) == SERVING
        file.touch()
        end = time.monotonic() + 10
        while _answers(address) and time.monotonic() < end:
            time.sleep(0.05)
        assert time.monotonic() < end, "it goes on as if nobody had touched the file"


def _answers(address: str) -> bool:
    with Client(address, retries=0, deadline_seconds=2) as client:
        try:
            client.models()
        except errors.UnavailableError:
            return False
    return True
