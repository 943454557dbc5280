"""Ray Train with real processes: private Rays, a local head, killed workers, a submitted job."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hedgecast.commands.workflow import Prepared
from hedgecast.learning.fit import Fitted
from hedgecast.learning.history import History
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.study import read_study
from hedgecast.testing import write_tiny_study
from hedgecast_workers.processes import end, family
from hedgecast_workers.run_files import RunFiles
from hedgecast_workers.testing import BIN, Head, environment

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
# Trains what each line of its standard input orders, one run after the other; the last line on standard error
# that a run leaves says why it failed.
DRIVER = """
import json, sys
from hedgecast.commands.workflow import Prepared
from hedgecast.core.errors import HedgecastError
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.study import read_study
from hedgecast.learning.trainers import TrainerOptions
from hedgecast_workers.train import RayTrainer

for line in sys.stdin:
    order = json.loads(line)
    study = read_study(order.pop("study"), order.pop("changes"))
    prepared = Prepared.of(study)
    try:
        fit_diffusion(
            prepared.train,
            prepared.validation,
            study.learning,
            prepared.program(prepared.schema.horizon),
            trainer=RayTrainer(study, TrainerOptions(gpu=False, **order)),
        )
        failure = None
    except HedgecastError as error:
        failure = f"{type(error).__name__}: {error}"
    print("ended", order["run_name"], json.dumps(failure), file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    return write_tiny_study(folder, num_days=230)


class Driver:
    """A process that trains one run after the other: importing torch and Ray takes it longer than most."""

    def __init__(self, study: Path, storage: Path, env: Mapping[str, str]) -> None:
        self.study, self.storage = study, storage
        self._name = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin(
        self,
        name: str,
        workers: int,
        *,
        failures: int = 0,
        study: Path | None = None,
        changes: Sequence[str] = CHANGES,
    ) -> None:
        order = {"study": str(study or self.study), "changes": list(changes), "storage": str(self.storage)}
        options = {"run_name": name, "num_workers": workers, "max_failures": failures}
        assert self.process.stdin is not None
        self._name = name
        self.process.stdin.write(json.dumps({**order, **options}) + "\n")
        self.process.stdin.flush()

    def said_until(self, pattern: str) -> str:
        """What was said since the last call, to the first line with the pattern."""
        said = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            said += line
            if re.search(pattern, line):
                return said
            assert not line.startswith(f"ended {self._name} "), said
        raise AssertionError(f"the driver died: {said}")

    def end(self) -> tuple[str | None, str]:
        """Why the run failed, None: it did not; and what was said since the last call."""
        mark = f"ended {self._name} "
        said = self.said_until(f"^{mark}")
        failure: str | None = json.loads(said.splitlines()[-1].removeprefix(mark))
        return failure, said

    def close(self) -> None:
        """End the process, which has nothing more to do, and all that it started."""
        left = family(self.process.pid)
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        end(left, patience_seconds=20.0)
        self.process.wait()
        self.process.stderr.close()


def fitted(storage: Path, name: str) -> Fitted:
    found = RunFiles.at(str(storage), name).read_fitted()
    assert found is not None
    return found


def figures(found: Fitted) -> dict[str, Any]:
    record = found.history.to_dict()
    record.pop("seconds")
    return record


@pytest.fixture(scope="module")
def whole(study: Path, folder: Path) -> tuple[Fitted, str]:
    """The run that nothing disturbed, on two workers of a private Ray, and what was said."""
    alone = Driver(study, folder / "runs", environment())
    try:
        alone.begin("whole", 2)
        failure, said = alone.end()
    finally:
        alone.close()
    assert failure is None, said
    assert alone.process.returncode == 0
    return fitted(folder / "runs", "whole"), said


@pytest.fixture(scope="module")
def driver(head: Head, study: Path, folder: Path) -> Iterator[Driver]:
    """Trains on the cluster that all share."""
    made = Driver(study, folder / "runs", head.connected())
    yield made
    made.close()


def check_curves(found: Fitted, expected: History) -> None:
    """Sums in another order, in float32, over a hundred steps: 1e-5 is stated."""
    history = found.history
    assert history.noise_losses == pytest.approx(expected.noise_losses, rel=1e-5)
    assert history.training_noise_losses == pytest.approx(expected.training_noise_losses, rel=1e-5)
    assert history.task_losses == pytest.approx(expected.task_losses, rel=1e-4)
    assert history.cosines == pytest.approx(expected.cosines, abs=1e-3)
    assert history.best_epoch == expected.best_epoch


def test_two_workers_follow_the_curve_of_this_process(whole: tuple[Fitted, str], study: Path) -> None:
    two, said = whole
    config = read_study(study, list(CHANGES))
    prepared = Prepared.of(config)
    here = fit_diffusion(prepared.train, prepared.validation, config.learning, prepared.program(24))
    assert len(two.history.noise_losses) == 24
    assert len(two.history.task_losses) == 4
    check_curves(two, here["diffusion-dfl"].history)
    # Lines of the first worker alone; one start of each.
    assert len(re.findall(r"pretraining 24/24", said)) == 1
    assert len(re.findall(r"worker 2 of 2: cpu of .*, process \d+", said)) == 1


def test_nothing_of_a_private_ray_is_left(whole: tuple[Fitted, str], head: Head) -> None:
    del whole
    left = set(psutil.Process().children(recursive=True)) - {
        *head.processes(),
        psutil.Process(head.process.pid),
    }
    names = [" ".join(child.cmdline()) for child in left]
    assert [name for name in names if "ray" in name and "hc-" in name] == []


def begun(driver: Driver, rank: int, count: int) -> int:
    """Process of a worker, once the run is some epochs old."""
    said = driver.said_until(r"pretraining [4-9]/24")
    found = re.findall(rf"worker {rank} of {count}: .*, process (\d+)", said)
    assert found, said
    return int(found[-1])


def test_a_run_survives_the_death_of_a_worker(
    whole: tuple[Fitted, str], head: Head, driver: Driver, folder: Path
) -> None:
    driver.begin("killed", 2, failures=2)
    victim = begun(driver, 2, 2)
    assert head.runs(victim)
    os.kill(victim, signal.SIGKILL)
    failure, after = driver.end()
    assert failure is None, after
    # Both workers were started again, and went on instead of beginning anew.
    assert len(re.findall(r"worker \d of 2: ", after)) == 2
    assert "goes on" in after
    assert "pretraining 1/24" not in after
    found = fitted(folder / "runs", "killed")
    assert figures(found) == figures(whole[0])
    assert found.joint is not None
    assert whole[0].joint is not None
    assert all(torch.equal(weight, whole[0].joint[name]) for name, weight in found.joint.items())


@pytest.fixture(scope="module")
def stopped(driver: Driver, folder: Path) -> str:
    """Name of a run on two workers that was given up when one of them died."""
    driver.begin("stopped", 2)
    os.kill(begun(driver, 1, 2), signal.SIGKILL)
    failure, said = driver.end()
    assert failure is not None, said
    assert failure.startswith("UnavailableError: run stopped did not end")
    assert RunFiles.at(str(folder / "runs"), "stopped").read_fitted() is None
    return "stopped"


def test_a_submitted_job_goes_on_with_a_run_that_was_given_up_and_registers(
    whole: tuple[Fitted, str], stopped: str, head: Head, study: Path, folder: Path
) -> None:
    working = folder / "job"
    working.mkdir()
    for name in (study.name, "tiny.csv"):
        shutil.copy(folder / name, working / name)
    settings = [argument for change in CHANGES for argument in ("--set", change)]
    # One worker instead of two.
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
        *[str(BIN / "hedgecast"), "train", study.name, *settings, "--workers", "1", "--scenarios", "50"],
        *["--storage", str(folder / "runs"), "--run-name", stopped, "--registry", str(folder / "registry")],
    ]
    ran = subprocess.run(
        command, env=head.environment, capture_output=True, text=True, timeout=400, check=False
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert len(re.findall(r"worker \d of 1: ", said)) == 1
    assert "goes on" in said
    assert "pretraining 1/24" not in said
    assert "joint training 3/3" in said
    assert "tiny@1" in said
    # The rest follows the same curve.
    found = fitted(folder / "runs", stopped)
    check_curves(found, whole[0].history)
    assert found.joint is not None
    assert whole[0].joint is not None
    for name, weight in found.joint.items():
        torch.testing.assert_close(weight, whole[0].joint[name], rtol=1e-3, atol=1e-4)
    listed = subprocess.run(
        [str(BIN / "hedgecast"), "models", "list", "--registry", str(folder / "registry")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "tiny" in listed.stdout


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
    driver: Driver, study: Path, folder: Path
) -> None:
    (folder / "short.py").write_text(SHORT)
    text = re.sub(r'name = "generation_scheduling"', 'path = "short.py"', study.read_text())
    text = re.sub(r"\[program\.parameters\][^\[]*", "", text)
    other = folder / "short.toml"
    other.write_text(text)
    changes = ["learning.method=diffusion-dfl", "learning.epochs=1", "learning.joint_epochs=1"]
    driver.begin("short", 2, failures=3, study=other, changes=changes)
    failure, said = driver.end()
    assert failure is not None
    assert re.search(r"NotConvergedError: .* solves of validation failed", failure), said
    assert len(re.findall(r"worker 1 of 2: ", said)) <= 2
