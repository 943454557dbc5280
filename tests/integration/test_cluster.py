"""How many CPUs workers may hold of a cluster that is there; `tests/e2e` has real ones."""

from __future__ import annotations

import contextlib

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast_workers import cluster as module
from hedgecast_workers.cluster import cluster

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
