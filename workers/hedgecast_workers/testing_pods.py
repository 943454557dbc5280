"""What the chart renders as processes of this machine, for tests: Ray started as KubeRay starts its pods.

Differences from pods: one machine and one address, ports of each node, paths of pods lie below a folder, what
secrets hold is made here, and one node may stand for the pods of several groups.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from hedgecast.client import TlsFiles
from hedgecast.testing import Authority, TinyModel
from hedgecast_workers.testing import BIN, PATIENCE_SECONDS, environment, free_ports, ray_start, running

TOKEN = "a-long-token-of-the-planner"
"""Of the principal ``planner``, as clients say it."""
_PATHS = re.compile(r"(?<![\w./-])/(etc|run|var/cache|var/lib|var/log)/hedgecast(?![\w-])")
FOLDERS = ("HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
"""Variables that name folders of the container; here compiled loops and fonts are those of this machine."""
_JOB_FIELDS = {
    "entrypointNumCpus": "--entrypoint-num-cpus",
    "entrypointResources": "--entrypoint-resources",
}


def placed(text: str, root: Path) -> str:
    """``text`` with every path of the pods' own folders moved below ``root``."""
    return _PATHS.sub(lambda found: f"{root}{found[0]}", text)


def parameters(group: Mapping[str, Any]) -> dict[str, str]:
    """Options of `ray start` of a group of pods, as KubeRay makes them."""
    (container,) = group["template"]["spec"]["containers"]
    cpus = str(container["resources"]["limits"]["cpu"])
    said = {key: str(value).strip("'") for key, value in group["rayStartParams"].items()}
    return {"num-cpus": cpus, **said}


def variables(group: Mapping[str, Any]) -> dict[str, str]:
    """Environment that a group's container states itself."""
    (container,) = group["template"]["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"]}


