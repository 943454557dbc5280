"""What the chart renders, served on two nodes: `serve deploy`, mutual TLS, lost processes, stopped nodes."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hedgecast.client import Client, DecisionAnswer
from hedgecast.core import errors
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast_workers.testing import BIN, PATIENCE_SECONDS, wait_until
from hedgecast_workers.testing_pods import TOKEN, ChartRun

SERVING = health_pb2.HealthCheckResponse.SERVING
SEEDS = (1, 2, 3)
# What a caller may be told while a node goes: try again. Never another decision.
REFUSALS = (errors.UnavailableError, errors.OverloadedError, errors.DeadlineError)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def deployed(chart_run: ChartRun) -> Iterator[ChartRun]:
    """The run, once its gateway is healthy; these tests are the last that need it."""
    cluster = chart_run.cluster
    file = cluster.temporary / "serve.yaml"
    file.write_text(chart_run.service["spec"]["serveConfigV2"])
    command = [str(BIN / "serve"), "deploy", str(file), "--address", cluster.dashboard]
    try:
        subprocess.run(
            command, env=cluster.environment, check=True, capture_output=True, timeout=PATIENCE_SECONDS
        )
        _wait_healthy(chart_run)
        yield chart_run
    finally:
        # At once: until the end of the session it would take cores from other tests.
        cluster.close()


@pytest.fixture(scope="module")
def expected(chart_run: ChartRun) -> dict[int, DecisionAnswer]:
    """Answers made in this process by seed."""
    tiny = chart_run.tiny
    reference = BundleReference(folder=tiny.bundle.folder, name="tiny", version="1")
    backend = LocalBackend([local_model(reference)])
    with background_server(backend, load_settings(port=0)) as here, Client(here) as local:
        answers = {seed: _decide(local, chart_run, seed) for seed in SEEDS}
    backend.close()
    return answers


def _client(run: ChartRun, *, retries: int = 0) -> Client:
    return Client(run.address, tls=run.tls, token=TOKEN, deadline_seconds=120, retries=retries)


def _decide(client: Client, run: ChartRun, seed: int) -> DecisionAnswer:
    return client.decide("tiny@1", scenario_count=50, seed=seed, **run.question)


def _same(answer: DecisionAnswer, expected: DecisionAnswer) -> None:
    assert answer.scenario_fingerprint == expected.scenario_fingerprint
    np.testing.assert_allclose(answer.decision["schedule"], expected.decision["schedule"], rtol=1e-6)


def _health(run: ChartRun) -> int | None:
    with grpc.insecure_channel(run.health) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)
        except grpc.RpcError:
            return None


def _wait_healthy(run: ChartRun) -> None:
    wait_until(lambda: _health(run) == SERVING, "the gateway is not healthy")


def _wait_answered(run: ChartRun, expected: dict[int, DecisionAnswer], what: str) -> None:
    """Return once the service answers again; refused or answered until then, never wrong."""

    def answered() -> bool:
        try:
            answer = _decide(client, run, 1)
        except REFUSALS:
            return False
        _same(answer, expected[1])
        return True

    with _client(run) as client:
        wait_until(answered, what)


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _replicas(run: ChartRun) -> dict[str, list[int]]:
    """Processes of each deployment's replicas."""
    (application,) = run.cluster.get("/api/serve/applications/")["applications"].values()
    return {
        name: [replica["pid"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"]
        for name, deployment in application["deployments"].items()
    }


def _nodes(run: ChartRun) -> dict[str, list[str | None]]:
    """Where each deployment's replicas are."""
    return {name: [run.cluster.node_of(pid) for pid in pids] for name, pids in _replicas(run).items()}


def test_strangers_get_nothing(deployed: ChartRun) -> None:
    # Probes need no token; everything else of Ray does.
    assert _status(f"{deployed.cluster.agent}/api/healthz") == 200
    assert _status(f"{deployed.cluster.dashboard}/api/serve/applications/") in (401, 403)
    plain = Client(deployed.address, retries=0, deadline_seconds=30)
    with plain as stranger, pytest.raises(errors.UnavailableError):
        stranger.models()
    with Client(deployed.address, tls=deployed.tls, token="guessed", retries=0) as stranger:
        with pytest.raises(errors.HedgecastError) as refused:
            stranger.models()
        assert refused.value.reason == "UNAUTHENTICATED"


def test_two_nodes_answer_as_one_process_does(
    deployed: ChartRun, expected: dict[int, DecisionAnswer]
) -> None:
    assert _nodes(deployed) == {"Denoiser": ["draws"], "Gateway": ["draws"], "Solver": ["solves"]}
    with _client(deployed, retries=8) as client:
        for seed in SEEDS:
            _same(_decide(client, deployed, seed), expected[seed])


def test_a_killed_solver_is_replaced(deployed: ChartRun, expected: dict[int, DecisionAnswer]) -> None:
    (victim,) = _replicas(deployed)["Solver"]
    psutil.Process(victim).send_signal(signal.SIGKILL)
    _wait_answered(deployed, expected, "no answer after a solver was killed")


def test_a_killed_gateway_is_replaced(deployed: ChartRun, expected: dict[int, DecisionAnswer]) -> None:
    (victim,) = _replicas(deployed)["Gateway"]
    psutil.Process(victim).send_signal(signal.SIGKILL)
    _wait_answered(deployed, expected, "no answer after the gateway was killed")
    # It answers before Serve calls it running.
    wait_until(
        lambda: [pid != victim for pid in _replicas(deployed)["Gateway"]] == [True], "no other gateway runs"
    )
    assert _health(deployed) == SERVING


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call, with its times."""

    begun: float
    ended: float
    seed: int
    answer: DecisionAnswer | None
    """None: refused with a word to try again."""


class Callers:
    """One for each seed: asks one question after another, without trying again, until the block ends."""

    def __init__(self, run: ChartRun) -> None:
        self._run, self._over = run, threading.Event()
        self.calls: list[Asked] = []
        self.pause_seconds = 0.0
        """Between the end of a call and the next one of the same caller."""

    def _ask(self, seed: int) -> None:
        with _client(self._run) as client:
            while not self._over.is_set():
                begun, answer = time.monotonic(), None
                with contextlib.suppress(*REFUSALS):
                    answer = _decide(client, self._run, seed)
                self.calls.append(Asked(begun, time.monotonic(), seed, answer))
                self._over.wait(self.pause_seconds if answer else 0.5)

    def wait_answered(self, begun: float, what: str) -> None:
        """Return once a call was answered that began later than ``begun``."""
        wait_until(lambda: any(call.begun > begun and call.answer for call in self.calls), what)

    def __enter__(self) -> Callers:
        self._pool = ThreadPoolExecutor(len(SEEDS))
        self._asking = [self._pool.submit(self._ask, seed) for seed in SEEDS]
        try:
            wait_until(lambda: len(self.calls) >= 2 * len(SEEDS), "nobody is answered")
        except BaseException:
            self._stop()
            raise
        return self

    def _stop(self) -> None:
        self._over.set()
        self._pool.shutdown()

    def __exit__(self, *_: object) -> None:
        self._stop()
        for caller in self._asking:
            caller.result()


def _check(callers: Callers, expected: dict[int, DecisionAnswer], told: float) -> None:
    """All answers are right, and what was under way at ``told`` was answered."""
    for call in callers.calls:
        if call.answer is not None:
            _same(call.answer, expected[call.seed])
    assert any(call.begun < told < call.ended for call in callers.calls)
    assert [call for call in callers.calls if call.begun < told and call.answer is None] == []


def test_a_stopped_node_of_a_solver_hands_over(
    deployed: ChartRun, expected: dict[int, DecisionAnswer]
) -> None:
    cluster = deployed.cluster
    with Callers(deployed) as callers:
        told = time.monotonic()
        cluster.stop_node("solves")
        # The node that starts needs the cores.
        callers.pause_seconds = 1.0
        # As KubeRay does: another pod at once.
        cluster.start_node("solves-again", [cluster.groups["solver"]])
        wait_until(
            lambda: [cluster.node_of(pid) for pid in _replicas(deployed)["Solver"]] == ["solves-again"],
            "no solver on the other node",
        )
        wait_until(lambda: cluster.is_gone("solves"), "the stopped node goes on")
        callers.wait_answered(time.monotonic(), "no answer by the other node")
    # Told to go, it went on with what was under way, and with more until the other one was there.
    _check(callers, expected, told)
    assert [call for call in callers.calls if call.answer is None] == []


def _hook(run: ChartRun, group: str) -> Any:
    (container,) = run.cluster.groups[group]["template"]["spec"]["containers"]
    return container["lifecycle"]["preStop"]["exec"]["command"]


def test_a_stopped_gateway_ends_what_it_began(
    deployed: ChartRun, expected: dict[int, DecisionAnswer]
) -> None:
    cluster = deployed.cluster
    with Callers(deployed) as callers:
        told = time.monotonic()
        cluster.stop_node("draws", _hook(deployed, "gateway"))
        drained = time.monotonic()
        assert _health(deployed) != SERVING
        wait_until(lambda: any(call.begun > drained for call in callers.calls), "nobody asks")
    _check(callers, expected, told)
    # What came after the drain was refused.
    assert [call for call in callers.calls if call.begun > drained and call.answer is not None] == []
    wait_until(lambda: cluster.is_gone("draws"), "the stopped node goes on")


def test_a_gateway_on_another_node_answers_again(
    deployed: ChartRun, expected: dict[int, DecisionAnswer]
) -> None:
    cluster = deployed.cluster
    assert cluster.is_gone("draws")
    cluster.start_node("draws-again", [cluster.groups["gateway"], cluster.groups["denoiser"]])
    _wait_answered(deployed, expected, "no answer by the gateway on the other node")
    where = {"Denoiser": ["draws-again"], "Gateway": ["draws-again"], "Solver": ["solves-again"]}
    wait_until(lambda: _nodes(deployed) == where, "a replica is missing")
    assert _health(deployed) == SERVING
