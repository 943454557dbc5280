"""The service under load on a real cluster: a new champion, killed replicas, replicas that come and go.

Clients do not try again by themselves (``retries=0``), so that every failed request shows.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient

from hedgecast.client import Client, DecisionAnswer
from hedgecast.data.features import features
from hedgecast.registry.attachments import attach
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.ladder import FORMAT, MeasuredLadder, MeasuredStep
from hedgecast.registry.package import package
from hedgecast.registry.session import ScenarioSession
from hedgecast.registry.store import ModelStore
from hedgecast.registry.student import student_of, write_graph
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast.testing import TinyModel, made_up_days, make_tiny_model, make_tiny_student, passing_metrics
from hedgecast_workers.models import registered
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.processes import end, family
from hedgecast_workers.testing import Head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

PATIENCE_SECONDS = 300.0
CALLERS, SEEDS, SCENARIOS = 4, 8, 60
# Under way at once: far more than the ordinary callers are, and from where on a student draws.
CROWD, MANY = 16, 12
STEP = MeasuredStep(
    rungs=("student_sampler",), regret_increase=2.0, lower_bound=1.0, upper_bound=3.0, confidence=0.95,
    reference_regret=40.0, num_days=84, first_day="2021-07-01", last_day="2021-09-22", num_scenarios=200,
    reference_scenarios=200, measured_time="2021-10-01T00:00:00Z",
)  # fmt: skip
# Serves the plan on standard input until that ends.
DRIVER = """
import json, logging, os, sys
import ray
from ray import serve
from hedgecast_workers.deployments import Replicas
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.serve import APPLICATION, QUIET, application
plan = ServePlan.model_validate_json(sys.stdin.readline())
replicas = {name: Replicas(**values) for name, values in json.loads(sys.stdin.readline()).items()}
ray.init(address=os.environ["RAY_ADDRESS"], logging_level=logging.ERROR, log_to_driver=False)
serve.start(proxy_location="Disabled", logging_config=QUIET)
handle = serve.run(application(plan, replicas), name=APPLICATION, route_prefix=None, logging_config=QUIET)
print(json.dumps({"address": handle.ready.remote().result(timeout_s=300)}), flush=True)
sys.stdin.read()
serve.shutdown()
"""
REPLICAS = {
    "Denoiser": {
        "count": 2,
        "most": 3,
        "upscale_delay_seconds": 0.5,
        "downscale_delay_seconds": 1.0,
        "look_back_seconds": 3.0,
    },
    "Solver": {"count": 2},
}


@dataclasses.dataclass(frozen=True)
class Service:
    """What is served, and the same two versions in this process."""

    address: str
    head: Head
    tiny: TinyModel
    home: Path
    here: str
    student: Bundle
    """Draws for version 1 under load."""

    def replicas(self, name: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas."""
        wanted, found = f"ServeReplica:hedgecast:{name}", []
        for process in self.head.processes():
            try:
                if wanted in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ask(self, client: Client, model: str, seed: int) -> DecisionAnswer:
        """The plan of a local winter day, which begins at 23:00 UTC the day before."""
        return client.decide(model, scenario_count=SCENARIOS, seed=seed, **self.tiny.question())  # type: ignore[arg-type]


