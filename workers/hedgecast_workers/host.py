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
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import ray
from ray import serve

from hedgecast.core.errors import HedgecastError, UnavailableError
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.serve import APPLICATION, application

_LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 256 * 2**20
# The first solve on a machine compiles kernels, for a minute or two where cores are busy.
_START_SECONDS = 300.0
# For the gateway and the controller; Ray only counts CPUs, and replicas ask for fractions of one.
_SPARE_CPUS = 4
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


def main() -> int:
    """Serve the plan on standard input until told to stop."""
    # Ray and its replicas print on standard output; the parent reads only what we say ourselves.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    plan = ServePlan.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    try:
        with ThreadPoolExecutor(1) as pool:
            # While Ray starts: a damaged bundle is then one error here, not the last of a replica's retries.
            checked = pool.submit(_open_bundle, plan.bundle.folder)
            with _private_ray(plan, Path(sys.argv[1])):
                checked.result()
                with _served(plan) as address:
                    _say(said, {"address": address})
                    stop.wait()
    except HedgecastError as error:
        _say(said, {"reason": error.reason, "message": str(error)})
        return 1
    return 0


def _say(said: TextIO, record: dict[str, str]) -> None:
    print(json.dumps(record), file=said, flush=True)


def _open_bundle(folder: Path) -> None:
    # Takes seconds to import, and only to check.
    from hedgecast.registry.bundle import Bundle

    Bundle.open(folder)


def _stop_at_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


@contextmanager
def _private_ray(plan: ServePlan, folder: Path) -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=plan.num_denoisers + plan.num_solvers + _SPARE_CPUS,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address=_LOOPBACK,
        _temp_dir=str(folder),
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _served(plan: ServePlan) -> Iterator[str]:
    try:
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        try:
            handle = serve.run(application(plan), name=APPLICATION, route_prefix=None, logging_config=_QUIET)
            address = str(handle.ready.remote().result(timeout_s=_START_SECONDS))
        except (RuntimeError, TimeoutError) as error:
            raise UnavailableError(f"the service did not start: {_why(error)}") from error
        try:
            yield address
        finally:
            handle.drain.remote().result(timeout_s=plan.settings.drain_seconds + 5.0)
    finally:
        serve.shutdown()


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
