"""What an operator sees of ``hedgecast serve``: spans of all processes, metrics, audit, a drain."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hedgecast.client import Client, DecisionAnswer
from hedgecast.core import errors
from hedgecast.data.datasets import load_table
from hedgecast.testing import TinyModel, make_tiny_model

HOURS_BACK = 200
TOKEN = "sesame"
# On the tiny model: long enough to be under way when SIGTERM comes, well within the drain.
MANY_SCENARIOS = 10_000


class Collector:
    """Takes spans over OTLP/HTTP: (service name, span name, trace id)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, bytes]] = []
        spans = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        spans.extend((names["service.name"], s.name, s.trace_id) for s in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def traces(self, seconds: float) -> dict[bytes, set[tuple[str, str]]]:
        """Trace id to its spans, once one has three or the time is up."""
        end = time.monotonic() + seconds
        while True:
            found: dict[bytes, set[tuple[str, str]]] = {}
            for service, name, trace in list(self.spans):
                found.setdefault(trace, set()).add((service, name))
            if any(len(spans) >= 3 for spans in found.values()) or time.monotonic() > end:
                return found
            time.sleep(0.2)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def _decide(address: str, tiny: TinyModel, **options: object) -> DecisionAnswer:
    """The plan of a local winter day, which begins at 23:00 UTC the day before."""
    table = load_table(tiny.study.data)
    start = int(np.searchsorted(table.times, np.datetime64("2021-02-09T23:00", "ns")))
    past, ahead = slice(start - HOURS_BACK, start), slice(start, start + 24)
    with Client(address, token=TOKEN, retries=0) as client:
        return client.decide(
            "tiny",
            history={name: table.columns[name][past] for name in ("load_gw", "holiday")},
            history_times=table.times[past],
            known={"holiday": table.columns["holiday"][ahead]},
            known_times=table.times[ahead],
            **options,  # type: ignore[arg-type]
        )


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _wait_for(line: str, port: int) -> None:
    end = time.monotonic() + 30
    while line not in _metrics(port):
        assert time.monotonic() < end, line
        time.sleep(0.01)


def test_spans_metrics_audit_and_a_drain(tmp_path: Path, collector: Collector) -> None:
    tiny = make_tiny_model(tmp_path)
    audit = tmp_path / "audit.jsonl"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics_port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HEDGECAST_TOKENS": f"planner {hashlib.sha256(TOKEN.encode()).hexdigest()}",
        "HEDGECAST_AUDIT_FILE": str(audit),
        "HEDGECAST_METRICS_PORT": str(metrics_port),
        "HEDGECAST_TRACE_ENDPOINT": collector.endpoint,
        "HEDGECAST_DRAIN_SECONDS": "30",
    }
    command = [str(Path(sys.executable).parent / "hedgecast"), "serve", "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--bundle", str(tiny.bundle.folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        answer = _decide(address, tiny, scenario_count=50, request_id="first")
        with pytest.raises(errors.UnauthenticatedError), Client(address, retries=0) as stranger:
            stranger.models()
        gateway = ("hedgecast-gateway", "hedgecast.rpc.v1.DecisionService/Decide")
        whole = {gateway, ("hedgecast-solver", "solver.answer"), ("hedgecast-denoiser", "denoiser.draw")}
        assert whole in collector.traces(20).values(), "one trace over three processes"
        assert 'hedgecast_scenarios_total{model="tiny@local"} 50.0' in _metrics(metrics_port)
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(_decide, address, tiny, scenario_count=MANY_SCENARIOS, request_id="last")
            _wait_for("hedgecast_requests_under_way 1.0", metrics_port)
            process.send_signal(signal.SIGTERM)
            assert last.result(timeout=60).scenario_count == MANY_SCENARIOS, "it was let finish"
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        process.stdout.close()
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [
        (line["principal"], line["request_id"], line["outcome"]) for line in lines if line["principal"]
    ] == [
        ("planner", "first", "OK"),
        ("planner", "last", "OK"),
    ]
    assert [line["outcome"] for line in lines if not line["principal"]] == ["UNAUTHENTICATED"]
    assert lines[0]["fingerprint"] == answer.scenario_fingerprint
    assert TOKEN not in audit.read_text()
