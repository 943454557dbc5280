"""Planted models at the gate: collapsed ones are refused however cheap, an honest better one is accepted.

Real validation days, real decisions, the real registry and command; only the scenarios are planted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from hedgecast.commands.models import app
from hedgecast.commands.workflow import (
    BASELINE,
    Evaluation,
    Prepared,
    evaluate,
    fit_methods,
    validation_days,
    validation_metrics,
)
from hedgecast.learning.distillation import student_of
from hedgecast.learning.fidelity import SCORES
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.part import Part
from hedgecast.learning.study import read_study
from hedgecast.registry.bundle import (
    GENERATOR_WEIGHTS,
    VALIDATION_DAYS,
    Bundle,
    write_bundle,
)
from hedgecast.registry.checks import DENOISER_PARITY, SCENARIO_PARITY
from hedgecast.registry.descent import TEACHER_FINGERPRINT
from hedgecast.registry.graphs import BASELINE_GRAPH, DENOISER_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.registered import RegisteredModel
from hedgecast.registry.store import CHAMPION, ModelStore
from hedgecast.registry.weights import weights_of
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.testing import TinyModel, altered_bundle, made_up_days, write_tiny_study

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

COUNT = 100
# Share of the error's variance that the better informed model knows ahead.
KNOWN = 0.75


@dataclasses.dataclass(frozen=True)
class Planted:
    """A method whose scenarios are made from an honest one's (B, S, T, F) and the days that came true."""

    base: ScenarioMethod
    change: Callable[[Tensor, Tensor], Tensor]
    name: str

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        found = self.base.scenarios(part, count, seed)
        return dataclasses.replace(found, paths=self.change(found.paths, part.targets), source=self.name)


def informed(paths: Tensor, targets: Tensor) -> Tensor:
    """The honest law of someone who knows part of the coming error, as a better weather forecast would.

    With the error e and an independent copy e' of its law, a = k e + sqrt(k (1 - k)) e' is known ahead; what
    is left has the mean a and the variance 1 - k of before.
    """
    center, copy = paths[:, 1:].mean(dim=1, keepdim=True), paths[:, :1]
    error = targets[:, None] - center
    known = KNOWN * error + (KNOWN * (1 - KNOWN)) ** 0.5 * (copy - center)
    drawn = paths[:, 1:]
    drawn = torch.cat([drawn, drawn[:, :1]], dim=1)
    return center + known + (1 - KNOWN) ** 0.5 * (drawn - center)


def collapsed(paths: Tensor, targets: Tensor) -> Tensor:
    """Nearly one scenario."""
    center = paths.mean(dim=1, keepdim=True)
    return center + 0.1 * (paths - center)


def pushed(paths: Tensor, targets: Tensor) -> Tensor:
    """All scenarios at the honest law's 99 % quantile, where the decision stands: cheap, and false."""
    center = paths.mean(dim=1, keepdim=True)
    return torch.quantile(paths, 0.985, dim=1, keepdim=True) + 0.01 * (paths - center)


