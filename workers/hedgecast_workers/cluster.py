"""Ray for one command: the cluster it runs in, or a private one on this machine that ends with it.

Nothing here imports Ray before its environment is set: Ray reads it once, when it is imported.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator

import psutil

from hedgecast.core.errors import ConfigError, DependencyError, UnavailableError
from hedgecast_workers.processes import end, family

OLDEST_RAY = (2, 60)
"""What pyproject.toml promises, and the only one that the tests run with. Before 2.52 Ray knows no token;
before 2.58 a replica of Serve, which listens on every address, takes calls without it."""
_OBJECT_STORE_BYTES = 256 * 2**20
# Ray's processes end within a second when told to.
_PATIENCE_SECONDS = 3.0
# Tasks that read data, beside those of the workers: with none left, reading starves.
_SPARE_CPUS = 2


@contextlib.contextmanager
def cluster(num_cpus: int | None, num_gpus: int = 0) -> Iterator[int]:
    """Ray, connected, while the block runs; the block gets the number of CPUs that its workers may hold.

    Where ``$RAY_ADDRESS`` is set (``ray job submit`` sets it) that cluster is used and left running.
    Otherwise a private Ray starts here, with a token of its own, on loopback; it ends with the block,
    whatever ends it.

    Parameters
    ----------
    num_cpus : int or None
        That workers will hold; None: as many as there are.
    num_gpus : int
        The same of GPUs.

    Raises
    ------
    ConfigError
        The cluster is too small.
    DependencyError
        Ray is not installed, or too old.
    UnavailableError
        The cluster cannot be reached.
    """
    require_ray()
    if os.environ.get("RAY_ADDRESS"):
        with _existing():
            yield _checked(num_cpus, num_gpus)
    else:
        count = num_cpus or os.cpu_count() or 1
        with _private(count + _SPARE_CPUS, num_gpus):
            yield count


def require_ray() -> None:
    """Nothing, where a Ray that asks for its token is installed; it is looked for, not imported.

    Raises
    ------
    DependencyError
        There is none, or an older one.
    """
    if importlib.util.find_spec("ray") is None:
        raise DependencyError(
            "ray is missing, pip install 'hedgecast[library,cluster,cpu]' brings it; training without "
            "--workers, backtests and a service of your own (hedgecast.service) do without",
            package="ray",
            extra="library,cluster,cpu",
        )
    version = importlib.metadata.version("ray")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_RAY:
        oldest = ".".join(map(str, OLDEST_RAY))
        raise DependencyError(
            f"ray {version} is older than {oldest}, before which strangers may be let in: "
            f"pip install 'ray[data,default,serve,train,tune]>={oldest}'",
            package="ray",
            version=version,
        )


@contextlib.contextmanager
def _existing() -> Iterator[None]:
    import ray

    address = os.environ["RAY_ADDRESS"]
    try:
        ray.init(logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UnavailableError(
            f"no Ray answers at RAY_ADDRESS={address}: unset it to train on this machine", address=address
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _private(num_cpus: int, num_gpus: int) -> Iterator[None]:
    if "ray" in sys.modules and "RAY_AUTH_TOKEN" not in os.environ:
        raise UnavailableError("Ray was imported before its token was made: start it in a process of its own")
    # Without one Ray writes a token into the home directory; this one lives as long as the process.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_USAGE_STATS_ENABLED="0",
        # Makes Ray take loopback as the node's address, and then listen there only.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        # Ray's workers give way to every other process by default (nice 15). Training is what the user waits
        # for, and on a busy machine workers that give way do not even start in time.
        RAY_worker_niceness="0",
    )
    import ray

    # Sockets have paths of at most 107 bytes, Ray's are deep: not in a long TMPDIR.
    folder = tempfile.mkdtemp(prefix="hc-", dir="/tmp" if os.path.isdir("/tmp") else None)
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            logging_level=logging.ERROR,
            runtime_env={"worker_process_setup_hook": quiet_worker},
        )
        yield
    finally:
        # Ray's agents outlive their raylet by up to a minute.
        started = family(os.getpid()) - {psutil.Process()}
        ray.shutdown()
        end(started, patience_seconds=_PATIENCE_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def quiet_worker() -> None:
    """Keep off the terminal what Ray's own processes complain about where there is no dashboard to ask."""
    # Every second: it asks the dashboard whether the run is alive; here everything ends with the driver.
    cleaner = "ray.train.v2._internal.execution.controller.placement_group_cleaner"
    logging.getLogger(cleaner).setLevel(logging.ERROR)
    # Of Ray's own use of its own options.
    warnings.filterwarnings("ignore", message=".*exclude_resources.*")


def _checked(num_cpus: int | None, num_gpus: int) -> int:
    """``num_cpus``, or all but one of the cluster's, where it has as many and one that reads data."""
    import ray

    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    count = max(1, cpus - 1) if num_cpus is None else num_cpus
    if cpus <= count or gpus < num_gpus:
        raise ConfigError(
            f"the cluster has {cpus} CPUs and {gpus} GPUs: {count} CPUs, one more that reads data, and "
            f"{num_gpus} GPUs are needed; ask for fewer workers",
            cpus=cpus,
            gpus=gpus,
        )
    return count
