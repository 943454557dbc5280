"""A real cluster on this machine, for tests: one head of four CPUs that ends with whoever started it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from hedgecast_workers.local_service import SERVE_ENVIRONMENT
from hedgecast_workers.processes import end, family

BIN = Path(sys.executable).parent
_STARTING_SECONDS = 180
# Ray gives its node half a minute, which no setting changes: too little where other work takes the cores.
_TOO_LATE = "The current node timed out during startup"
_STARTS = 3
# Runs its arguments and ends them when its standard input does: also when the test is killed.
# Killed: told to end, a Ray head first drains for half a minute.
_GUARD = """
import subprocess, sys
from hedgecast_workers.processes import end, family
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.read()
end(family(child.pid), patience_seconds=0.0)
child.wait()
"""


class Head:
    """A local cluster of four CPUs."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, dashboard: str, token: str) -> None:
        self.process, self.address, self.dashboard = process, address, dashboard
        # The last: this node is known to Ray by its loopback address.
        self.environment = environment(
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=token,
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
            **SERVE_ENVIRONMENT,
        )

    def connected(self) -> dict[str, str]:
        """The environment of a driver that joins the cluster."""
        return {**self.environment, "RAY_ADDRESS": self.address}

    def runs(self, pid: int) -> bool:
        """Whether a process is one of this cluster's."""
        return psutil.Process(pid) in self.processes()

    def processes(self) -> list[psutil.Process]:
        """All processes of the cluster, workers too."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without Ray's variables, with ``changes``."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**plain, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **changes}


@contextlib.contextmanager
def local_head() -> Iterator[Head]:
    """A running head; killed with all its workers at the end."""
    with contextlib.ExitStack() as stack:
        for tries_left in reversed(range(_STARTS)):
            try:
                head = stack.enter_context(_head())
                break
            except TimeoutError:
                if not tries_left:
                    raise
        yield head


@contextlib.contextmanager
def _head() -> Iterator[Head]:
    port, dashboard, agent, client = _free_ports(4)
    # Ray's sockets have paths of at most 107 bytes.
    temporary = tempfile.mkdtemp(prefix="hc-", dir="/tmp")
    token = secrets.token_hex(32)
    env = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=token,
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_USAGE_STATS_ENABLED="0",
        # On a machine that does other things too, workers that give way do not start in time.
        RAY_worker_niceness="0",
        RAY_DASHBOARD_STARTUP_TIMEOUT_S="120",
        **SERVE_ENVIRONMENT,
    )
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "num-cpus": "4",
        "object-store-memory": str(200 * 2**20),
        "temp-dir": temporary,
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--include-dashboard=true"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = Path(temporary) / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _GUARD, *command],
            env=env,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + _STARTING_SECONDS
        while "Ray runtime started" not in log.read_text():
            if _TOO_LATE in log.read_text():
                raise TimeoutError(log.read_text())
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield Head(process, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", token)
    finally:
        started = family(process.pid)
        assert process.stdin is not None
        process.stdin.close()
        end(started, patience_seconds=20.0)
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def finish(process: subprocess.Popen[str], seconds: float = 300.0) -> tuple[int, str]:
    """Exit status and standard error; nothing of the process is left, whatever happens."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except BaseException:
        left = family(process.pid)
        process.terminate()
        end(left, patience_seconds=20.0)
        process.communicate()
        raise
    return process.returncode, errors


def _free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
