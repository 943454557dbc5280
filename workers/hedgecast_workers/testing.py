"""Real clusters on this machine, for tests: Ray's own processes, which end with whoever started them."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from hedgecast_workers.local_service import NODE_ENVIRONMENT, SERVE_ENVIRONMENT
from hedgecast_workers.processes import end, family

BIN = Path(sys.executable).parent
# A machine that does other things too takes its time.
PATIENCE_SECONDS = 300.0
_OBJECT_STORE_BYTES = 100 * 2**20
# The program `ray`. It gives its node half a minute to register, which waits for both agents: too little
# where other work takes the cores, and no setting changes it (2.60, Node.__init__). Here a node has longer.
_RAY = f"""
import sys, time
from ray._private import services
from ray.scripts.scripts import main
found = services.get_node
def get_node(*arguments):
    limit = time.monotonic() + {PATIENCE_SECONDS}
    while True:
        try:
            return found(*arguments)
        except RuntimeError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.5)
services.get_node = get_node
sys.argv[0] = "ray"
sys.exit(main())
"""
# Runs its arguments until they or its standard input end, which a killed test ends too; none is left then.
# Those whose parent is gone become its own: prctl(PR_SET_CHILD_SUBREAPER).
# Killed: told to end, a Ray head first drains for half a minute.
_GUARD = """
import ctypes, os, select, subprocess, sys
import psutil
from hedgecast_workers.processes import end, family
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
ended = 0
while ended != child.pid and not select.select([sys.stdin], [], [], 0.2)[0]:
    ended = os.waitpid(-1, os.WNOHANG)[0]
end(family(os.getpid()) - {psutil.Process()}, patience_seconds=0.0)
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
    ports = free_ports("gcs", "dashboard", "agent", "client")
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
        RAY_DASHBOARD_STARTUP_TIMEOUT_S=str(round(PATIENCE_SECONDS)),
        RAY_gcs_server_port_wait_time_s=str(round(PATIENCE_SECONDS)),
        **NODE_ENVIRONMENT,
    )
    command = ray_start(
        "--head",
        "--include-dashboard=true",
        port=ports["gcs"],
        dashboard_host="127.0.0.1",
        dashboard_port=ports["dashboard"],
        dashboard_agent_listen_port=ports["agent"],
        ray_client_server_port=ports["client"],
        num_cpus=4,
        object_store_memory=2 * _OBJECT_STORE_BYTES,
        temp_dir=temporary,
    )
    address, dashboard = f"127.0.0.1:{ports['gcs']}", f"http://127.0.0.1:{ports['dashboard']}"
    try:
        with running(command, env, Path(temporary) / "head.log") as guard:
            yield Head(guard, address, dashboard, token)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def ray_start(*flags: str, **options: str | int) -> list[str]:
    """``ray start --block`` on this machine with ``flags`` and ``--name=value`` for each option."""
    named: dict[str, str | int] = {
        "object-store-memory": _OBJECT_STORE_BYTES,
        # Any free ones: from its range two nodes of one machine may choose the same.
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    named |= {name.replace("_", "-"): value for name, value in options.items()}
    command = [sys.executable, "-c", _RAY, "start", "--block", "--node-ip-address=127.0.0.1", *flags]
    return command + [f"--{name}={value}" for name, value in named.items()]


@contextlib.contextmanager
def running(command: list[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A `ray_start` under a guard, once Ray says that it runs; killed with all it started at the end.

    What comes back is the guard, which ends when its command does.
    """
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, *command],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        limit = time.monotonic() + PATIENCE_SECONDS
        while "Ray runtime started" not in log.read_text():
            assert guard.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.2)
        yield guard
    finally:
        started = family(guard.pid)
        assert guard.stdin is not None
        guard.stdin.close()
        end(started, patience_seconds=20.0)
        guard.wait()


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


def free_ports(*names: str) -> dict[str, int]:
    """A free port of loopback for each name."""
    sockets = [socket.socket() for _ in names]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: int(one.getsockname()[1]) for name, one in zip(names, sockets, strict=True)}
    finally:
        for one in sockets:
            one.close()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Return once ``condition`` holds; fail with ``what`` after ``seconds``."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.3)