class PodCluster:
    """A Ray cluster of the chart.

    Parameters
    ----------
    cluster : mapping
        The RayCluster's spec.
    settings : mapping of str to str
        Environment beside what the pods state: settings and what is otherwise here.
    root : Path
        Stands for the root of every pod's filesystem.
    temporary : Path
        Ray's own folder; sockets in it have paths of at most 107 bytes.
    """

    def __init__(
        self, cluster: Mapping[str, Any], settings: Mapping[str, str], root: Path, temporary: Path
    ) -> None:
        self.root, self.temporary, self.token = root, temporary, secrets.token_hex(32)
        self.head_group = cluster["headGroupSpec"]
        self.groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        self.ports = free_ports("gcs", "dashboard", "agent", "metrics", "client")
        self.dashboard = f"http://127.0.0.1:{self.ports['dashboard']}"
        self.agent = f"http://127.0.0.1:{self.ports['agent']}"
        states = variables(self.head_group)
        for name in FOLDERS:
            states.pop(name)
        here = {
            "HOME": str(temporary),
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            # What KubeRay adds where authOptions.mode is token.
            "RAY_AUTH_MODE": cluster["authOptions"]["mode"],
            "RAY_AUTH_TOKEN": self.token,
            # On a machine that does other things too, workers that give way do not start in time.
            "RAY_worker_niceness": "0",
            # Nor workers that nobody asked for.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_gcs_server_port_wait_time_s": str(round(PATIENCE_SECONDS)),
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(round(PATIENCE_SECONDS)),
            # Else nodes say where the cluster is in a folder that all of this machine's share.
            "RAY_TMPDIR": str(temporary),
        }
        self.environment = environment(**{**states, **settings, **here})
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        """Their guards."""
        self._stack = contextlib.ExitStack()

    def _start(
        self, name: str, command: list[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        log = self.temporary / f"{name}.log"
        return self._stack.enter_context(running(command, environment, log))

    def start_head(self) -> None:
        """The head, its dashboard on loopback."""
        options = {key.replace("-", "_"): value for key, value in parameters(self.head_group).items()}
        command = ray_start(
            "--head",
            "--no-monitor",
            **{**options, "dashboard_host": "127.0.0.1"},
            port=self.ports["gcs"],
            dashboard_port=self.ports["dashboard"],
            dashboard_agent_listen_port=self.ports["agent"],
            metrics_export_port=self.ports["metrics"],
            ray_client_server_port=self.ports["client"],
            temp_dir=str(self.temporary),
        )
        self._start("head", command, self.environment)

    def start_node(self, name: str, groups: Sequence[Mapping[str, Any]]) -> None:
        """A node that stands for a pod of each of ``groups``: all their CPUs, the first one's environment.

        Ray only counts CPUs, so nothing waits for a place; what waits for a core waits in the system.
        """
        resources: Counter[str] = Counter()
        for group in groups:
            resources.update(json.loads(parameters(group)["resources"]))
        ports = free_ports("agent", "metrics")
        command = ray_start(
            address=f"127.0.0.1:{self.ports['gcs']}",
            resources=json.dumps(resources),
            num_cpus=sum(int(parameters(group)["num-cpus"]) for group in groups),
            dashboard_agent_listen_port=ports["agent"],
            metrics_export_port=ports["metrics"],
        )
        states = {key: value for key, value in variables(groups[0]).items() if key not in FOLDERS}
        self.nodes[name] = self._start(name, command, {**self.environment, **states})

    def stop_node(self, name: str, hook: Sequence[str] = ()) -> None:
        """What a kubelet does: the ``preStop`` hook to its end, then SIGTERM to the container's process."""
        if hook:
            subprocess.run(list(hook), env=self.environment, check=True, timeout=PATIENCE_SECONDS)
        # The guard's first; orphans may have become its children too.
        process = min(self._children(name), key=lambda child: float(child.create_time()))
        process.send_signal(signal.SIGTERM)

    def is_gone(self, name: str) -> bool:
        """Whether a node has ended."""
        return self.nodes[name].poll() is not None

    def node_of(self, pid: int) -> str | None:
        """The node that runs a process."""
        for name in self.nodes:
            if pid in {process.pid for process in self._children(name, recursive=True)}:
                return name
        return None

    def _children(self, name: str, *, recursive: bool = False) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.nodes[name].pid).children(recursive=recursive))
        except psutil.NoSuchProcess:
            return []

    def get(self, path: str) -> Any:
        """JSON from Ray's dashboard."""
        request = urllib.request.Request(self.dashboard + path)
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def submit(self, job: Mapping[str, Any]) -> subprocess.Popen[str]:
        """``ray job submit`` of a RayJob under its name: prints the job's log and ends with it."""
        spec = job["spec"]
        options = ["--address", self.dashboard, "--submission-id", job["metadata"]["name"]]
        for field, option in _JOB_FIELDS.items():
            if field in spec:
                options += [option, str(spec[field])]
        return subprocess.Popen(
            [str(BIN / "ray"), "job", "submit", *options, "--", *shlex.split(spec["entrypoint"])],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self) -> None:
        """Kill all of it; a second time there is nothing left to kill."""
        self._stack.close()

    def __enter__(self) -> PodCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_secrets(root: Path) -> TlsFiles:
    """What the chart mounts from secrets, below ``root``; what a client needs of it, with `TOKEN`."""
    folder = root / "etc" / "hedgecast"
    tls, tokens = folder / "tls", folder / "tokens"
    tls.mkdir(parents=True)
    tokens.mkdir()
    authority = Authority(root / "ca")
    certificate, key = authority.issue("server")
    for source, name in ((certificate, "tls.crt"), (key, "tls.key"), (authority.certificates, "ca.crt")):
        shutil.copy(source, tls / name)
    (tokens / "tokens").write_text(f"planner {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    return TlsFiles(authorities=authority.certificates, certificate=certificate, key=key)


@contextlib.contextmanager
def pod_cluster(cluster: Mapping[str, Any], settings: Mapping[str, str], root: Path) -> Iterator[PodCluster]:
    """A `PodCluster` whose head runs; all of it is killed at the end."""
    temporary = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
    for folder in ("run", "var/cache", "var/lib", "var/log"):
        (root / folder / "hedgecast").mkdir(parents=True)
    try:
        with PodCluster(cluster, settings, root, temporary) as made:
            made.start_head()
            yield made
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChartRun:
    """A rendered release with its cluster, for one tiny study."""

    cluster: PodCluster
    service: Mapping[str, Any]
    """The RayService."""
    jobs: Mapping[str, Mapping[str, Any]]
    """RayJobs by what they do."""
    tiny: TinyModel
    """Registered as ``tiny@1``."""
    question: Mapping[str, Any]
    """Rows of one day's decision."""
    tls: TlsFiles
    """Of a client."""
    address: str
    """Of decisions."""
    health: str
    """Of health."""
