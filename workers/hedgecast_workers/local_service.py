"""The whole service on this machine, started and stopped with a block of code."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hedgecast.core.errors import BundleError, UnavailableError, class_of
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import ServiceSettings, load_settings
from hedgecast_workers.cluster import require_ray
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.processes import end, family

# Longer than the host itself waits, so that it is the host who says why.
_START_SECONDS = 360.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1
_SHOWN_LOG_LINES = 15
# Halves a hop between replicas (5.1 -> 2.9 ms); messages over 4 MB must be allowed.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**30),
}
"""Of all processes of a cluster that serves; the chart sets the same."""
# One loop in a process, for its gRPC servers, its handles and our code. Of Serve's three each wakes for every
# event of grpc.aio: 1 ms of a call for scenarios, 1 to 3 ms of a decision.
NODE_ENVIRONMENT = {
    **SERVE_ENVIRONMENT,
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""Of the nodes, whose replicas have it from them; not of a driver that has a handle and no loop for it."""


@contextlib.contextmanager
def local_service(
    bundle: Path | BundleReference,
    *,
    port: int = 0,
    num_denoisers: int = 0,
    num_solvers: int = 1,
    settings: ServiceSettings | None = None,
) -> Iterator[str]:
    """Serve a bundle while the block runs; its value is HOST:PORT, warm.

    A private Ray is started in a process of its own, on loopback and behind a token made for this run.
    With the block everything ends: requests under way finish, and no process and no file stays. When this
    process dies, the service ends by itself.

    Parameters
    ----------
    bundle : Path or BundleReference
        A bundle's folder, or the folder with name, version and aliases.
    port : int
        Port of the gateway; 0 lets the system choose.
    num_denoisers : int
        Replicas that draw scenarios; 0: each solver draws for itself, a hop less.
    num_solvers : int
        Replicas that solve.
    settings : ServiceSettings, optional
        Everything else about the gateway; None: from the environment. ``port`` wins over them.

    Raises
    ------
    BundleError
        The folder holds no bundle, or a damaged one.
    DependencyError
        Ray is not installed.
    UnavailableError
        The service did not start; the message has the reason.
    """
    plan = ServePlan(
        bundle=bundle if isinstance(bundle, BundleReference) else BundleReference(folder=bundle),
        settings=(settings or load_settings()).model_copy(update={"port": port}),
        num_denoisers=num_denoisers,
        num_solvers=num_solvers,
    )
    with host(plan) as service:
        yield service.address


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """A running service and the process that owns its Ray."""

    address: str
    """HOST:PORT."""
    process: subprocess.Popen[str]

    def ended(self, seconds: float) -> bool:
        """Whether the process ends by itself within ``seconds``."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextlib.contextmanager
def host(plan: ServePlan) -> Iterator[Host]:
    """The running service of a plan; see `local_service`."""
    require_ray()
    reference = plan.bundle
    if not reference.present:
        raise BundleError(f"{reference.folder} is no bundle: it has no bundle.json")
    # Sockets have paths of at most 107 bytes, Ray's are deep: not in a long TMPDIR.
    folder = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp" if os.path.isdir("/tmp") else None))
    try:
        with _process(plan, folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _process(plan: ServePlan, folder: Path) -> Iterator[Host]:
    file = folder / "host.log"
    # Both are kept open: a host that ends removes the folder, and what it said is wanted all the same.
    with file.open("wb") as errors, file.open("rb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hedgecast_workers.host", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **_ray_environment()},
            # Ctrl-C at the terminal is ours to pass on, in order.
            start_new_session=True,
        )
        try:
            yield Host(_address(process, plan, log), process)
        finally:
            _stop(process)


def _ray_environment() -> dict[str, str]:
    return {
        # Without a mode Ray writes a token into the home directory; this one lives as long as the service.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Makes Ray take loopback as the node's address, and then listen there only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **SERVE_ENVIRONMENT,
    }


def _address(process: subprocess.Popen[str], plan: ServePlan, log: BinaryIO) -> str:
    """What the host says once it serves.

    Raises
    ------
    HedgecastError
        What it says instead.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(plan.model_dump_json() + "\n")
        process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    line = process.stdout.readline() if ready else ""
    if not line:
        tail = "\n".join(log.read().decode(errors="replace").splitlines()[-_SHOWN_LOG_LINES:])
        what = "ended before it served" if ready else f"said nothing for {_START_SECONDS:.0f} s"
        raise UnavailableError(f"the service's process {what}; its last lines:\n{tail}")
    record = json.loads(line)
    if "address" not in record:
        raise (class_of(record["reason"]) or UnavailableError)(record["message"])
    return str(record["address"])


def _stop(process: subprocess.Popen[str]) -> None:
    """End the host; it ends its Ray, and what it could not end is ended here."""
    assert process.stdin is not None
    assert process.stdout is not None
    started = family(process.pid)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    waited = time.monotonic() + _STOP_SECONDS
    while process.poll() is None and time.monotonic() < waited:
        # Replicas come and go until the end: who is seen late must not stay either.
        started |= family(process.pid)
        time.sleep(_POLL_SECONDS)
    end(started, patience_seconds=_POLL_SECONDS)
    process.stdout.close()
    process.wait()