class Load:
    """Callers that ask one after the other, with seeds in turn, until they are told to stop."""

    def __init__(self, service: Service, callers: int = CALLERS) -> None:
        self._service = service
        self._stopped = threading.Event()
        self._seeds = itertools.cycle(range(SEEDS))
        self.answers: list[tuple[int, DecisionAnswer]] = []
        self._pool = ThreadPoolExecutor(callers)
        self._callers = [self._pool.submit(self._call) for _ in range(callers)]

    def _call(self) -> None:
        with Client(self._service.address, retries=0, deadline_seconds=PATIENCE_SECONDS) as client:
            while not self._stopped.is_set():
                seed = next(self._seeds)
                self.answers.append((seed, self._service.ask(client, "tiny@champion", seed)))

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait while the callers go on, and fail as soon as a call of theirs does."""
        limit = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            for caller in self._callers:
                if caller.done():
                    caller.result()
            assert time.monotonic() < limit, what
            time.sleep(0.1)

    def more(self, number: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.answers) + number
        self.wait_for(lambda: len(self.answers) >= wanted, f"{number} more answers")

    def stop(self) -> list[tuple[int, DecisionAnswer]]:
        """All answers; raises what a call failed with."""
        self._stopped.set()
        self._pool.shutdown()
        for caller in self._callers:
            caller.result()
        return self.answers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny_model(tmp_path_factory.mktemp("load"))


def _second(tiny: TinyModel, folder: Path) -> Bundle:
    """The same model with another network."""
    with torch.no_grad():
        for parameter in tiny.generator.denoiser.exit.parameters():
            parameter.mul_(0.5)
    return package(
        folder,
        study=tiny.study,
        schema=tiny.schema,
        generator=tiny.generator,
        context=torch.from_numpy(features(tiny.split.train))[:10],
        train=tiny.split.train,
        training={"days": len(tiny.split.train)},
        metrics=passing_metrics(),
        days=made_up_days(),
    )


@pytest.fixture(scope="module")
def service(head: Head, tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("registry")
    store = ModelStore(folder / "home")
    # Before the network is changed.
    student = make_tiny_student(tiny, folder / "student")
    bundles = [tiny.bundle, _second(tiny, folder / "second")]
    for bundle in (*bundles, student):
        store.register(bundle)
    _promote(folder / "home", 1)
    _measured(store, tiny.bundle, student, folder)
    plan = ServePlan(
        bundle=registered("tiny@champion", str(folder / "home"), folder / "fetched"),
        settings=load_settings(
            port=0,
            takeover_seconds=0.5,
            default_deadline_seconds=PATIENCE_SECONDS,
            ladder=f"student_sampler:{MANY}",
            ladder_hold_seconds=1.0,
        ),
        num_denoisers=2,
    )
    backend = LocalBackend(
        [
            local_model(BundleReference(folder=bundle.folder, name="tiny", version=str(number)))
            for number, bundle in enumerate(bundles, 1)
        ]
    )
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env=head.connected(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(plan.model_dump_json() + "\n" + json.dumps(REPLICAS) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the service did not start"
        with background_server(backend, load_settings(port=0)) as here:
            yield Service(json.loads(line)["address"], head, tiny, folder / "home", here, student)
    finally:
        started = family(process.pid)
        process.stdin.close()
        end(started, patience_seconds=60.0)
        process.stdout.close()
        process.wait()
        backend.close()


def _measured(store: ModelStore, teacher: Bundle, bundle: Bundle, folder: Path) -> None:
    """Version 3 beside version 1, as its student, with made-up figures."""
    student = student_of(bundle, store.resolve("tiny@3"), teacher)
    record = MeasuredLadder(
        format=FORMAT, fingerprint=teacher.manifest.fingerprint, steps=(STEP,), student=student
    )
    attach(store, "tiny@1", write_graph(student, bundle, folder), record.write(folder))


def _promote(home: Path, version: int) -> None:
    address = f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(address, address)
    client.set_registered_model_alias("tiny", "champion", str(version))


def _check(service: Service, answers: list[tuple[int, DecisionAnswer]]) -> None:
    """Every answer is what the version that it names gives in this process."""
    expected: dict[tuple[int, str], DecisionAnswer] = {}
    with Client(service.here, deadline_seconds=PATIENCE_SECONDS) as local:
        for seed, answer in answers:
            if (seed, answer.model) not in expected:
                expected[seed, answer.model] = service.ask(local, answer.model, seed)
            right = expected[seed, answer.model]
            assert answer.model_fingerprint == right.model_fingerprint
            assert answer.scenario_fingerprint == right.scenario_fingerprint
            np.testing.assert_allclose(answer.decision["schedule"], right.decision["schedule"], rtol=1e-6)


def test_under_load_a_student_draws_and_the_answer_says_so(service: Service) -> None:
    with Client(service.address, retries=0, deadline_seconds=PATIENCE_SECONDS) as client:
        assert service.ask(client, "tiny@champion", 0).degradation is None
        load = Load(service, CROWD)
        load.wait_for(
            lambda: sum(a.degradation is not None for _, a in load.answers) >= 3 * SEEDS, "cheaper answers"
        )
        answers = load.stop()
        _wait(lambda: service.ask(client, "tiny@champion", 0).degradation is None, "full answers again")
    session, rows = ScenarioSession(service.student), service.tiny.question()
    history = NamedRows(times=rows["history_times"], columns=rows["history"])  # type: ignore[arg-type]
    known = NamedRows(times=rows["known_times"], columns=rows["known"])  # type: ignore[arg-type]
    drawn = [session.scenarios(history, known, SCENARIOS, seed).fingerprint() for seed in range(SEEDS)]
    for seed, answer in answers:
        cheaper = answer.degradation
        if cheaper is not None:
            assert (cheaper.rungs, cheaper.regret_increase) == (("STUDENT_SAMPLER",), 2.0)
            assert (answer.model, answer.student, answer.scenario_source) == ("tiny@1", "tiny@3", "STUDENT")
            assert answer.student_fingerprint == service.student.manifest.fingerprint
            assert answer.scenario_fingerprint == drawn[seed]
    _check(service, [(seed, answer) for seed, answer in answers if answer.degradation is None])


def test_a_new_champion_takes_over_with_no_failed_request(service: Service) -> None:
    load = Load(service)
    load.more(SEEDS)
    with Client(service.address, retries=0, deadline_seconds=PATIENCE_SECONDS) as client:
        batches = client.scenario_batches("tiny@champion", scenario_count=40_000, **service.tiny.question())  # type: ignore[arg-type]
        first = next(batches)
        _promote(service.home, 2)
        load.wait_for(lambda: load.answers[-1][1].model == "tiny@2", "the new champion answers")
        # A stream that began before goes on with what it began with, to the end.
        versions = {batch.schema.metadata[b"hedgecast.model_version"] for batch in (first, *batches)}
        assert versions == {b"tiny@1"}
        # Both replicas of the solver have taken over.
        load.wait_for(
            lambda: len(load.answers) > 30 and all(a.model == "tiny@2" for _, a in load.answers[-30:]),
            "only the new champion answers",
        )
        assert service.ask(client, "tiny@1", 0).model == "tiny@1", "the one before answers by its version"
        assert service.ask(client, "tiny", 0).model == "tiny@2"
        answers = load.stop()
        known = {model.name: model.aliases for model in client.models()}
    assert {answer.model for _, answer in answers} == {"tiny@1", "tiny@2"}
    _check(service, answers)
    assert "champion" in known["tiny@2"]


def test_a_champion_that_was_not_measured_is_answered_in_full_under_load(service: Service) -> None:
    load = Load(service, CROWD)
    with Client(service.address, retries=0, deadline_seconds=PATIENCE_SECONDS) as client:
        load.more(SEEDS)
        # The one before was measured, and shows that there is load enough.
        load.wait_for(lambda: service.ask(client, "tiny@1", 0).student == "tiny@3", "a cheaper answer")
        load.more(3 * SEEDS)
        assert service.ask(client, "tiny@1", 1).degradation is not None
    answers = load.stop()
    assert {(answer.model, answer.degradation) for _, answer in answers} == {("tiny@2", None)}
    _check(service, answers)


def test_a_killed_replica_costs_a_retry_and_no_answer(service: Service) -> None:
    for name in ("Denoiser", "Solver"):
        load = Load(service)
        load.more(SEEDS)
        replicas = service.replicas(name)
        assert len(replicas) >= 2
        replicas[0].send_signal(signal.SIGKILL)
        load.more(5 * SEEDS)
        load.wait_for(lambda: len(service.replicas(name)) >= 2, f"another {name}")  # noqa: B023
        _check(service, load.stop())


def test_denoisers_come_and_go_with_the_requests_under_way(service: Service) -> None:
    def stream(_: int) -> None:
        with Client(service.address, retries=0, deadline_seconds=PATIENCE_SECONDS) as client:
            while not enough.is_set():
                client.scenarios("tiny", scenario_count=50_000, **service.tiny.question())  # type: ignore[arg-type]

    enough = threading.Event()
    _wait(lambda: len(service.replicas("Denoiser")) == 2, "the least of denoisers")
    with ThreadPoolExecutor(6) as pool:
        callers = [pool.submit(stream, number) for number in range(6)]
        try:
            _wait(lambda: len(service.replicas("Denoiser")) == 3, "a third denoiser under load")
        finally:
            enough.set()
        for caller in callers:
            caller.result()
    _wait(lambda: len(service.replicas("Denoiser")) == 2, "two denoisers without load")


def _wait(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.2)
