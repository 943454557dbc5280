"""``hedgecast serve`` with a real local Ray and a real gRPC channel, from start to the last process.

One service for all tests, with tokens, audit, metrics and spans; the test that drains it comes last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import re
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
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hedgecast.client import Client, DecisionAnswer
from hedgecast.core import errors
from hedgecast.data.datasets import load_table
from hedgecast.data.tables import SeriesTable
from hedgecast.registry.store import ModelStore
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast.testing import TinyModel
from hedgecast_workers.local_service import local_service
from hedgecast_workers.models import present, registered

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

    def has_trace(self, whole: set[tuple[str, str]], seconds: float = 20.0) -> bool:
        """Whether there is a trace of these spans and no others before the time is up."""
        end = time.monotonic() + seconds
        while True:
            found: dict[bytes, set[tuple[str, str]]] = {}
            for service, name, trace in list(self.spans):
                found.setdefault(trace, set()).add((service, name))
            if whole in found.values() or time.monotonic() > end:
                return whole in found.values()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@dataclasses.dataclass(frozen=True)
class Service:
    """The running command."""

    process: subprocess.Popen[str]
    address: str
    metrics_port: int
    audit: Path

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def wait_for(self, line: str) -> None:
        """Until the metrics have it."""
        end = time.monotonic() + 30
        while line not in self.metrics():
            assert time.monotonic() < end, line
            time.sleep(0.01)

    def num_scenarios(self) -> float:
        """Drawn so far."""
        pattern = r'^hedgecast_scenarios_total{model="tiny@local"} (\S+)$'
        return sum(map(float, re.findall(pattern, self.metrics(), re.MULTILINE)))


@pytest.fixture(scope="module")
def service(
    tiny: TinyModel, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    audit = tmp_path_factory.mktemp("service") / "audit.jsonl"
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
        yield Service(process, address, metrics_port, audit)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.address, token=TOKEN, retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def table(tiny: TinyModel) -> SeriesTable:
    return load_table(tiny.study.data)


def _decide(client: Client, table: SeriesTable, day: str, **options: object) -> DecisionAnswer:
    """The plan of a local winter day."""
    return client.decide("tiny", **_rows(table, day), **options)  # type: ignore[arg-type]


def _rows(table: SeriesTable, day: str) -> dict[str, Any]:
    """Of a local winter day, which begins at 23:00 UTC the day before."""
    start = int(np.searchsorted(table.times, np.datetime64(day, "ns") - np.timedelta64(1, "h")))
    past, ahead = slice(start - HOURS_BACK, start), slice(start, start + 24)
    return {
        "history": {name: table.columns[name][past] for name in ("load_gw", "holiday")},
        "history_times": table.times[past],
        "known": {"holiday": table.columns["holiday"][ahead]},
        "known_times": table.times[ahead],
    }


def test_the_service_answers_as_the_bundle_does_in_this_process(
    client: Client, tiny: TinyModel, table: SeriesTable
) -> None:
    backend = LocalBackend([local_model(BundleReference(folder=tiny.bundle.folder))])
    with background_server(backend, load_settings(port=0)) as here, Client(here) as local:
        options: dict[str, object] = {"seed": 5, "scenario_count": 100, "return_scenarios": True}
        served = _decide(client, table, "2021-02-10", risk="cvar:0.8", **options)
        expected = _decide(local, table, "2021-02-10", risk="cvar:0.8", **options)
    backend.close()
    assert served.scenario_fingerprint == expected.scenario_fingerprint
    assert served.scenarios is not None
    assert served.scenarios.paths.shape == (100, 24, 1)
    np.testing.assert_allclose(served.decision["schedule"], expected.decision["schedule"], rtol=1e-6)
    assert served.expected_regret == pytest.approx(expected.expected_regret, rel=1e-6)
    assert served.times[0] == np.datetime64("2021-02-09T23:00", "ns")
    assert served.units == {"schedule": "GW"}
    assert served.model_fingerprint == tiny.bundle.manifest.fingerprint
    # The plan keeps the ramp limit of the study.
    assert np.abs(np.diff(served.decision["schedule"])).max() <= 4.0 + 1e-6


def test_scenarios_are_those_of_a_decision_and_pass_no_solver(
    client: Client, collector: Collector, table: SeriesTable
) -> None:
    rows = _rows(table, "2021-02-10")
    found = client.scenarios("tiny", scenario_count=250, seed=5, batch_scenario_count=100, **rows)
    decided = _decide(client, table, "2021-02-10", seed=5, scenario_count=250, return_scenarios=True)
    assert decided.scenarios is not None
    np.testing.assert_array_equal(found.paths, decided.scenarios.paths)
    assert found.fingerprint == decided.scenario_fingerprint
    assert (found.model, found.model_fingerprint) == (decided.model, decided.model_fingerprint)
    assert (found.names, found.units) == (("load_gw",), ("GW",))
    np.testing.assert_array_equal(found.times, decided.scenarios.times)
    gateway = ("hedgecast-gateway", "hedgecast.rpc.v1.ScenarioService/GenerateScenarios")
    own = {("hedgecast-solver", name) for name in ("denoiser.answer", "denoiser.draw")}
    assert collector.has_trace({gateway, *own})
    with pytest.raises(errors.DataError, match="lacks column 'holiday'"):
        client.scenarios("tiny", **{**rows, "history": {"load_gw": rows["history"]["load_gw"]}})
    with pytest.raises(errors.DeadlineError):
        client.scenarios("tiny", scenario_count=200_000, deadline_seconds=0.05, **rows)


def test_health_and_models(service: Service, client: Client) -> None:
    with grpc.insecure_channel(service.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="hedgecast.rpc.v1.DecisionService")
        assert stub.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    (model,) = client.models()
    assert model.name == "tiny@local"
    assert model.known_columns == {"holiday": ""}
    assert set(model.given) == {"ramp_limit", "capacity"}


def test_errors_keep_their_class_across_the_cluster(client: Client, table: SeriesTable) -> None:
    with pytest.raises(errors.ModelNotFoundError, match="tiny@local"):
        client.model("tiny@7")
    with pytest.raises(errors.DataError, match="decisions are issued at 00:00"):
        client.decide(
            "tiny",
            history={name: table.columns[name][:300] for name in ("load_gw", "holiday")},
            history_times=table.times[:300],
            known={"holiday": table.columns["holiday"][300:324]},
            known_times=table.times[300:324],
        )
    with pytest.raises(errors.ShapeError, match="capacity"):
        _decide(client, table, "2021-02-10", given={"capacity": 1.0})
    with pytest.raises(errors.DataError, match="takes none that is negative"):
        _decide(client, table, "2021-02-10", given={"capacity": np.full(24, -1.0)})
    with pytest.raises(errors.DeadlineError):
        _decide(client, table, "2021-02-10", scenario_count=2000, deadline_seconds=0.02)


def test_concurrent_requests_are_not_mixed(service: Service, table: SeriesTable) -> None:
    days = ["2021-02-10", "2021-02-11", "2021-02-12", "2021-02-13"]
    with Client(service.address, token=TOKEN) as client, ThreadPoolExecutor(8) as pool:
        alone = {day: _decide(client, table, day, scenario_count=50) for day in days}
        calls = [(day, pool.submit(_decide, client, table, day, scenario_count=50)) for day in days * 3]
        for day, call in calls:
            answer = call.result(timeout=60)
            assert answer.scenario_fingerprint == alone[day].scenario_fingerprint
            np.testing.assert_array_equal(answer.decision["schedule"], alone[day].decision["schedule"])
    assert len({answer.scenario_fingerprint for answer in alone.values()}) == len(days)


def test_only_loopback_or_authenticated_ports_are_open(service: Service) -> None:
    gateway = int(service.address.rpartition(":")[2])
    listening: dict[str, set[str]] = {}
    for member in psutil.Process().children(recursive=True):
        for connection in member.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                host = connection.laddr.ip.removeprefix("::ffff:")
                listening.setdefault(host, set()).add(" ".join(member.cmdline())[:24])
                assert connection.laddr.port != gateway or host == "127.0.0.1"
    assert "127.0.0.1" in listening
    # Serve binds its replicas' own port to every address; it takes no call without this run's token.
    others = {name for host, names in listening.items() if host != "127.0.0.1" for name in names}
    assert all(name.startswith("ray::ServeReplica") for name in others), others


def test_a_folder_without_a_bundle_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(errors.BundleError, match="is no bundle"), local_service(tmp_path):
        pass


def test_nothing_stays_when_the_command_is_killed_while_it_starts(tiny: TinyModel) -> None:
    command = [str(Path(sys.executable).parent / "hedgecast"), "serve", "--port", "0"]
    process = subprocess.Popen([*command, "--bundle", str(tiny.bundle.folder)], stdout=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    end = time.monotonic() + 60
    while len(started) < 4 and time.monotonic() < end:
        time.sleep(0.2)
        started = psutil.Process(process.pid).children(recursive=True)
    folder = Path(next(argument for argument in started[0].cmdline() if "/hc-" in argument))
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert len(started) >= 4
    assert not alive
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_bundle_is_fetched_by_the_machine_that_needs_it(tiny: TinyModel, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "registry")
    store.register(tiny.bundle)
    reference = registered("tiny@candidate", str(tmp_path / "registry"), tmp_path / "bundles")
    assert (reference.name, reference.version, reference.aliases) == ("tiny", "1", ("candidate",))
    assert not reference.folder.exists()
    here = present(reference)
    assert here == reference
    assert (here.folder / "bundle.json").is_file()
    # It is taken as it lies there: the registry may be gone.
    store_gone = BundleReference(folder=here.folder, name="tiny", registry=str(tmp_path / "gone"))
    assert present(store_gone) == store_gone
    with pytest.raises(errors.ModelNotFoundError, match="tiny"):
        registered("tiny@champion", str(tmp_path / "registry"))
    with pytest.raises(errors.BundleError, match="is no bundle"):
        present(BundleReference(folder=tmp_path / "elsewhere"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_another_process_fetches_and_its_errors_are_raised_here(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here it would import MLflow, and the replica would keep its memory.
    ModelStore(tmp_path / "registry").register(tiny.bundle)
    monkeypatch.setattr(ModelStore, "fetch", lambda *_: pytest.fail("fetched in this process"))
    reference = registered("tiny@candidate", str(tmp_path / "registry"), tmp_path / "bundles")
    missing = dataclasses.replace(reference, version="7", folder=tmp_path / "bundles" / "tiny-7")
    with pytest.raises(errors.ModelNotFoundError, match="tiny"):
        present(missing, apart=True)
    assert present(reference, apart=True) == reference
    assert (reference.folder / "bundle.json").is_file()


def test_a_process_that_ends_is_told_with_its_last_words(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the host: it removes its folder, the third argument, in which its log is.
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\necho "what went wrong" >&2\nrm -r "$3"\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(errors.UnavailableError, match="what went wrong"), local_service(tiny.bundle.folder):
        pass


def test_denoisers_in_processes_of_their_own_draw_what_a_solver_draws_for_itself(
    tiny: TinyModel, client: Client, collector: Collector, table: SeriesTable
) -> None:
    settings = load_settings(trace_endpoint=collector.endpoint)
    apart = local_service(tiny.bundle.folder, num_denoisers=1, settings=settings)
    with apart as address, Client(address, retries=0) as other:
        options: dict[str, object] = {"seed": 7, "scenario_count": 60}
        answer = _decide(other, table, "2021-02-11", **options)
        found = other.scenarios("tiny", **options, **_rows(table, "2021-02-11"))  # type: ignore[arg-type]
        service = "hedgecast.rpc.v1.DecisionService/Decide"
        drawn = ("hedgecast-denoiser", "denoiser.draw")
        own = {("hedgecast-solver", name) for name in ("solver.answer", "denoiser.draw")}
        whole = {("hedgecast-gateway", service), *own, drawn}
        assert collector.has_trace(whole), "one trace over three processes"
        service = "hedgecast.rpc.v1.ScenarioService/GenerateScenarios"
        whole = {("hedgecast-gateway", service), ("hedgecast-denoiser", "denoiser.answer"), drawn}
        assert collector.has_trace(whole), "scenarios pass no solver"
    same = _decide(client, table, "2021-02-11", **options)
    assert answer.scenario_fingerprint == same.scenario_fingerprint == found.fingerprint
    np.testing.assert_array_equal(answer.decision["schedule"], same.decision["schedule"])


def test_spans_metrics_audit_and_a_drain(
    service: Service, client: Client, collector: Collector, table: SeriesTable
) -> None:
    before = service.num_scenarios()
    answer = _decide(client, table, "2021-02-10", scenario_count=50, request_id="first")
    with pytest.raises(errors.UnauthenticatedError), Client(service.address, retries=0) as stranger:
        stranger.models()
    gateway = ("hedgecast-gateway", "hedgecast.rpc.v1.DecisionService/Decide")
    whole = {gateway, ("hedgecast-solver", "solver.answer"), ("hedgecast-solver", "denoiser.draw")}
    assert collector.has_trace(whole), "one trace over two processes"
    assert service.num_scenarios() == before + 50
    family = psutil.Process(service.process.pid).children(recursive=True)
    folders = {argument for member in family for argument in member.cmdline() if "/hc-" in argument}
    with ThreadPoolExecutor(1) as pool:
        options: dict[str, object] = {"scenario_count": MANY_SCENARIOS, "request_id": "last"}
        last = pool.submit(_decide, client, table, "2021-02-10", **options)
        service.wait_for("hedgecast_requests_under_way 1.0")
        (solver,) = (one for one in family if "ServeReplica:hedgecast:Solver" in " ".join(one.cmdline()))
        # So that the answer takes longer than any handler or grace of Ray's own.
        solver.suspend()
        service.process.send_signal(signal.SIGTERM)
        time.sleep(6.0)
        solver.resume()
        assert last.result(timeout=60).scenario_count == MANY_SCENARIOS, "it was let finish"
    assert service.process.wait(timeout=60) == 0
    assert len(family) > 5, "Ray ran in these processes"
    # Ended ones stay zombies until the system reaps them.
    left = psutil.wait_procs(family, timeout=5)[1]
    assert not left, f"still there after SIGTERM: {left}"
    assert not any(Path(folder).exists() for folder in folders if folder.startswith("/"))
    lines = [json.loads(line) for line in service.audit.read_text().splitlines()]
    (first,) = [line for line in lines if line["request_id"] == "first"]
    (final,) = [line for line in lines if line["request_id"] == "last"]
    assert [(line["principal"], line["outcome"]) for line in (first, final)] == [("planner", "OK")] * 2
    assert [line["outcome"] for line in lines if not line["principal"]] == ["UNAUTHENTICATED"]
    assert first["fingerprint"] == answer.scenario_fingerprint
    assert TOKEN not in service.audit.read_text()
