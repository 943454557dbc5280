"""One cluster for all tests of commands over Ray, and one of the chart's for those of what it renders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hedgecast.registry.store import ModelStore
from hedgecast.testing import TinyModel
from hedgecast_workers.testing import Head, free_ports, local_head
from hedgecast_workers.testing_pods import ChartRun, placed, pod_cluster, write_secrets

# Short, and still every stage of a real run.
SMALL = {
    "learning.epochs": 8,
    "learning.patience": 8,
    "learning.generator.denoiser.hidden": 32,
    "learning.generator.denoiser.num_blocks": 2,
}
# A student of an untrained teacher, in seconds.
SHORT = {"distill.epochs": 4, "distill.pool_per_day": 16, "distill.samples_per_day": 8}
LIB = "/var/lib/hedgecast"
DRAIN_SECONDS = 6


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with local_head() as started:
        yield started


def _set(settings: dict[str, float]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def _values(study: str, gateway: int, health: int) -> dict[str, Any]:
    few = ["--scenarios", "50"]
    return {
        "studies": [{"name": "tiny", "model": "tiny@1", "file": study}],
        "gateway": {
            "replicas": 1,
            "port": gateway,
            "healthPort": health,
            "settings": {"drainSeconds": DRAIN_SECONDS, "reloadSeconds": 0},
        },
        "denoiser": {"threads": 1},
        "monitoring": {"enabled": False},
        "jobs": {
            "train": {"enabled": True, "workers": 2, "arguments": [*_set(SMALL), *few]},
            "backtest": {
                "enabled": True,
                "methods": "ridge-residual",
                "seeds": 1,
                "arguments": few,
            },
            "distill": {"enabled": True, "arguments": [*_set(SHORT), *few]},
            "generate": {
                "enabled": True,
                "contexts": f"{LIB}/rows.csv",
                "scenarios": 50,
                "output": f"{LIB}/sets",
                "arguments": ["--days", "2021-03-27..2021-03-28", "--actors", "1"],
            },
        },
    }


def _of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


@pytest.fixture(scope="session")
def chart_run(
    render: Callable[..., Any], tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChartRun]:
    """The cluster that the chart makes for a tiny study, on two nodes: one listens and draws, one solves."""
    root, ports = tmp_path_factory.mktemp("chart") / "root", free_ports("gateway", "health")
    folder = tiny.bundle.folder.parent
    study = (folder / "tiny.toml").read_text().replace('"tiny.csv"', f'"{LIB}/rows.csv"')
    rendered = render(_values(study, **ports))
    assert rendered.returncode == 0, rendered.error
    documents = [document for document in yaml.safe_load_all(placed(rendered.text, root)) if document]
    (service,) = _of_kind(documents, "RayService")
    maps = {document["metadata"]["name"]: document["data"] for document in _of_kind(documents, "ConfigMap")}
    settings = {
        **maps[f"{service['metadata']['name']}-settings"],
        "HEDGECAST_HOST": "127.0.0.1",
        "HEDGECAST_HEALTH_HOST": "127.0.0.1",
    }
    tls = write_secrets(root)
    with pod_cluster(service["spec"]["rayClusterConfig"], settings, root) as cluster:
        _fill(root, folder, maps["hc-hedgecast-studies"])
        ModelStore(root / "var/lib/hedgecast").register(tiny.bundle)
        jobs = {job["spec"]["entrypoint"].split()[1]: job for job in _of_kind(documents, "RayJob")}
        # Nodes of those that serve, and of all jobs' clusters.
        workers = [job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0] for job in jobs.values()]
        groups = cluster.groups
        cluster.start_node("draws", [groups["gateway"], groups["denoiser"], *workers])
        cluster.start_node("solves", [groups["solver"], *workers])
        yield ChartRun(
            cluster=cluster,
            service=service,
            jobs=jobs,
            tiny=tiny,
            question=tiny.question(),
            tls=tls,
            address=f"127.0.0.1:{ports['gateway']}",
            health=f"127.0.0.1:{ports['health']}",
        )


def _fill(root: Path, folder: Path, studies: dict[str, str]) -> None:
    """What volumes hold: the study's rows, and its file as the ConfigMap has it."""
    shutil.copy(folder / "tiny.csv", root / "var/lib/hedgecast/rows.csv")
    mounted = root / "etc/hedgecast/studies"
    mounted.mkdir()
    for name, text in studies.items():
        (mounted / name).write_text(text)
