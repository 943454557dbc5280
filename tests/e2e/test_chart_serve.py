"""What the chart renders, served: a head and a node as the chart starts them, `serve deploy`, mutual TLS.

Differences from a pod: one machine, loopback instead of every address, files of this test instead of secrets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hedgecast.client import Client, DecisionAnswer, TlsFiles
from hedgecast.core import errors
from hedgecast.data.datasets import load_table
from hedgecast.registry.store import ModelStore
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast.testing import Authority, TinyModel
from hedgecast_workers.processes import end, family

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOKEN = "a-long-token-of-the-planner"
SERVING = health_pb2.HealthCheckResponse.SERVING
# A machine that does other things too takes its time.
PATIENCE_SECONDS = 300.0
# Runs its arguments until its standard input or they end; none of them is left then.
GUARD = """
import select, subprocess, sys
from hedgecast_workers.processes import end, family
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
while child.poll() is None and not select.select([sys.stdin], [], [], 0.5)[0]:
    pass
end(family(child.pid), patience_seconds=0.0)
child.wait()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@dataclasses.dataclass(frozen=True)
class Deployed:
    """The running service."""

    address: str
    health: str
    dashboard: str
    agent: str
    drain: Path
    tls: TlsFiles
    node: psutil.Process


def _rendered(folder: Path, ports: dict[str, int]) -> tuple[dict[str, Any], dict[str, str]]:
    """The RayService and the settings that the chart makes for one tiny study."""
    found = subprocess.run(
        [sys.executable, ROOT / "deploy" / "get_helm.py"], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        message = f"NEEDS helm: {found.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    chart = folder / "chart"
    script = ROOT / "deploy" / "chart_files.py"
    subprocess.run([sys.executable, script, "--without-operator", chart], check=True)
    values = {
        "studies": [{"name": "tiny", "model": "tiny@1"}],
        "gateway": {
            "replicas": 1,
            "port": ports["gateway"],
            "healthPort": ports["health"],
            "settings": {"drainSeconds": 3, "reloadSeconds": 0},
        },
        "denoiser": {"threads": 1},
        "monitoring": {"enabled": False},
    }
    (folder / "values.json").write_text(json.dumps(values))
    command = [found.stdout.strip(), "template", "hc", str(chart), "-f", str(folder / "values.json")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    documents = [document for document in yaml.safe_load_all(text) if document]
    (service,) = [d for d in documents if d["kind"] == "RayService"]
    (settings,) = [d["data"] for d in documents if d["metadata"]["name"].endswith("-settings")]
    return service, settings


def _environment(
    service: dict[str, Any], settings: dict[str, str], folder: Path, temporary: str
) -> dict[str, str]:
    """The environment of the pods' container, with paths of this machine."""
    ca, table = Authority(folder / "ca"), folder / "tokens"
    certificate, key = ca.issue("server")
    table.write_text(f"planner {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    container = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][
        0
    ]
    rendered = {**settings, **{entry["name"]: entry["value"] for entry in container["env"]}}
    here = {
        "HEDGECAST_HOST": "127.0.0.1",
        "HEDGECAST_HEALTH_HOST": "127.0.0.1",
        "HEDGECAST_TLS_CERTIFICATE": str(certificate),
        "HEDGECAST_TLS_KEY": str(key),
        "HEDGECAST_TLS_CLIENT_CA": str(ca.certificates),
        "HEDGECAST_TOKEN_FILE": str(table),
        "HEDGECAST_AUDIT_FILE": str(folder / "audit.jsonl"),
        "HEDGECAST_DRAIN_FILE": str(folder / "drain"),
        "HEDGECAST_HOME": str(folder / "home"),
        "HEDGECAST_CACHE": str(folder / "cache"),
        "HEDGECAST_SURROGATES": str(folder / "surrogates"),
        "HOME": temporary,
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(round(PATIENCE_SECONDS)),
        "RAY_raylet_start_wait_time_s": "120",
        # What KubeRay adds where authOptions.mode is token.
        "RAY_AUTH_MODE": service["spec"]["rayClusterConfig"]["authOptions"]["mode"],
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEDGECAST_"))}
    # The loops that this machine has compiled already.
    rendered.pop("NUMBA_CACHE_DIR")
    return {**plain, **rendered, **here}


def _ports(*names: str) -> dict[str, int]:
    sockets = [socket.socket() for _ in names]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: int(one.getsockname()[1]) for name, one in zip(names, sockets, strict=True)}
    finally:
        for one in sockets:
            one.close()


@contextmanager
def _process(command: list[str], env: dict[str, str], log: Path, ready: str) -> Iterator[psutil.Process]:
    """``ray start --block`` under a guard, once it has said that it is ready; none of it is left."""
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-c", GUARD, *command],
            env=env,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        limit = time.monotonic() + PATIENCE_SECONDS
        while ready not in log.read_text():
            assert guard.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.2)
        yield psutil.Process(guard.pid)
    finally:
        started = family(guard.pid)
        assert guard.stdin is not None
        guard.stdin.close()
        end(started, patience_seconds=20.0)
        guard.wait()


def _started(params: dict[str, str], **more: str | int) -> list[str]:
    """`ray start` with the parameters of the chart, as KubeRay writes them into a shell's line."""
    unquoted = {key: value.strip("'") for key, value in params.items() if key != "dashboard-host"}
    options = {**unquoted, **{key.replace("_", "-"): str(value) for key, value in more.items()}}
    arguments = [f"--{key}={value}" for key, value in options.items()]
    return [str(BIN / "ray"), "start", "--block", "--node-ip-address=127.0.0.1", *arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chart")


@pytest.fixture(scope="module")
def deployed(folder: Path, tiny: TinyModel) -> Iterator[Deployed]:
    ports = _ports(
        "gateway", "health", "gcs", "dashboard", "agent", "agent2", "metrics", "metrics2", "client"
    )
    service, settings = _rendered(folder, ports)
    ModelStore(folder / "home").register(tiny.bundle)
    # Ray's sockets have paths of at most 107 bytes.
    temporary = tempfile.mkdtemp(prefix="hc-", dir="/tmp")
    env = _environment(service, settings, folder, temporary)
    config = service["spec"]["rayClusterConfig"]
    resources: dict[str, float] = {}
    for group in config["workerGroupSpecs"]:
        resources |= json.loads(group["rayStartParams"]["resources"].strip("'"))
    head = _started(
        config["headGroupSpec"]["rayStartParams"],
        port=ports["gcs"],
        dashboard_host="127.0.0.1",
        dashboard_port=ports["dashboard"],
        dashboard_agent_listen_port=ports["agent"],
        metrics_export_port=ports["metrics"],
        ray_client_server_port=ports["client"],
        object_store_memory=100 * 2**20,
        temp_dir=temporary,
    )
    # One node stands for the pods of all groups.
    node = _started(
        {"resources": json.dumps(resources), "num-cpus": "2"},
        address=f"127.0.0.1:{ports['gcs']}",
        dashboard_agent_listen_port=ports["agent2"],
        metrics_export_port=ports["metrics2"],
        object_store_memory=100 * 2**20,
    )
    file = folder / "serve.yaml"
    file.write_text(service["spec"]["serveConfigV2"])
    dashboard = f"http://127.0.0.1:{ports['dashboard']}"
    ca = folder / "ca"
    tls = TlsFiles(authorities=ca / "ca.pem", certificate=ca / "server.pem", key=ca / "server.key")
    try:
        with (
            _process([*head, "--head", "--no-monitor"], env, folder / "head.log", "Ray runtime started"),
            _process(node, env, folder / "node.log", "Ray runtime started") as running,
        ):
            subprocess.run(
                [str(BIN / "serve"), "deploy", str(file), "--address", dashboard],
                env=env,
                check=True,
                capture_output=True,
                timeout=PATIENCE_SECONDS,
            )
            yield Deployed(
                address=f"127.0.0.1:{ports['gateway']}",
                health=f"127.0.0.1:{ports['health']}",
                dashboard=dashboard,
                agent=f"http://127.0.0.1:{ports['agent']}",
                drain=folder / "drain",
                tls=tls,
                node=running,
            )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _state(where: str) -> int | None:
    with grpc.insecure_channel(where) as channel:
        try:
            return int(
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status
            )
        except grpc.RpcError:
            return None


def _wait_for(condition: Any, seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.3)


def _decide(client: Client, tiny: TinyModel, seed: int = 1) -> DecisionAnswer:
    table = load_table(tiny.study.data)
    start = int(np.searchsorted(table.times, np.datetime64("2021-02-09T23:00", "ns")))
    past, ahead = slice(start - 200, start), slice(start, start + 24)
    return client.decide(
        "tiny@1",
        history={name: table.columns[name][past] for name in ("load_gw", "holiday")},
        history_times=table.times[past],
        known={"holiday": table.columns["holiday"][ahead]},
        known_times=table.times[ahead],
        scenario_count=50,
        seed=seed,
    )


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_deployed_service(deployed: Deployed, tiny: TinyModel) -> None:
    _wait_for(lambda: _state(deployed.health) == SERVING, PATIENCE_SECONDS, "the gateway is not healthy")
    # Probes need no token; everything else of Ray does.
    assert _status(f"{deployed.agent}/api/healthz") == 200
    assert _status(f"{deployed.dashboard}/api/serve/applications/") in (401, 403)
    plain = Client(deployed.address, retries=0, deadline_seconds=5)
    with plain as stranger, pytest.raises(errors.UnavailableError):
        stranger.models()
    with Client(deployed.address, tls=deployed.tls, token="guessed", retries=0) as stranger:
        with pytest.raises(errors.HedgecastError) as refused:
            stranger.models()
        assert refused.value.reason == "UNAUTHENTICATED"

    backend = LocalBackend(
        [local_model(BundleReference(folder=tiny.bundle.folder, name="tiny", version="1"))]
    )
    with background_server(backend, load_settings(port=0)) as here, Client(here) as local:
        expected = _decide(local, tiny)
    backend.close()
    with Client(deployed.address, tls=deployed.tls, token=TOKEN, deadline_seconds=120, retries=8) as client:
        answer = _decide(client, tiny)
        assert answer.scenario_fingerprint == expected.scenario_fingerprint
        np.testing.assert_allclose(answer.decision["schedule"], expected.decision["schedule"], rtol=1e-6)
        _kill(deployed, "ServeReplica:hedgecast:Solver")
        # Refused or answered, never wrong, and answered again by another replica.
        _wait_for(
            lambda: _answered(client, tiny, answer), PATIENCE_SECONDS, "no answer after a solver was killed"
        )
    deployed.drain.touch()
    _wait_for(
        lambda: _state(deployed.health) != SERVING, 60, "the gateway goes on after it was told to drain"
    )


def _kill(deployed: Deployed, name: str) -> None:
    found = [
        member for member in deployed.node.children(recursive=True) if name in " ".join(member.cmdline())
    ]
    assert len(found) == 1, f"{name} is on the node that stands for the pods: {found}"
    found[0].send_signal(signal.SIGKILL)


def _answered(client: Client, tiny: TinyModel, expected: DecisionAnswer) -> bool:
    try:
        again = _decide(client, tiny)
    except (errors.UnavailableError, errors.OverloadedError, errors.DeadlineError):
        return False
    np.testing.assert_array_equal(again.decision["schedule"], expected.decision["schedule"])
    return True
