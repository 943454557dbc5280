"""From a registered model to a registered student, by the command; the teacher is untrained but bent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from hedgecast.commands.distill import distill as command
from hedgecast.core.errors import BundleError, ConfigError, HedgecastError, ModelNotFoundError
from hedgecast.data.features import features
from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.learning.distillation import Distilled
from hedgecast.learning.distillation import distill as train_student
from hedgecast.registry.bundle import (
    VALIDATION_DAYS,
    write_bundle,
)
from hedgecast.registry.export import Graphs, Parity
from hedgecast.registry.graphs import BASELINE_GRAPH, DENOISER_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.session import ScenarioSession
from hedgecast.registry.store import ModelStore
from hedgecast.registry.weights import generator_of
from hedgecast.testing import TinyModel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(command)
# 220 training days of the tiny study; half a minute would be too long for a test.
QUICK = [
    "--set",
    "distill.epochs=8",
    "--set",
    "distill.pool_per_day=32",
    "--set",
    "distill.samples_per_day=8",
]


@dataclasses.dataclass(frozen=True)
class Home:
    """A registry with one teacher, its champion, and the teacher's study."""

    folder: Path
    study: Path
    teacher: TinyModel


@pytest.fixture(scope="module")
def home(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    store = ModelStore(folder / "registry")
    store.register(tiny.bundle)
    store.promote("tiny@1")
    return Home(folder / "registry", tiny.bundle.folder.parent / "tiny.toml", tiny)


def run(home: Home, *options: str) -> dict[str, Any]:
    """The record of a command that succeeds."""
    given = [str(home.study), "--registry", str(home.folder), "--scenarios", "50", "--json"]
    result = CliRunner().invoke(APP, [*given, *options], catch_exceptions=False)
    assert result.exit_code == 0
    record: dict[str, Any] = json.loads(result.stdout)
    return record


@pytest.fixture(scope="module")
def record(home: Home) -> dict[str, Any]:
    """Of the student that all tests look at: two steps, from version 1."""
    return run(home, "--model", "tiny@1", "--steps", "2", *QUICK)


def failures(found: dict[str, Any]) -> set[str]:
    return {check["name"].partition(",")[0] for check in found["checks"] if not check["passed"]}


def test_the_student_is_a_version_that_names_its_teacher(home: Home, record: dict[str, Any]) -> None:
    version = ModelStore(home.folder).resolve("tiny@2")
    assert record["model"]["version"] == 2
    assert record["teacher"] == version.tags["teacher"] == "tiny@1"
    assert version.tags["teacher_fingerprint"] == home.teacher.bundle.manifest.fingerprint
    assert version.tags["student_steps"] == "2"
    assert record["evaluations"] == {"teacher": 8, "student": 2}
    assert record["training"]["student_evaluations"] == 2
    assert record["training"]["teacher"] == "tiny@1"


def test_the_student_was_compared_with_its_teacher_by_the_day(record: dict[str, Any]) -> None:
    found = {change["figure"]: change for change in record["changes"]}
    assert set(found) == {"crps", "energy_score", "variogram_score", "regret"}
    reports = {report["label"]: report for report in record["validation"]}
    for figure, change in found.items():
        assert change["before"] == pytest.approx(reports["teacher"][figure])
        assert change["after"] == pytest.approx(reports["student"][figure])
        assert record["metrics"][f"{figure}_change"] == pytest.approx(change["after"] / change["before"] - 1)
        # Distilled for seconds from a network that bends little: near, and not the same.
        assert 0 < abs(change["relative"]["mean"]) < 0.1
    assert record["training"]["distillation_loss"] < record["training"]["distillation_loss_before"]


def test_a_student_of_the_champion_is_held_to_its_teacher(record: dict[str, Any]) -> None:
    """What the gate computes from both bundles is what the command found when it compared the models."""
    assert record["rule"] == "student"
    checks = {check["name"]: check for check in record["checks"]}
    for change in record["changes"]:
        label = change["figure"].replace("_", " ").replace("crps", "CRPS")
        check = checks[f"{label} less the teacher's, share of it, upper 95 % bound"]
        assert check["figure"] == pytest.approx(change["relative"]["high"])
        assert (check["bound"], check["passed"]) == (0.02, change["relative"]["high"] < 0.02)
    calls = checks["network calls against the teacher's"]
    assert (calls["figure"], calls["bound"], calls["passed"]) == (2, 8, True)
    # The command may not promote what is no student: by both graphs it is one.
    (distance,) = (check for name, check in checks.items() if name.startswith("distance from the teacher's"))
    assert 0.0 < distance["figure"] < 0.5
    # An untrained teacher's scenarios are not real; that alone keeps this student from its place.
    assert not any("teacher" in name for name, check in checks.items() if not check["passed"])


def test_the_graph_of_the_student_is_its_network_and_nests(
    home: Home, record: dict[str, Any], tmp_path: Path
) -> None:
    bundle = ModelStore(home.folder).fetch("tiny@2", tmp_path)
    assert bundle.manifest.generator.sampler == "euler, 2 steps"
    windows = home.teacher.split.validation.select(slice(0, 3))
    context, numbers = features(windows), day_numbers(windows.days)
    student = generator_of(bundle)
    with torch.no_grad():
        noise = torch.from_numpy(scenario_noise(5, numbers, 40, student.dim))
        expected = student.sample(torch.from_numpy(context), noise).numpy()
    session = ScenarioSession(bundle)
    drawn = session.draw(context, numbers, 40, 5)
    np.testing.assert_allclose(drawn, expected, rtol=1e-4, atol=1e-4 * expected.std())
    np.testing.assert_allclose(session.draw(context[1:2], numbers[1:2], 10, 5)[0], drawn[1, :10], rtol=1e-5)
    assert record["metrics"]["scenario_graph_relative_error"] < 1e-4


def test_a_collapsed_student_is_refused_and_an_honest_one_not_for_that(
    home: Home, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def collapsing(*arguments: Any) -> Distilled:
        found = train_student(*arguments)
        found.generator.whitening.factor.mul_(0.1)
        return found

    monkeypatch.setattr("hedgecast.commands.distill.train_student", collapsing)
    # Not looked at here, and half of the command's time.
    scenarios, baseline, denoiser = (
        (home.teacher.bundle.folder / name).read_bytes()
        for name in (SCENARIOS_GRAPH, BASELINE_GRAPH, DENOISER_GRAPH)
    )
    same = Parity(1, 0.0)
    graphs = Graphs(scenarios, baseline, denoiser, scenarios_parity=same, denoiser_parity=same)
    monkeypatch.setattr("hedgecast.registry.package.export_graphs", lambda generator, context: graphs)
    planted = run(home, "--model", "tiny@1", "--steps", "1", "--set", "distill.epochs=0", *QUICK[2:])
    spread = {"coverage of the central 90 %", "diversity of scenarios", "CRPS", "energy score"}
    assert not planted["champion"]
    assert spread <= failures(planted)
    assert "diversity of scenarios, ratio fails" in planted["refusal"]
    assert not spread & failures(record)
    assert not any(change["within"] for change in planted["changes"] if change["figure"] == "crps")
    assert "champion" not in planted["model"]["aliases"]


def refused(home: Home, *options: str) -> HedgecastError:
    with pytest.raises(HedgecastError) as caught:
        CliRunner().invoke(
            APP, [str(home.study), "--registry", str(home.folder), *options], catch_exceptions=False
        )
    return caught.value


def test_what_cannot_be_distilled_is_refused_before_training(home: Home, tmp_path: Path) -> None:
    error = refused(home, "--model", "tiny@1", "--set", "learning.epochs=x")
    assert isinstance(error, ConfigError)
    assert "distill.steps = 9: must be 1 to 4" in str(refused(home, "--model", "tiny@1", "--steps", "9"))
    assert isinstance(refused(home, "--model", "tiny@99"), ModelNotFoundError)
    other = refused(home, "--model", "tiny@1", "--set", "data.history=192")
    assert isinstance(other, BundleError)
    assert "reads other columns, history or slots" in str(other)


def test_a_student_of_no_fewer_calls_is_refused(home: Home, record: dict[str, Any]) -> None:
    assert record["model"]["version"] == 2
    error = refused(home, "--model", "tiny@2", "--steps", "2")
    assert "tiny@2 needs 2 network calls already: a student of 2 would be no faster" in str(error)


def test_a_teacher_without_weights_says_what_to_do(home: Home, tmp_path: Path) -> None:
    bundle = home.teacher.bundle
    manifest = bundle.manifest.to_dict()
    del manifest["format"], manifest["files"]
    kept = (SCENARIOS_GRAPH, BASELINE_GRAPH, DENOISER_GRAPH, VALIDATION_DAYS)
    files = {name: (bundle.folder / name).read_bytes() for name in kept}
    store = ModelStore(tmp_path / "registry")
    store.register(write_bundle(tmp_path / "old", files=files, card="# old\n", manifest=manifest))
    error = refused(dataclasses.replace(home, folder=tmp_path / "registry"))
    assert "exported by an earlier version" in str(error)
