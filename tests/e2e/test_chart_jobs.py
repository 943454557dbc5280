"""The chart's RayJobs, submitted as KubeRay submits them to the cluster that the chart makes."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet
import pytest

from hedgecast.registry.store import ModelStore, ModelVersion
from hedgecast_workers.processes import end, family
from hedgecast_workers.run_files import RunFiles
from hedgecast_workers.testing_pods import FOLDERS, ChartRun, variables

COMMANDS = ("train", "backtest", "distill", "generate")
PATIENCE_SECONDS = 900.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def _ended(processes: dict[str, subprocess.Popen[str]]) -> Iterator[tuple[str, tuple[int, str]]]:
    """Exit status and output of each; none is left, whatever happens."""
    try:
        for name, process in processes.items():
            output, _ = process.communicate(timeout=PATIENCE_SECONDS)
            yield name, (process.returncode, output)
    finally:
        for process in processes.values():
            if process.poll() is None:
                end(family(process.pid), patience_seconds=0.0)
                process.communicate()


def _failing(job: Any) -> dict[str, Any]:
    """The job with a method that has no network to register."""
    changed: dict[str, Any] = copy.deepcopy(job)
    changed["metadata"]["name"] += "-failing"
    changed["spec"]["entrypoint"] += " --set learning.method=ridge-residual"
    return changed


@pytest.fixture(scope="module")
def ran(chart_run: ChartRun) -> dict[str, tuple[int, str]]:
    """Every job of the chart at once, and one that must fail: exit status and what it printed."""
    assert set(chart_run.jobs) == set(COMMANDS)
    jobs = {**chart_run.jobs, "failing": _failing(chart_run.jobs["train"])}
    return dict(_ended({name: chart_run.cluster.submit(job) for name, job in jobs.items()}))


def _record(chart_run: ChartRun, name: str) -> Any:
    return chart_run.cluster.get(f"/api/jobs/{name}")


def _registered(chart_run: ChartRun) -> tuple[ModelVersion, ModelVersion]:
    """What train and distill registered, in whichever order; version 1 is what the service serves."""
    versions = ModelStore(chart_run.cluster.root / "var/lib/hedgecast").versions("tiny")
    assert {version.version for version in versions} == {1, 2, 3}
    (student,) = [version for version in versions if "teacher" in version.tags]
    (trained,) = [version for version in versions if version.version not in (1, student.version)]
    return trained, student


def test_its_pods_have_the_environment_of_the_nodes_here(chart_run: ChartRun) -> None:
    here = chart_run.cluster.environment
    for job in chart_run.jobs.values():
        (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        states = variables(group)
        assert {key for key in states if here.get(key) != states[key]} == set(FOLDERS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_job_of_the_chart_succeeds(chart_run: ChartRun, ran: dict[str, tuple[int, str]], name: str) -> None:
    status, said = ran[name]
    assert status == 0, said
    job = chart_run.jobs[name]
    record = _record(chart_run, job["metadata"]["name"])
    assert record["status"] == "SUCCEEDED"
    assert record["entrypoint"] == job["spec"]["entrypoint"]


def test_a_failed_job_says_why(chart_run: ChartRun, ran: dict[str, tuple[int, str]]) -> None:
    assert ran["failing"][0] != 0
    record = _record(chart_run, f"{chart_run.jobs['train']['metadata']['name']}-failing")
    assert record["status"] == "FAILED"
    # What `kubectl get rayjob` shows is the end of this.
    assert "learning.method = 'ridge-residual' has no network to export" in record["message"]
    assert "Traceback" not in record["message"]


def test_training_is_shared_by_both_nodes(chart_run: ChartRun, ran: dict[str, tuple[int, str]]) -> None:
    assert ran["train"][0] == 0, ran["train"][1]
    # Ray keeps what it knows of actors that have ended.
    listed = chart_run.cluster.get("/api/v0/actors?limit=1000&detail=true")["data"]["result"]["result"]
    workers = [actor for actor in listed if actor["class_name"] == "RayTrainWorker"]
    assert len(workers) == 2, listed
    assert len({worker["pid"] for worker in workers}) == 2
    nodes = chart_run.cluster.get("/api/v0/nodes?detail=true")["data"]["result"]["result"]
    others = {node["node_id"] for node in nodes if not node["is_head_node"]}
    assert len(others) == 2
    assert {worker["node_id"] for worker in workers} == others


def test_the_trained_model_is_registered(chart_run: ChartRun, ran: dict[str, tuple[int, str]]) -> None:
    volume = chart_run.cluster.root / "var/lib/hedgecast"
    assert RunFiles.at(str(volume / "runs"), "tiny-1").read_fitted() is not None
    version, _ = _registered(chart_run)
    assert version.reference in ran["train"][1]
    fetched = ModelStore(volume).fetch(version.reference, chart_run.cluster.root / "fetched")
    assert fetched.folder.is_dir()


def test_a_student_of_the_served_model_is_registered(
    chart_run: ChartRun, ran: dict[str, tuple[int, str]]
) -> None:
    _, version = _registered(chart_run)
    assert version.reference in ran["distill"][1]
    assert version.tags["teacher"] == "tiny@1"
    assert version.tags["teacher_fingerprint"] == chart_run.tiny.bundle.manifest.fingerprint
    store = ModelStore(chart_run.cluster.root / "var/lib/hedgecast")
    training = store.fetch(version.reference, chart_run.cluster.root / "fetched").manifest.training
    assert training["student_evaluations"] == 1
    # A student that learned nothing is not one: it began with its teacher's weights.
    assert training["distillation_loss"] < training["distillation_loss_before"]


def test_reports_and_scenarios_are_on_the_volume(
    chart_run: ChartRun, ran: dict[str, tuple[int, str]]
) -> None:
    assert [status for status, _ in ran.values()].count(0) == len(COMMANDS)
    volume = chart_run.cluster.root / "var/lib/hedgecast"
    results = json.loads((volume / "reports/tiny-1/results.json").read_text())
    assert [entry["label"] for entry in results["entries"]] == ["ridge-residual"]
    manifest = json.loads((volume / "sets/_manifest.json").read_text())
    assert [part["day"] for part in manifest["parts"]] == [f"2021-03-{day}" for day in (27, 28)]
    # The clock skips an hour on the second day.
    assert pyarrow.parquet.read_table(volume / "sets").num_rows == 50 * (2 * 24 - 1)
