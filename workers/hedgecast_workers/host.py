"""The process that owns a private Ray: `hedgecast_workers.local_service` starts one per service.

A process of its own, because Ray reads its environment once, keeps a process-wide token and leaves
threads and sockets behind. The plan comes as one JSON line on standard input; one JSON line on
standard output says where the service is, or why there is none. The end of standard input, SIGTERM
or SIGINT ends the service.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import psutil
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from hedgecast.core.errors import HedgecastError, UnavailableError
from hedgecast.service.ladder import Ladder
from hedgecast_workers.local_service import NODE_ENVIRONMENT
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.processes import end, family
from hedgecast_workers.serve import APPLICATION, QUIET, application
from hedgecast_workers.threads import check_threads

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 256 * 2**20
# The first solve on a machine compiles kernels, for a minute or two where cores are busy.
_START_SECONDS = 300.0
# For the gateway and the controller; Ray only counts CPUs, and replicas ask for fractions of one.
_SPARE_CPUS = 4
RAY_TOO_LATE = "The current node timed out during startup"
"""What Ray says when its node has not registered in half a minute, which no setting changes (2.60)."""
_STARTS = 3
# Ray's processes end within a second when told to.
_PATIENCE_SECONDS = 3.0


def main() -> int:
    """Serve the plan on standard input until told to stop, then remove the folder given as argument."""
    # Ray and its replicas print on standard output; the parent reads only what we say ourselves.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _listen()
    folder = Path(sys.argv[1])
    plan = ServePlan.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    try:
        _serve(plan, folder, said)
    except KeyboardInterrupt:
        return 0
    except HedgecastError as error:
        _say(said, {"reason": error.reason, "message": str(error)})
        return 1
    finally:
        # Also the parent's to do, but the parent may have been killed.
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _serve(plan: ServePlan, folder: Path, said: TextIO) -> None:
    # Of this machine, which all replicas share; each looks at its own when it starts.
    check_threads((plan.num_denoisers or plan.num_solvers) * plan.settings.draw_sessions, plan.threads)
    with ThreadPoolExecutor(1) as pool:
        # While Ray starts: a damaged bundle is then one error here, not the last of a replica's retries.
        checked = pool.submit(_check, plan)
        with _private_ray(plan, folder / "ray"):
            checked.result()
            handle = _started(plan)
            _say(said, {"address": _address(handle)})
            try:
                threading.Event().wait()
            finally:
                handle.drain.remote().result(timeout_s=plan.settings.drain_seconds + 5.0)


def _say(said: TextIO, record: dict[str, str]) -> None:
    print(json.dumps(record), file=said, flush=True)


def _check(plan: ServePlan) -> None:
    # Takes seconds to import, and only to check.
    from hedgecast.registry.bundle import Bundle
    from hedgecast.registry.ladder import MeasuredLadder

    manifest = Bundle.open(plan.bundle.folder).manifest
    found = MeasuredLadder.read(plan.bundle.folder, manifest.fingerprint)
    Ladder(plan.settings).check_measured(plan.bundle.name or manifest.name, found.steps if found else ())


def _listen() -> None:
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


def _interrupt(*_: object) -> None:
    """Stop whatever the main thread does, once; what comes later does not disturb the clean-up."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_at_end_of_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _private_ray(plan: ServePlan, folder: Path) -> Iterator[None]:
    try:
        _start_ray(plan, folder)
        # Ray has put a handler of its own in front, whose alarm kills the process 3 s after SIGTERM, whatever
        # is under way.
        _listen()
        yield
    finally:
        _end_ray()


def _start_ray(plan: ServePlan, folder: Path) -> None:
    """Start a private Ray, again where its node was late.

    Raises
    ------
    UnavailableError
        It was late each time.
    """
    # The nodes and all replicas have it from here; Serve has read this process's own when it was imported.
    os.environ.update(NODE_ENVIRONMENT)
    for number in range(_STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=plan.num_denoisers + plan.num_solvers + _SPARE_CPUS,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address=_LOOPBACK,
                _temp_dir=str(folder / str(number)),
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:
            # Ray has no class for it.
            if RAY_TOO_LATE not in str(error):
                raise
            _end_ray()
        else:
            return
    raise UnavailableError(f"Ray's node did not start in {_STARTS} times 30 s: other work takes the cores")


def _end_ray() -> None:
    """End Serve's actors too: nobody else uses this Ray, and the gateway is drained by then."""
    # Ray's agents outlive their raylet by up to a minute.
    started = family(os.getpid()) - {psutil.Process()}
    ray.shutdown()
    end(started, patience_seconds=_PATIENCE_SECONDS)


def _started(plan: ServePlan) -> DeploymentHandle:
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    try:
        return serve.run(application(plan), name=APPLICATION, route_prefix=None, logging_config=QUIET)
    except RuntimeError as error:
        raise UnavailableError(f"the service did not start: {_why(error)}") from error


def _address(handle: DeploymentHandle) -> str:
    try:
        return str(handle.ready.remote().result(timeout_s=_START_SECONDS))
    except TimeoutError as error:
        raise UnavailableError(f"the service was not warm after {_START_SECONDS:.0f} s") from error


def _why(error: Exception) -> str:
    """What the first failed replica said, without the traces around it."""
    for deployment in serve.status().applications[APPLICATION].deployments.values():
        lines = [
            line for line in str(deployment.message).splitlines() if ": " in line and not line.startswith(" ")
        ]
        if lines:
            return lines[-1]
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
