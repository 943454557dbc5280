"""Killing the gateway while it records outcomes loses and doubles nothing that it acknowledged."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hedgecast.client import Client, RecordedOutcome, ScenarioArrays
from hedgecast.core.errors import UnavailableError
from hedgecast.outcomes import Kind, OutcomeStore
from hedgecast.rpc.v1 import model_service_pb2, model_service_pb2_grpc
from hedgecast.testing_last_day import LAST_DAY_STEPS, last_day_rows

SCRIPT = Path(__file__).with_name("forked_gateway.py")
NUM_DECISIONS = 40
NUM_KILLS = 6
NUM_CALLERS = 4


class Gateway:
    """The one gateway that runs now, in a process of its own."""

    def __init__(self, starter: subprocess.Popen[str]) -> None:
        self._starter = starter
        self.process = 0
        self.address = ""

    def start(self) -> None:
        assert self._starter.stdin is not None
        self._starter.stdin.write("\n")
        self._starter.stdin.flush()
        said = self._said()
        self.process, self.address = said["process"], said["address"]

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        assert self._said() == {"signal": signal.SIGKILL}

    def _said(self) -> dict[str, Any]:
        assert self._starter.stdout is not None
        line = self._starter.stdout.readline()
        assert line, "no gateway came: its reason is on standard error"
        said: dict[str, Any] = json.loads(line)
        return said


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "outcomes")]
    starter = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    try:
        yield Gateway(starter)
    finally:
        starter.stdin.close()
        starter.kill()
        starter.wait()
        starter.stdout.close()


@dataclasses.dataclass
class Planner:
    """Records the outcomes of its decisions, and remembers what was acknowledged."""

    decisions: list[str]
    truths: np.ndarray
    acknowledged: dict[int, RecordedOutcome] = dataclasses.field(default_factory=dict)
    failed: set[int] = dataclasses.field(default_factory=set)

    def record(self, client: Client, number: int) -> RecordedOutcome:
        realized = ScenarioArrays(
            series=("load",),
            units=("GW",),
            times=np.empty(0, "datetime64[ns]"),
            paths=self.truths[number].reshape(1, LAST_DAY_STEPS, 1),
            probabilities=np.ones(1),
        )
        return client.record_outcome(self.decisions[number], realized, request_id=f"outcome-{number}")

    def work(self, address: str, open_numbers: queue.SimpleQueue[int]) -> None:
        """Until nothing is left, or the gateway is gone."""
        with Client(address, retries=0) as client, contextlib.suppress(queue.Empty):
            while True:
                number = open_numbers.get_nowait()
                try:
                    self.acknowledged[number] = self.record(client, number)
                except UnavailableError:
                    self.failed.add(number)
                    return

    def round(self, gateway: Gateway, kill_after: int | None, pause: float) -> None:
        """All callers at once on what is not acknowledged; killed some time after so many more are."""
        open_numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(self.decisions)):
            if number not in self.acknowledged:
                open_numbers.put(number)
        arguments = (gateway.address, open_numbers)
        callers = [threading.Thread(target=self.work, args=arguments) for _ in range(NUM_CALLERS)]
        before = len(self.acknowledged)
        for caller in callers:
            caller.start()
        if kill_after is not None:
            while len(self.acknowledged) < before + kill_after and any(
                map(threading.Thread.is_alive, callers)
            ):
                time.sleep(0.001)
            time.sleep(pause)
            gateway.kill()
        for caller in callers:
            caller.join()


def _planner(gateway: Gateway, rng: np.random.Generator) -> Planner:
    rows = last_day_rows()
    with Client(gateway.address) as client:
        decisions = [
            client.decide(
                "last_day",
                history=rows.columns,
                history_times=rows.times,
                scenario_count=8,
                seed=number,
                gap_replications=0,
                request_id=f"decision-{number}",
            ).decision_id
            for number in range(NUM_DECISIONS)
        ]
    mean = rows.columns["load"][-LAST_DAY_STEPS:]
    return Planner(decisions, mean + 0.1 * rng.normal(size=(NUM_DECISIONS, LAST_DAY_STEPS)))


def test_an_acknowledged_outcome_is_there_once(gateway: Gateway, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    gateway.start()
    planner = _planner(gateway, rng)
    for turn in range(NUM_KILLS):
        planner.round(gateway, int(rng.integers(2, 6)), float(rng.uniform(0.0, 0.03)))
        # Of a copy, so that it is the gateway that has to live with what the dead one left.
        left = _kept(Path(shutil.copytree(tmp_path / "outcomes", tmp_path / f"left-{turn}")))
        assert len(set(left)) == len(left)
        told = {planner.decisions[number] for number in planner.acknowledged}
        assert told <= set(left)
        assert len(set(left) - told) <= NUM_CALLERS
        gateway.start()
        with Client(gateway.address) as client:
            for number in rng.choice(sorted(planner.acknowledged), 2, replace=False):
                # Asked again after the kill: the same answer, and nothing new.
                assert planner.record(client, number) == planner.acknowledged[number]
    assert len(planner.failed) >= NUM_KILLS, "every kill met calls under way"
    planner.round(gateway, None, 0.0)
    assert sorted(planner.acknowledged) == list(range(NUM_DECISIONS))
    with grpc.insecure_channel(gateway.address) as channel:
        request = model_service_pb2.GetModelPerformanceRequest(name="last_day")
        figures = model_service_pb2_grpc.ModelServiceStub(channel).GetModelPerformance(request, timeout=30)
    assert figures.outcome_count == NUM_DECISIONS
    costs = [planner.acknowledged[number].realized_cost for number in range(NUM_DECISIONS)]
    assert figures.cost.mean == pytest.approx(np.mean(costs), rel=1e-9)
    gateway.kill()
    _check_store(tmp_path / "outcomes", planner)


def _kept(folder: Path) -> list[str]:
    """Decisions whose outcomes lie in the folder."""
    with OutcomeStore(folder) as store:
        found: list[str] = store.table(Kind.OUTCOME, ["decision_id"]).column(0).to_pylist()
    return found


def _check_store(folder: Path, planner: Planner) -> None:
    """What lies on the disk: one outcome a decision, as acknowledged, worth what the program says."""
    assert sorted(_kept(folder)) == sorted(planner.decisions)
    with OutcomeStore(folder) as store:
        for number, decision_id in enumerate(planner.decisions):
            outcome, decision = store.outcome(decision_id), store.decision(decision_id)
            assert outcome is not None
            assert outcome.cost == planner.acknowledged[number].realized_cost
            np.testing.assert_array_equal(outcome.realized["load"], planner.truths[number])
            missing = planner.truths[number] - decision.decision["schedule"]
            closed_form = np.sum(np.where(missing > 0, 50.0 * missing, -0.5 * missing))
            assert outcome.cost == pytest.approx(closed_form, rel=1e-5)