PLANTED = {
    "honest": lambda paths, targets: paths,
    "informed": informed,
    "collapsed": collapsed,
    "pushed": pushed,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = write_tiny_study(tmp_path_factory.mktemp("study"), num_days=460)
    # 120 days to validate on.
    return Prepared.of(read_study(path, ['split.validation="2021-11-07"', 'split.test="2022-03-07"']))


@pytest.fixture(scope="module")
def evaluation(prepared: Prepared) -> Evaluation:
    ridge = fit_methods(prepared, (BASELINE,), Console(quiet=True))[BASELINE]
    methods: dict[str, ScenarioMethod] = {BASELINE: ridge}
    methods |= {name: Planted(ridge, change, name) for name, change in PLANTED.items()}
    return evaluate(
        prepared, prepared.split.validation, methods, count=COUNT, seed=0, console=Console(quiet=True)
    )


@pytest.fixture(scope="module")
def bundle_for(
    prepared: Prepared, evaluation: Evaluation, tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """The bundle of a planted model: a real one's graphs, the planted scenarios' measurements."""
    real = tiny.bundle
    manifest = real.manifest.to_dict()
    del manifest["format"], manifest["files"]
    parity = {key: manifest["metrics"][key] for key in (SCENARIO_PARITY, DENOISER_PARITY)}
    graphs = {
        name: (real.folder / name).read_bytes() for name in (SCENARIOS_GRAPH, BASELINE_GRAPH, DENOISER_GRAPH)
    }
    folder = tmp_path_factory.mktemp("bundles")

    def make(name: str) -> Bundle:
        days = validation_days(prepared, evaluation, name)
        return write_bundle(
            folder / name,
            files={**graphs, VALIDATION_DAYS: days.to_bytes()},
            card=f"# {name}\n",
            manifest={**manifest, "metrics": {**validation_metrics(evaluation, name), **parity}},
        )

    return make


def promote(home: Path, reference: str) -> tuple[int, dict[str, Any]]:
    """Exit code and record of the command."""
    result = CliRunner().invoke(app, ["promote", reference, "--registry", str(home), "--json"])
    return result.exit_code, json.loads(result.stdout)


def failures(record: dict[str, Any]) -> set[str]:
    return {check["name"].partition(",")[0] for check in record["checks"] if not check["passed"]}


def test_what_is_planted_is_what_it_says(evaluation: Evaluation) -> None:
    rows = {row.label: row for row in evaluation.rows}
    baseline = rows[BASELINE]
    assert rows["honest"].cost == pytest.approx(baseline.cost)
    assert rows["informed"].difference.high < 0
    # Pushed scenarios decide as well as honest ones: their cost is not shown worse.
    assert rows["pushed"].difference.low <= 0
    assert evaluation.transfer["pushed"].regret > 3 * evaluation.transfer[BASELINE].regret
    assert evaluation.realism["collapsed"].diversity_ratio < 0.3
    assert evaluation.realism["informed"].coverage == pytest.approx(0.9, abs=0.06)


def test_a_first_champion_that_is_honest_is_accepted(
    bundle_for: Callable[[str], Bundle], tmp_path: Path
) -> None:
    ModelStore(tmp_path).register(bundle_for("honest"))
    code, record = promote(tmp_path, "tiny@candidate")
    assert failures(record) == set()
    assert (code, record["champion"], record["refusal"], record["replaced"]) == (0, True, None, None)
    assert record["rule"] == "first"


def test_a_collapsed_model_is_refused(bundle_for: Callable[[str], Bundle], tmp_path: Path) -> None:
    ModelStore(tmp_path).register(bundle_for("collapsed"))
    code, record = promote(tmp_path, "tiny@candidate")
    assert (code, record["champion"]) == (2, False)
    assert failures(record) >= {
        "coverage of the central 90 %",
        "diversity of scenarios",
        "CRPS",
        "energy score",
        "classifier of real days against scenarios",
        "ranks",
    }
    for check in record["checks"]:
        if not check["passed"]:
            held = f"{check['figure']:.4g}, must be {check['relation']} {check['bound']:.4g}"
            assert f"{check['name']} fails: {held}" in record["refusal"]


def test_a_cheap_model_pushed_to_the_extreme_is_refused(
    bundle_for: Callable[[str], Bundle], tmp_path: Path
) -> None:
    ModelStore(tmp_path).register(bundle_for("pushed"))
    code, record = promote(tmp_path, "tiny@candidate")
    assert (code, record["champion"]) == (2, False)
    refused = failures(record)
    # It is no dearer than the baseline: realism alone refuses it.
    assert f"cost less that of {BASELINE}" not in refused
    assert refused >= {
        "coverage of the central 90 %",
        "regret on the second decision",
        "classifier of real days against scenarios",
        "diversity of scenarios",
    }


def test_an_honest_better_model_replaces_the_champion(
    bundle_for: Callable[[str], Bundle], tmp_path: Path
) -> None:
    store = ModelStore(tmp_path)
    store.register(bundle_for("honest"))
    store.promote("tiny@1")
    store.register(bundle_for("informed"))
    code, record = promote(tmp_path, "tiny@candidate")
    assert failures(record) == set()
    assert (code, record["champion"], record["replaced"]) == (0, True, "tiny@1")
    assert record["rule"] == "better"
    # And back again: an honest model that is not better stays where it is.
    code, record = promote(tmp_path, "tiny@1")
    assert failures(record) == {"regret less the champion's"}
    assert code == 2


def test_training_lets_the_champion_decide_the_new_days(
    prepared: Prepared, bundle_for: Callable[[str], Bundle], tmp_path: Path
) -> None:
    # The tiny study's real graphs decide days that their own validation never held.
    reigning = RegisteredModel(bundle_for("honest"), prepared.schema, CHAMPION)
    ridge = fit_methods(prepared, (BASELINE,), Console(quiet=True))[BASELINE]
    few = dataclasses.replace(
        prepared,
        split=dataclasses.replace(prepared.split, validation=prepared.split.test.select(slice(0, 8))),
    )
    methods: dict[str, ScenarioMethod] = {BASELINE: ridge, CHAMPION: reigning}
    found = evaluate(few, few.split.validation, methods, count=20, seed=0, console=Console(quiet=True))
    days = validation_days(few, found, BASELINE)
    assert days.champion == reigning.bundle.manifest.fingerprint
    rival = days.of_champion(days.champion)
    assert rival is not None
    assert rival.cost == pytest.approx(found.backtest.method(CHAMPION).costs)


def student_of_tiny(tiny: TinyModel, folder: Path, lost: float) -> tuple[Bundle, Bundle]:
    """A teacher, and a student that draws its scenarios and is said to lose a share of its regret."""
    days = made_up_days(saved=30.0)
    days = dataclasses.replace(days, scores={name: np.ones(len(days.days)) for name in SCORES})
    teacher = altered_bundle(tiny.bundle, folder / "teacher", files={VALIDATION_DAYS: days.to_bytes()})
    poorer = dataclasses.replace(days, cost=days.cost + lost * days.regret)
    student = altered_bundle(
        teacher,
        folder / "student",
        files={
            VALIDATION_DAYS: poorer.to_bytes(),
            GENERATOR_WEIGHTS: weights_of(student_of(tiny.generator, 1)),
        },
        training={TEACHER_FINGERPRINT: teacher.manifest.fingerprint},
    )
    return teacher, student


def test_a_student_of_the_champion_replaces_it(tiny: TinyModel, tmp_path: Path) -> None:
    teacher, student = student_of_tiny(tiny, tmp_path, lost=0.01)
    store = ModelStore(tmp_path / "registry")
    store.register(teacher)
    store.promote("tiny@1")
    store.register(student)
    arguments = ["promote", "tiny@candidate", "--registry", str(tmp_path / "registry")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "tiny@2 is now champion instead of tiny@1, as its student" in " ".join(result.stdout.split())


def test_a_student_that_loses_too_much_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    teacher, student = student_of_tiny(tiny, tmp_path, lost=0.03)
    store = ModelStore(tmp_path / "registry")
    store.register(teacher)
    store.promote("tiny@1")
    store.register(student)
    code, record = promote(tmp_path / "registry", "tiny@candidate")
    assert (code, record["champion"], record["rule"]) == (2, False, "student")
    (check,) = (check for check in record["checks"] if not check["passed"])
    assert check["name"] == "regret less the teacher's, share of it, upper 95 % bound"
    # Three percent of every day's regret, and half an interval of it.
    assert 0.03 < check["figure"] < 0.035
    assert f"{check['name']} fails: {check['figure']:.4g}, must be below 0.02" in record["refusal"]


def test_the_terminal_shows_each_check(bundle_for: Callable[[str], Bundle], tmp_path: Path) -> None:
    ModelStore(tmp_path).register(bundle_for("collapsed"))
    result = CliRunner().invoke(app, ["promote", "tiny@candidate", "--registry", str(tmp_path)])
    assert result.exit_code == 2
    assert "stays candidate" in result.stdout
    table = " ".join(result.stdout.split())
    assert "at least 0.85" in table
    assert result.stdout.count("fails") > result.stdout.count("holds") > 3
