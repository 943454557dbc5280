"""What cheaper answers cost is measured on the validation days and kept beside the bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from hedgecast.client import Client
from hedgecast.commands.measure_ladder import ladder_of, measure_ladder
from hedgecast.commands.workflow import Prepared
from hedgecast.core.errors import BundleError, ConfigError, InputError
from hedgecast.registry.attachments import attach
from hedgecast.registry.bundle import MODEL_CARD, VALIDATION_DAYS, Bundle, write_bundle
from hedgecast.registry.descent import TEACHER_FINGERPRINT
from hedgecast.registry.evidence import data_digest
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import LADDER_FILE, MeasuredLadder, Rung
from hedgecast.registry.session import ScenarioSession, context_of
from hedgecast.registry.store import ModelStore
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model, served_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast.testing import TinyModel, made_up_days, make_tiny_student

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(measure_ladder)


@dataclasses.dataclass(frozen=True)
class Home:
    folder: Path
    tiny: TinyModel
    bundle: Bundle
    prepared: Prepared


@pytest.fixture(scope="module")
def home(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A registry with one version, validated on the study's own days."""
    folder = tmp_path_factory.mktemp("ladder")
    prepared = Prepared.of(tiny.study)
    windows = prepared.split.validation
    days = made_up_days(num_days=len(windows))
    digest = data_digest(windows.days, [windows.realized(row) for row in range(len(windows))])
    validated = dataclasses.replace(days, days=windows.days, data=digest)
    bundle = _rewritten(tiny.bundle, folder / "validated", validated.to_bytes())
    ModelStore(folder / "registry").register(bundle)
    return Home(folder, tiny, bundle, prepared)


def _rewritten(bundle: Bundle, folder: Path, days: bytes, **changes: object) -> Bundle:
    """The bundle with other validation days, and with changes of its manifest."""
    held = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files if name != MODEL_CARD}
    manifest = {**bundle.manifest.to_dict(), **changes}
    del manifest["format"], manifest["files"]
    return write_bundle(folder, files={**held, VALIDATION_DAYS: days}, card="tiny", manifest=manifest)


def _run(home: Home, *arguments: str) -> dict[str, object]:
    command = [
        "tiny@1",
        "--study",
        str(home.tiny.bundle.folder.parent / "tiny.toml"),
        "--registry",
        str(home.folder / "registry"),
    ]
    result = CliRunner().invoke(APP, [*command, "--json", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout[result.stdout.index("{") :]))


def _mean_cost(home: Home, count: int, graph: str, bundle: Bundle | None = None) -> float:
    """Realized cost of the validation days, one by one, by the served graph: not the command's way."""
    windows, session = home.prepared.split.validation, ScenarioSession(bundle or home.bundle)
    costs = []
    for row in range(len(windows)):
        context = context_of(windows, row)
        (paths,) = session.draw(context.features[None], [context.day_number], count, 0, graph=graph)
        program = home.prepared.program(len(context.step_times))
        drawn = session.reader.scenario_set(context, paths, 0)
        decision = program.solve(drawn.values).require_optimal()
        real = torch.from_numpy(windows.realized(row).reshape(1, 1, -1))
        costs.append(float(program.value(decision.flat, real)[0, 0].detach()))
    return float(np.mean(costs))


def test_each_step_costs_what_its_decisions_cost_more(home: Home) -> None:
    record = _run(home, "--fewer", "4", "--scenarios", "40")
    fewer, both = MeasuredLadder.from_dict({k: v for k, v in record.items() if k != "model"}).steps
    assert (fewer.rungs, fewer.num_scenarios) == (("fewer_scenarios",), 4)
    assert (both.rungs, both.num_scenarios) == (("baseline_scenarios", "fewer_scenarios"), 4)
    assert fewer.num_days == len(home.prepared.split.validation) == 33
    full = _mean_cost(home, 40, SCENARIOS_GRAPH)
    assert fewer.regret_increase == pytest.approx(_mean_cost(home, 4, SCENARIOS_GRAPH) - full, rel=1e-4)
    assert both.regret_increase == pytest.approx(_mean_cost(home, 4, BASELINE_GRAPH) - full, rel=1e-4)
    assert fewer.lower_bound < fewer.regret_increase < fewer.upper_bound
    # Four scenarios for the tail of a plan that is a hundred times dearer short than long.
    assert fewer.regret_increase > 0
    # The registry brings it with the version, and the service reads it.
    store = ModelStore(home.folder / "registry")
    got = store.fetch("tiny@1", home.folder / "fetched")
    described = served_model(BundleReference(folder=got.folder, name="tiny", version="1")).description
    assert described.ladder == (fewer, both)


@dataclasses.dataclass(frozen=True)
class Taught:
    """What was measured of a student, and its bundle."""

    bundle: Bundle
    record: MeasuredLadder


@pytest.fixture(scope="module")
def taught(home: Home) -> Taught:
    """Version 2 is a student of version 1, and was measured."""
    student = make_tiny_student(home.tiny, home.folder / "student")
    tags = {TEACHER_FINGERPRINT: home.bundle.manifest.fingerprint}
    ModelStore(home.folder / "registry").register(student, "tiny", tags=tags)
    record = _run(home, "--rungs", "student_sampler,baseline_scenarios", "--scenarios", "40")
    return Taught(student, MeasuredLadder.from_dict({k: v for k, v in record.items() if k != "model"}))


