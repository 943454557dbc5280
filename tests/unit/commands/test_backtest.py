"""The command on the tiny study: real processes, real files."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from hedgecast.cli import build
from hedgecast.commands.backtest import jobs_of
from hedgecast.commands.comparison import results_of
from hedgecast.commands.trials import Job, load_task, run_trials
from hedgecast.core.errors import ConfigError, SolveError
from hedgecast.learning.study import Study, read_study
from hedgecast.learning.trial import Trial, run_trial
from hedgecast.testing import write_tiny_study

METHODS = "point,ridge-residual"
PROGRAM = Path(sys.executable).parent / "hedgecast"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study(path: Path) -> Study:
    return read_study(path)


def backtest(*arguments: str) -> dict[str, Any]:
    found = CliRunner().invoke(
        build(["backtest"]), ["backtest", *arguments, "--json"], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    record: dict[str, Any] = json.loads(found.stdout)
    return record


@pytest.fixture(scope="module")
def ran(path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("output")
    arguments = ("--methods", METHODS, "--seeds", "2", "--scenarios", "10,20", "--output", str(folder))
    return folder, backtest(str(path), *arguments, "--workers", "2")


def test_the_record_has_every_method_and_count(ran: tuple[Path, dict[str, Any]]) -> None:
    _, record = ran
    assert (record["format"], record["title"], record["baseline"]) == (1, "tiny", "ridge-residual")
    assert record["seeds"] == [0, 1]
    entries = {(entry["label"], entry["num_scenarios"]): entry for entry in record["entries"]}
    assert set(entries) == {(name, count) for name in METHODS.split(",") for count in (10, 20)}
    assert entries["point", 10]["drawn"] == 1
    for entry in entries.values():
        assert entry["num_days"] == 30
        assert len(entry["seed_costs"]) == 2
        assert entry["cost_interval"][0] <= entry["cost"] <= entry["cost_interval"][1]
        assert entry["peak_memory_mib"] > 100
    # A plan for the mean pays for every shortage.
    assert entries["point", 20]["difference_interval"][0] > 0
    assert entries["ridge-residual", 20]["realism"]["coverage"] > 0.5
    assert entries["ridge-residual", 20]["realism"]["transfer_regret"] > 0
    assert record["facts"]["counts"]["test_days"] == 30


def test_the_folder_holds_results_and_whole_trials(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, record = ran
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == record
    trials = sorted(path for path in (folder / "trials").iterdir())
    assert len(trials) == 4
    assert all((path / "trial.json").is_file() for path in trials)
    # Each was drawn and decided by itself: the process kept the order and its log.
    assert all({"job.json", "log.txt", "days.npz"} < {p.name for p in path.iterdir()} for path in trials)


def test_a_trial_in_a_process_is_what_it_is_here(ran: tuple[Path, dict[str, Any]], study: Study) -> None:
    folder, _ = ran
    (job,) = jobs_of(
        study, "ridge-residual", seeds=1, scenarios="10", estimator=None, baseline="ridge-residual"
    )
    there = Trial.load(folder / "trials" / job.key)
    here = run_trial(load_task(job.source), job.method, seed=0, counts=(10,))
    np.testing.assert_allclose(there.tested[10].costs, here.tested[10].costs, rtol=1e-9)


def test_finished_trials_are_not_run_again(ran: tuple[Path, dict[str, Any]], path: Path) -> None:
    folder, record = ran
    before = {p: p.stat().st_mtime_ns for p in (folder / "trials").glob("*/trial.json")}
    # By the program, which prints nothing but one object.
    command = [PROGRAM, "backtest", path, "--methods", METHODS, "--seeds", "2", "--scenarios", "20", "--json"]
    ran_again = subprocess.run([*command, "--output", folder], capture_output=True, text=True, check=False)
    assert ran_again.returncode == 0, ran_again.stderr
    again = json.loads(ran_again.stdout)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    wanted = [entry for entry in record["entries"] if entry["num_scenarios"] == 20]
    assert again["entries"] == wanted
    point, baseline = again["entries"]
    assert [entry["label"] for entry in again["entries"]] == METHODS.split(",")
    assert (point["is_baseline"], baseline["is_baseline"]) == (False, True)
    assert point["difference"] == pytest.approx(point["cost"] - baseline["cost"])
    assert again["pairs"][0]["difference"] == pytest.approx(-point["difference"])
    assert again["facts"]["counts"]["rows"] == 260 * 24
    assert not again["failures"]


ONE: dict[str, Any] = {"seeds": 1, "scenarios": "10", "estimator": None, "baseline": "point"}


def test_what_a_trial_depends_on_is_in_its_name(study: Study, path: Path) -> None:
    def key(changed: Study, estimator: str | None = None, name: str = "diffusion-dfl") -> str:
        jobs = jobs_of(changed, name, seeds=1, scenarios="10", estimator=estimator, baseline=name)
        return jobs[0].key

    assert key(study) == key(read_study(path, ["learning.seed=7", "learning.method=point"]))
    assert key(study) != key(read_study(path, ["learning.epochs=7"]))
    assert key(study) != key(study, "score-function")
    assert key(study) != key(study, name="diffusion")
    few = {drawn: jobs_of(study, "point", drawn=drawn, **ONE)[0] for drawn in (None, 20)}
    assert few[None].key != few[20].key
    table = path.parent / "tiny.csv"
    text = table.read_text(encoding="utf-8")
    before = key(study)
    try:
        table.write_text(text.replace("45.", "46.", 1), encoding="utf-8")
        assert key(study) != before
    finally:
        table.write_text(text, encoding="utf-8")


def test_estimators_give_a_line_each(study: Study) -> None:
    jobs = jobs_of(
        study,
        "diffusion-dfl",
        seeds=2,
        scenarios="10",
        estimator="pathwise,score-function",
        baseline="ridge-residual",
    )
    assert [(job.label, job.estimator, job.seed) for job in jobs] == [
        ("ridge-residual", None, 0),
        ("ridge-residual", None, 1),
        ("diffusion-dfl (pathwise)", "pathwise", 0),
        ("diffusion-dfl (pathwise)", "pathwise", 1),
        ("diffusion-dfl (score-function)", "score-function", 0),
        ("diffusion-dfl (score-function)", "score-function", 1),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "rigde"}, "no method 'rigde': choose from point"),
        ({"methods": ","}, "names none"),
        ({"baseline": "nothing"}, "no method 'nothing'"),
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"scenarios": "10,x"}, "--scenarios '10,x'"),
        ({"scenarios": "1"}, "at least 2"),
        (
            {"estimator": "pathwize", "methods": "diffusion-dfl"},
            "no estimator 'pathwize': choose from pathwise",
        ),
        ({"drawn": 9}, "--drawn 9: must be at least 10"),
        ({"estimator": "pathwise"}, "a choice of diffusion-dfl alone"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_runs(
    study: Study, changes: dict[str, Any], message: str
) -> None:
    wishes = {"methods": "point", "seeds": 1, "scenarios": "10", "estimator": None, "baseline": "point"}
    with pytest.raises(ConfigError, match=message):
        jobs_of(study, **{**wishes, **changes})


def test_a_failed_trial_says_why_and_leaves_the_others(
    ran: tuple[Path, dict[str, Any]], study: Study, path: Path, tmp_path: Path
) -> None:
    impossible = read_study(path, ["learning.generator.whitening.num_blocks=90"])
    (bad,) = jobs_of(impossible, "gaussian", seeds=1, scenarios="10", estimator=None, baseline="gaussian")
    done, failures = run_trials([bad], tmp_path)
    assert not done
    assert "too few for 90 held-out blocks" in failures[0].message
    assert failures[0].log.is_file()
    assert [entry.name for entry in (tmp_path / "trials").iterdir()] == [failures[0].log.name]
    good = jobs_of(study, METHODS, seeds=1, scenarios="10", estimator=None, baseline="point")
    trials = {job.key: Trial.load(ran[0] / "trials" / job.key) for job in good}
    results = results_of([*good, bad], trials, failures, title="tiny", baseline="point", facts={})
    assert [entry.label for entry in results.entries] == METHODS.split(",")
    assert results.failures[0]["label"] == "gaussian"
    with pytest.raises(SolveError, match="the baseline 'gaussian' failed with seed 0"):
        results_of([*good, bad], trials, failures, title="tiny", baseline="gaussian", facts={})


def test_a_task_of_arrays_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "made_task.py"
    file.write_text(_TASK, encoding="utf-8")
    table = tmp_path / "table.csv"
    table.write_text("1\n")
    source = {"file": str(file), "function": "task", "arguments": {"rows": 150}, "reads": [str(table)]}
    task = load_task(source)
    assert (len(task.train), len(task.test)) == (150, 20)
    job = Job(label="point", method="point", estimator=None, seed=0, counts=(5,), source=source)
    before = job.key
    file.write_text(_TASK + "# changed\n", encoding="utf-8")
    changed = job.key
    table.write_text("2\n")
    assert len({before, changed, job.key}) == 3
    with pytest.raises(ConfigError, match="no Python file"):
        load_task({"file": str(tmp_path / "none.py"), "function": "task"})


def test_an_interrupted_run_leaves_no_process_and_nothing_half_written(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from hedgecast.cli import main; main()", "backtest", str(path)]
    command += ["--methods", "diffusion", "--baseline", "diffusion", "--output", str(tmp_path)]
    command += ["--set", "learning.epochs=100000", "--set", "learning.patience=100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    trials = tmp_path / "trials"
    try:
        _wait(lambda: list(trials.glob(".diffusion-*.partial/log.txt")))
        children = psutil.Process(process.pid).children()
        assert children
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "finished trials are kept" in output
    assert not any(child.is_running() for child in children)
    assert list(trials.iterdir()) == []
    assert not (tmp_path / "results.json").exists()


def test_a_trial_ends_with_the_process_that_started_it(study: Study, tmp_path: Path) -> None:
    (job,) = jobs_of(study, "point", seeds=1, scenarios="10", estimator=None, baseline="point")
    order = tmp_path / "job.json"
    order.write_text(json.dumps(job.to_dict()), encoding="utf-8")
    command = [sys.executable, "-m", "hedgecast.commands.trial_process", str(order)]
    # Standard input closes as it would if the starting process were killed.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        assert process.wait(timeout=120) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["job.json"]


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is running trials"):
            run_trials([], tmp_path)
    assert run_trials([], tmp_path) == ({}, [])


def _wait(ready: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)


_TASK = """
import numpy as np

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.part import Part
from hedgecast.learning.task import Task
from hedgecast.programs.catalog.generation_scheduling import build


def task(rows):
    draws = np.random.default_rng(0)
    context = draws.normal(size=(rows + 40, 2))
    targets = 5 + context[:, :1] + draws.normal(size=(rows + 40, 4))
    whole = Part.of_arrays(context, targets)
    test = whole.select(slice(rows + 20, None))
    program = build(4, ramp_limit=1e3)
    return Task(
        train=whole.select(slice(rows)),
        validation=whole.select(slice(rows, rows + 20)),
        test=test,
        test_days=test,
        program_for=lambda steps: program,
        config=LearningConfig(),
    )
"""
