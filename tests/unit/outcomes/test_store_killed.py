"""A writer that is killed at any moment loses and doubles nothing that it acknowledged."""

import os
import signal
import subprocess
import sys

import numpy as np

from hedgecast.outcomes import Kind, OutcomeStore

# Four threads keep and record, and say so once they were told that it is kept. Every third record is large,
# so that many kills fall into the middle of a write; logs are short, so that some fall into rolling.
WRITER = """
import datetime, os, pathlib, sys, threading
import numpy as np
from hedgecast.outcomes import DecisionRecord, OutcomeRecord, OutcomeStore, Retention

folder, turn = pathlib.Path(sys.argv[1]), int(sys.argv[2])
now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
store = OutcomeStore(folder, retention=Retention(roll_bytes=4_000_000))

def work(thread):
    for number in range(100_000):
        name = f"{turn}-{thread}-{number}"
        size = 100_000 if number % 3 == 0 else 10
        store.keep(DecisionRecord(
            decision_id=name, request_id=name, model="m", model_version="1", program="p", program_version="1",
            issued_at=now, decision={"x": np.full(size, float(number))}, expected_cost=0.0,
            expected_regret=0.0,
        ))
        os.write(1, f"decision {name}\\n".encode())
        store.record(name, OutcomeRecord(
            realized={"y": np.full(size, float(number))}, cost=1.0, regret=float(number), recorded_at=now,
            request_id=name,
        ))
        os.write(1, f"outcome {name}\\n".encode())

threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def _killed_after(folder, turn: int, lines: int) -> list[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(turn)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        told = [process.stdout.readline() for _ in range(lines)]
        os.kill(process.pid, signal.SIGKILL)
        # What it said before it died was acknowledged too.
        told += process.stdout.read().splitlines(keepends=True)
        assert process.wait(30) == -signal.SIGKILL
    return [line.decode().strip() for line in told if line.endswith(b"\n")]


def test_nothing_acknowledged_is_lost_or_doubled_by_a_kill(tmp_path) -> None:
    rng = np.random.default_rng(11)
    acknowledged: list[str] = []
    for turn in range(6):
        acknowledged += _killed_after(tmp_path, turn, int(rng.integers(20, 90)))
    with OutcomeStore(tmp_path) as store:
        decisions = store.table(Kind.DECISION, ["decision_id"]).column(0).to_pylist()
        outcomes = store.table(Kind.OUTCOME, ["decision_id"]).column(0).to_pylist()
        assert len(set(decisions)) == len(decisions) == len(store)
        assert len(set(outcomes)) == len(outcomes)
        assert {line.split()[1] for line in acknowledged if line.startswith("decision")} <= set(decisions)
        assert {line.split()[1] for line in acknowledged if line.startswith("outcome")} <= set(outcomes)
        # At most one call of each thread of each turn was under way.
        assert len(decisions) + len(outcomes) - len(acknowledged) <= 6 * 4
        for name in decisions[:: max(1, len(decisions) // 40)]:
            number = float(name.split("-")[2])
            assert np.all(store.decision(name).decision["x"] == number)
            outcome = store.outcome(name)
            if outcome is not None:
                assert outcome.regret == number
                # The client whose answer was lost asks again.
                assert store.record(name, outcome).regret == number
        assert store.table(Kind.OUTCOME, ["decision_id"]).num_rows == len(outcomes)
    assert len(acknowledged) >= 6 * 20