def test_a_students_step_costs_what_its_own_decisions_cost_more(home: Home, taught: Taught) -> None:
    step, baseline = taught.record.steps
    assert (step.rungs, baseline.rungs) == (("student_sampler",), ("baseline_scenarios",))
    full = _mean_cost(home, 40, SCENARIOS_GRAPH)
    by_student = _mean_cost(home, 40, SCENARIOS_GRAPH, taught.bundle)
    assert by_student != pytest.approx(full, rel=1e-6)
    assert step.regret_increase == pytest.approx(by_student - full, rel=1e-3)
    assert baseline.regret_increase == pytest.approx(_mean_cost(home, 40, BASELINE_GRAPH) - full, rel=1e-3)
    student = taught.record.student
    assert student is not None
    assert (student.full_name, student.calls, student.teacher_calls) == ("tiny@2", 4, 8)
    assert student.fingerprint == taught.bundle.manifest.fingerprint


def test_the_measured_student_draws_for_the_version_that_is_served(home: Home, taught: Taught) -> None:
    got = ModelStore(home.folder / "registry").fetch("tiny@1", home.folder / "served")
    assert got.manifest.fingerprint == home.bundle.manifest.fingerprint
    backend = LocalBackend([local_model(BundleReference(folder=got.folder, name="tiny", version="1"))])
    settings = load_settings(port=0, ladder="student_sampler:1")
    history, known = home.tiny.day_rows()
    with background_server(backend, settings) as address, Client(address, retries=0) as client:
        # One question under way is load enough, and the first one finds none.
        full, cheaper, again = (
            client.decide(
                "tiny", history=history.columns, history_times=history.times, known=known.columns,
                known_times=known.times, seed=5, scenario_count=60,
            )
            for _ in range(3)
        )  # fmt: skip
    backend.close()
    assert (full.scenario_source, full.student, full.degradation) == ("MODEL", "", None)
    assert (cheaper.model, cheaper.scenario_source, cheaper.student) == ("tiny@1", "STUDENT", "tiny@2")
    assert cheaper.model_fingerprint == home.bundle.manifest.fingerprint
    assert cheaper.student_fingerprint == taught.bundle.manifest.fingerprint
    # What was drawn is what the student draws by itself, and what it costs is what was measured.
    for answer, bundle in ((full, home.bundle), (cheaper, taught.bundle), (again, taught.bundle)):
        drawn = ScenarioSession(bundle).scenarios(history, known, 60, 5)
        assert answer.scenario_fingerprint == drawn.fingerprint()
    assert cheaper.degradation is not None
    assert cheaper.degradation.rungs == ("STUDENT_SAMPLER",)
    assert cheaper.degradation.regret_increase == taught.record.steps[0].regret_increase
    np.testing.assert_array_equal(again.decision["schedule"], cheaper.decision["schedule"])


def test_a_student_of_another_model_is_refused(home: Home, taught: Taught) -> None:
    with pytest.raises(BundleError, match="tiny@1 is no student of tiny"):
        _run(home, "--rungs", "student_sampler", "--student", "tiny@1")
    with pytest.raises(ConfigError, match="has no student_sampler"):
        _run(home, "--student", "tiny@2")


def test_other_days_than_the_models_are_refused(home: Home) -> None:
    store = ModelStore(home.folder / "others")
    store.register(home.tiny.bundle)
    with pytest.raises(BundleError, match="name the study it was trained with"):
        _run(home, "--registry", str(home.folder / "others"))


def test_a_file_of_the_bundle_is_not_replaced(home: Home, tmp_path: Path) -> None:
    (tmp_path / VALIDATION_DAYS).write_bytes(b"mine")
    with pytest.raises(InputError, match="holds a validation_days"):
        attach(ModelStore(home.folder / "registry"), "tiny@1", tmp_path / VALIDATION_DAYS)


def test_a_folder_gets_the_record_of_its_own_bundle_alone(home: Home) -> None:
    _run(home, "--rungs", "baseline_scenarios", "--scenarios", "10", "--output", str(home.bundle.folder))
    assert (home.bundle.folder / LADDER_FILE).is_file()
    other = _rewritten(home.bundle, home.folder / "other", made_up_days().to_bytes(), seed=99).folder
    with pytest.raises(BundleError, match="holds another bundle"):
        _run(home, "--rungs", "baseline_scenarios", "--scenarios", "10", "--output", str(other))


@pytest.mark.parametrize(
    ("rungs", "fewer", "message"),
    [("", 5, "name one or more"), ("magic", 5, "name one or more"), ("fewer_scenarios", 50, "not less than"),
     ("fewer_scenarios,fewer_scenarios", 5, "each once")],
)  # fmt: skip
def test_steps_that_make_no_sense_are_refused(rungs: str, fewer: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ladder_of(rungs, fewer, 50)


def test_each_step_takes_the_rungs_before_it() -> None:
    assert ladder_of("baseline_scenarios, fewer_scenarios", 5, 50) == (
        frozenset({Rung.BASELINE_SCENARIOS}),
        frozenset({Rung.BASELINE_SCENARIOS, Rung.FEWER_SCENARIOS}),
    )
