"""Ray Train with real processes: private Rays, a local head, killed workers, a submitted job."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hedgecast.commands.workflow import Prepared
from hedgecast.learning.fit import Fitted
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.study import read_study
from hedgecast.testing import write_tiny_study
from hedgecast_workers.run_files import RunFiles
from hedgecast_workers.testing import BIN, Head, environment, finish

pytestmark = pytest.mark.slow

CHANGES = (
    "learning.method=diffusion-dfl",
    "learning.epochs=24",
    "learning.patience=24",
    "learning.joint_epochs=3",
    "learning.batch_days=48",
    "learning.samples_per_day=8",
    "learning.scenarios=10",
    "learning.budget.score_scenarios=8",
    "learning.generator.denoiser.hidden=32",
    "learning.generator.denoiser.num_blocks=2",
)
# Trains each NAME:WORKERS of its arguments, and leaves everything in the storage.
DRIVER = """
import json, sys
from hedgecast.commands.workflow import Prepared
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.study import read_study
from hedgecast.learning.trainers import TrainerOptions
from hedgecast_workers.train import RayTrainer

source, changes, storage, failures, *runs = sys.argv[1:]
study = read_study(source, json.loads(changes))
prepared = Prepared.of(study)
for run in runs:
    name, _, count = run.partition(":")
    options = TrainerOptions(
        num_workers=int(count), gpu=False, storage=storage, run_name=name, max_failures=int(failures)
    )
    fit_diffusion(
        prepared.train,
        prepared.validation,
        study.learning,
        prepared.program(prepared.schema.horizon),
        trainer=RayTrainer(study, options),
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    return write_tiny_study(folder, num_days=230)


def driver(
    study: Path,
    storage: Path,
    runs: Sequence[str],
    env: Mapping[str, str],
    *,
    failures: int = 0,
    changes: Sequence[str] = CHANGES,
) -> subprocess.Popen[str]:
    arguments = [str(study), json.dumps(list(changes)), str(storage), str(failures), *runs]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def fitted(storage: Path, name: str) -> Fitted:
    found = RunFiles.at(str(storage), name).read_fitted()
    assert found is not None
    return found


def figures(found: Fitted) -> dict[str, Any]:
    record = found.history.to_dict()
    record.pop("seconds")
    return record


@pytest.fixture(scope="module")
def alone(study: Path, folder: Path) -> tuple[Fitted, Fitted, str]:
    """The run on one worker and on two, each on a private Ray, and what was said."""
    status, said = finish(driver(study, folder / "runs", ["one:1", "two:2"], environment()))
    assert status == 0, said
    return fitted(folder / "runs", "one"), fitted(folder / "runs", "two"), said


def test_two_workers_follow_the_curve_of_one_and_of_this_process(
    alone: tuple[Fitted, Fitted, str], study: Path
) -> None:
    one, two, said = alone
    config = read_study(study, list(CHANGES))
    prepared = Prepared.of(config)
    here = fit_diffusion(prepared.train, prepared.validation, config.learning, prepared.program(24))[
        "diffusion-dfl"
    ].history
    assert len(two.history.noise_losses) == 24
    assert len(two.history.task_losses) == 4
    for history in (one.history, two.history):
        # Sums in another order, in float32, over a hundred steps: 1e-5 is stated.
        assert history.noise_losses == pytest.approx(here.noise_losses, rel=1e-5)
        assert history.training_noise_losses == pytest.approx(here.training_noise_losses, rel=1e-5)
        assert history.task_losses == pytest.approx(here.task_losses, rel=1e-4)
        assert history.cosines == pytest.approx(here.cosines, abs=1e-3)
        assert history.best_epoch == here.best_epoch
    assert two.joint is not None
    assert one.joint is not None
    for name, weight in two.joint.items():
        torch.testing.assert_close(weight, one.joint[name], rtol=1e-3, atol=1e-4)
    # Lines of the first worker alone; one start of each run.
    assert len(re.findall(r"pretraining 24/24", said)) == 2
    assert len(re.findall(r"worker 2 of 2: cpu of .*, process \d+", said)) == 1


def test_nothing_of_a_private_ray_is_left(alone: tuple[Fitted, Fitted, str], head: Head) -> None:
    del alone
    left = set(psutil.Process().children(recursive=True)) - {
        *head.processes(),
        psutil.Process(head.process.pid),
    }
    names = [" ".join(child.cmdline()) for child in left]
    assert [name for name in names if "ray" in name and "hc-" in name] == []


def begun(process: subprocess.Popen[str], rank: int, count: int) -> tuple[int, str]:
    """Process of a worker, once the run is some epochs old, and what was said until then."""
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if re.search(r"pretraining [4-9]/24", line):
            break
    found = re.findall(rf"worker {rank} of {count}: .*, process (\d+)", said)
    assert found, said
    return int(found[-1]), said


def test_a_run_survives_the_death_of_a_worker(
    alone: tuple[Fitted, Fitted, str], head: Head, study: Path, folder: Path
) -> None:
    process = driver(study, folder / "runs", ["killed:2"], head.connected(), failures=2)
    try:
        victim, before = begun(process, 2, 2)
        assert head.runs(victim)
        os.kill(victim, signal.SIGKILL)
    except BaseException:
        process.kill()
        raise
    finally:
        status, after = finish(process)
    assert status == 0, before + after
    # Both workers were started again, and went on instead of beginning anew.
    assert len(re.findall(r"worker \d of 2: ", after)) == 2
    assert "goes on" in after
    assert "pretraining 1/24" not in after
    assert figures(fitted(folder / "runs", "killed")) == figures(alone[1])
    joint, expected = fitted(folder / "runs", "killed").joint, alone[1].joint
    assert joint is not None
    assert expected is not None
    assert all(torch.equal(weight, expected[name]) for name, weight in joint.items())


def test_a_run_that_was_given_up_goes_on_with_the_same_command(
    alone: tuple[Fitted, Fitted, str], head: Head, study: Path, folder: Path
) -> None:
    process = driver(study, folder / "runs", ["stopped:2"], head.connected())
    try:
        victim, _ = begun(process, 1, 2)
        os.kill(victim, signal.SIGKILL)
    except BaseException:
        process.kill()
        raise
    finally:
        status, said = finish(process)
    assert status == 1
    assert "UnavailableError: run stopped did not end" in said
    # One worker instead of two: the rest follows the same curve.
    status, said = finish(driver(study, folder / "runs", ["stopped:1"], head.connected()))
    assert status == 0, said
    assert "goes on" in said
    assert "pretraining 1/24" not in said
    again, whole = figures(fitted(folder / "runs", "stopped")), figures(alone[1])
    assert again["noise_losses"] == pytest.approx(whole["noise_losses"], rel=1e-5)
    assert again["task_losses"] == pytest.approx(whole["task_losses"], rel=1e-4)


SHORT = '''
import cvxpy as cp
from hedgecast.programs.program import TwoStageProgram

def build(num_steps):
    """The recourse delivers at most 1: no day can be served."""
    plan, delivery = cp.Variable(num_steps, name="plan"), cp.Variable(num_steps)
    load = cp.Parameter(num_steps)
    return TwoStageProgram(
        name="short", decision=plan, uncertain=load, constraints=[plan >= 0, plan <= 1],
        recourse_cost=cp.sum(delivery),
        recourse_constraints=[delivery >= 0, delivery <= 1, plan + delivery >= load],
    )
'''


def test_failed_solves_stop_every_worker_and_are_not_tried_again(
    head: Head, study: Path, folder: Path
) -> None:
    (folder / "short.py").write_text(SHORT)
    text = re.sub(r'name = "generation_scheduling"', 'path = "short.py"', study.read_text())
    text = re.sub(r"\[program\.parameters\][^\[]*", "", text)
    other = folder / "short.toml"
    other.write_text(text)
    changes = ["learning.method=diffusion-dfl", "learning.epochs=1", "learning.joint_epochs=1"]
    process = driver(other, folder / "runs", ["short:2"], head.connected(), failures=3, changes=changes)
    status, said = finish(process)
    assert status == 1
    assert re.search(r"NotConvergedError: .* solves of validation failed", said), said
    assert len(re.findall(r"worker 1 of 2: ", said)) <= 2


def test_a_submitted_job_trains_and_registers(head: Head, study: Path, folder: Path) -> None:
    working = folder / "job"
    working.mkdir()
    for name in (study.name, "tiny.csv"):
        shutil.copy(folder / name, working / name)
    settings = [argument for change in CHANGES for argument in ("--set", change)]
    command = [
        *[
            str(BIN / "ray"),
            "job",
            "submit",
            "--address",
            head.dashboard,
            "--working-dir",
            str(working),
            "--",
        ],
        *[str(BIN / "hedgecast"), "train", study.name, *settings, "--workers", "2", "--scenarios", "20"],
        *["--storage", str(folder / "runs"), "--run-name", "job", "--registry", str(folder / "registry")],
    ]
    ran = subprocess.run(
        command, env=head.environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = ran.stdout + ran.stderr
    assert "joint training 3/3" in said
    assert "tiny@1" in said
    assert fitted(folder / "runs", "job").joint is not None
    listed = subprocess.run(
        [str(BIN / "hedgecast"), "models", "list", "--registry", str(folder / "registry")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "tiny" in listed.stdout
