"""A writer that is killed at any moment loses and doubles nothing that it acknowledged."""

import os
import signal
import subprocess
import sys

import numpy as np

from hedgecast.outcomes import Kind, OutcomeStore

# Four threads keep and record, and say so once they were told that it is kept. Every third record is large
# and logs are short, so that about half of the kills fall into rolling. Few fall into a write: see DRIVER.
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

# Counts every call that changes a file and dies by SIGKILL at the n-th of them, half of it done where it can
# be; one process after another, for every n that there is.
DRIVER = """
import datetime, os, pathlib, signal, sys
import numpy as np
from hedgecast.outcomes import DecisionRecord, OutcomeRecord, OutcomeStore
from hedgecast.outcomes import log as log_module

now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)

def work(folder, tell):
    with OutcomeStore(folder) as store:
        for number in range(2):
            name = f"d-{number}"
            store.keep(DecisionRecord(
                decision_id=name, request_id=name, model="m", model_version="1", program="p",
                program_version="1", issued_at=now, decision={"x": np.full(200, float(number))},
                expected_cost=0.0, expected_regret=0.0,
            ))
            tell(f"decision {name}")
            if number:
                store.roll()
            store.record(name, OutcomeRecord(
                realized={"y": np.full(200, float(number))}, cost=1.0, regret=float(number), recorded_at=now,
                request_id=name,
            ))
            tell(f"outcome {name}")

def dying(call, die_at, half=None):
    def counted(*arguments, **options):
        global calls
        calls += 1
        if calls == die_at:
            if half is not None:
                half(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counted

def run(folder, die_at):
    write = os.pwrite
    os.pwrite = dying(write, die_at, lambda file, data, place: write(file, data[: len(data) // 2], place))
    for name in ("replace", "unlink", "fsync", "ftruncate", "mkdir"):
        setattr(os, name, dying(getattr(os, name), die_at))
    log_module._sync_file = dying(log_module._sync_file, die_at)
    told = os.open(f"{folder}.told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    work(folder, lambda line: os.write(told, f"{line}\\n".encode()))

calls = 0
for die_at in range(1, 1000):
    child = os.fork()
    if child == 0:
        run(pathlib.Path(sys.argv[1]) / str(die_at), die_at)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        break
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


def test_a_death_at_any_call_that_changes_a_file_loses_and_doubles_nothing(tmp_path, caplog) -> None:
    subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path)], check=True)
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    torn = unfinished = told_most = 0
    for folder in folders:
        told = folder.with_name(f"{folder.name}.told").read_text(encoding="ascii").splitlines()
        told_most = max(told_most, len(told))
        unfinished += len(list(folder.glob("segments/*.unfinished")))
        with OutcomeStore(folder) as store:
            torn += len(list(folder.glob("log/*.torn-*")))
            for kind in Kind:
                names = store.table(kind, ["decision_id"]).column(0).to_pylist()
                acknowledged = [line.split()[1] for line in told if line.startswith(kind.name.lower())]
                # In order, each once, and at most the one more that was under way.
                assert names == [f"d-{number}" for number in range(len(names))]
                assert len(acknowledged) <= len(names) <= len(acknowledged) + 1
            for name in store.table(Kind.DECISION, ["decision_id"]).column(0).to_pylist():
                assert np.all(store.decision(name).decision["x"] == float(name[2:]))
    # Deaths were where they were meant to be: in the middle of records and of rolling.
    assert torn == 4
    assert unfinished >= 4
    assert told_most == 4
