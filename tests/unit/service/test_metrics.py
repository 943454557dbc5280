"""Metrics of a real server, read as Prometheus reads them."""

from __future__ import annotations

import socket
import time
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hedgecast.client import Client
from hedgecast.core import errors
from hedgecast.outcomes import Figures, Performance, performance_of
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.service.background import background_server
from hedgecast.service.calls import Call
from hedgecast.service.local import LocalBackend
from hedgecast.service.metrics import ServiceMetrics
from hedgecast.service.settings import load_settings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _get(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_a_servers_work_is_counted(local_backend: LocalBackend, rows: NamedRows) -> None:
    port = _free_port()
    settings = load_settings(port=0, metrics_port=port)
    with background_server(local_backend, settings) as address, Client(address, retries=0) as client:
        ask = {"history": rows.columns, "history_times": rows.times}
        answer = client.decide("last_day", **ask, scenario_count=50)
        client.decide("last_day", **ask, scenario_count=30)
        for number in range(5):
            with pytest.raises(errors.ModelNotFoundError):
                client.decide(f"made_up_{number}", **ask)
        with pytest.raises(errors.InfeasibleError):
            client.decide("last_day", **ask, given={"capacity": -1.0})
        # A call is counted when it is over, which its answer does not wait for.
        found, end = _read(port), time.monotonic() + 10.0
        while _get(found, "hedgecast_request_seconds_count", method="Decide") < 8 and time.monotonic() < end:
            found = _read(port)
    assert _get(found, "hedgecast_requests_total", method="Decide", code="OK", reason="") == 2
    missing = {"method": "Decide", "code": "NOT_FOUND", "reason": "MODEL_NOT_FOUND"}
    assert _get(found, "hedgecast_requests_total", **missing) == 5
    assert _get(found, "hedgecast_request_seconds_count", method="Decide") == 8
    assert _get(found, "hedgecast_scenarios_total", model="last_day@3") == 80
    assert _get(found, "hedgecast_solver_verdicts_total", verdict="OPTIMAL") == 2
    assert _get(found, "hedgecast_solver_verdicts_total", verdict="INFEASIBLE") == 1
    assert _get(found, "hedgecast_solver_iterations_count", backend=answer.verdict.backend) == 2
    assert _get(found, "hedgecast_solver_iterations_sum", backend=answer.verdict.backend) >= 2
    # One after the other: each by itself.
    assert _get(found, "hedgecast_batch_size_bucket", model="last_day@3", le="1.0") == 2
    for stage in ("scenario", "solve", "statistics", "waiting"):
        assert _get(found, "hedgecast_stage_seconds_count", model="last_day@3", stage=stage) == 2
    solve = _get(found, "hedgecast_stage_seconds_sum", model="last_day@3", stage="solve")
    assert solve >= answer.durations["solve"]
    assert _get(found, "hedgecast_model_info", model="last_day@3", fingerprint="f" * 64) == 1
    assert _get(found, "hedgecast_requests_under_way") == 0
    assert not any("made_up" in str(labels) for _, labels in found), "no label that a caller wrote"


def test_the_port_closes_with_the_server(local_backend: LocalBackend) -> None:
    port = _free_port()
    with background_server(local_backend, load_settings(port=0, metrics_port=port)):
        assert _read(port)
    with pytest.raises(OSError, match="refused"):
        _read(port)


def test_a_taken_port_is_one_clear_error(local_backend: LocalBackend) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = load_settings(port=0, metrics_port=taken.getsockname()[1])
        with (
            pytest.raises(errors.ConfigError, match="cannot give metrics on 127"),
            background_server(local_backend, settings),
        ):
            pass


def test_metrics_stay_on_loopback_unless_told_otherwise() -> None:
    assert load_settings(metrics_port=0).metrics_host == "127.0.0.1"
    with pytest.raises(errors.ConfigError, match="metrics_host"):
        load_settings(metrics_port=0, metrics_host="0.0.0.0")
    assert load_settings(metrics_port=0, metrics_host="0.0.0.0", allow_insecure=True)
    open_metrics = load_settings(metrics_port=0, metrics_host="0.0.0.0", allow_open_metrics=True)
    assert not open_metrics.allow_insecure


def _performance(regret: float) -> Performance:
    ones = np.ones(1)
    figures = Figures(
        model="grid", version="3", total=1, issued_at=np.array(["2030-01-01"], "datetime64[us]"), cost=ones,
        regret=regret * ones, expected_cost=ones, expected_regret=ones, cost_level=0.5 * ones, coverage={},
    )  # fmt: skip
    return performance_of(figures)


def test_realized_regret_is_what_was_last_stated() -> None:
    metrics = ServiceMetrics()
    for regret in (5.0, -0.25):
        metrics.set_performance("grid@3", _performance(regret))
    assert metrics.registry.get_sample_value("hedgecast_realized_regret", {"model": "grid@3"}) == -0.25


def test_a_missing_provider_is_told() -> None:
    metrics = ServiceMetrics()
    name = "hedgecast_missing_execution_providers"
    metrics.set_missing_providers(())
    assert metrics.registry.get_sample_value(name, {"provider": "CUDAExecutionProvider"}) is None
    metrics.set_missing_providers(("CUDAExecutionProvider",))
    assert metrics.registry.get_sample_value(name, {"provider": "CUDAExecutionProvider"}) == 1


def test_a_solve_that_failed_within_a_stream_is_counted() -> None:
    metrics = ServiceMetrics()
    call = Call(method="DecideStream", service="s", request_id="r", incident="i")
    for reason in ("INFEASIBLE", "INVALID_DATA"):
        answer = decision_pb.DecideStreamResponse(error=decision_pb.StreamError(reason=reason))
        metrics.answered(call, call.answered(answer))
    verdicts = "hedgecast_solver_verdicts_total"
    assert metrics.registry.get_sample_value(verdicts, {"verdict": "INFEASIBLE"}) == 1
    assert metrics.registry.get_sample_value(verdicts, {"verdict": "INVALID_DATA"}) is None
