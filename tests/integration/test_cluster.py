"""How many CPUs workers may hold of a cluster, and no Ray, or an old one; `tests/e2e` has real ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError, DependencyError
from hedgecast.testing import write_tiny_study
from hedgecast_workers import cluster as module
from hedgecast_workers.cluster import cluster, require_ray

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def resources(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the cluster at $RAY_ADDRESS says that it has."""
    import ray

    said = {"CPU": 8.0, "GPU": 1.0}
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(module, "_existing", contextlib.nullcontext)
    monkeypatch.setattr(ray, "cluster_resources", lambda: said)
    return said


@pytest.mark.parametrize(("wanted", "given"), [(3, 3), (7, 7), (None, 7)])
def test_workers_get_what_they_ask_for_or_all_but_one(
    resources: dict[str, float], wanted: int | None, given: int
) -> None:
    with cluster(wanted) as there:
        assert there == given


@pytest.mark.parametrize(("wanted", "gpus"), [(8, 0), (1, 2)])
def test_more_than_there_is_is_refused(resources: dict[str, float], wanted: int, gpus: int) -> None:
    with pytest.raises(ConfigError, match="8 CPUs and 1 GPUs"), cluster(wanted, gpus):
        pytest.fail("it was let in")


def test_one_cpu_is_not_enough_for_a_worker_and_its_data(resources: dict[str, float]) -> None:
    resources["CPU"] = 1.0
    with pytest.raises(ConfigError, match="ask for fewer workers"), cluster(None):
        pytest.fail("it was let in")


@pytest.mark.parametrize("version", ["2.50.0", "2.9.3", "2.59.1", "1.13.0"])
def test_a_ray_that_may_let_strangers_in_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    with pytest.raises(DependencyError, match=rf"ray {version} is older than 2\.60, .*pip install 'ray\["):
        require_ray()


@pytest.mark.parametrize("version", ["2.60.0", "2.61.0rc1", "2.100", "3.0.0.dev0"])
def test_a_newer_ray_is_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    require_ray()


@pytest.mark.parametrize(
    "words",
    [
        ("tune", "tiny.toml", "--trials", "1"),
        ("serve", "--bundle", "."),
        ("train", "tiny.toml", "--workers", "2"),
        ("demo", "--output", "demo"),
    ],
)
def test_a_command_that_needs_ray_says_so_where_there_is_none(tmp_path: Path, words: tuple[str, ...]) -> None:
    write_tiny_study(tmp_path)
    blocker = Path(__file__).parents[2] / "deploy" / "no_ray"
    paths = [str(blocker), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HEDGECAST_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "hedgecast", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "MISSING_DEPENDENCY: ray is missing, pip install 'hedgecast[library,cluster,cpu]'" in done.stderr
    assert "Traceback" not in done.stderr
