"""Who is packed as a version's student is one, and its graph draws beside the version's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgecast.core.errors import BundleError, ModelNotFoundError
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.descent import TEACHER_FINGERPRINT
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import FORMAT, MeasuredLadder
from hedgecast.registry.session import ScenarioSession
from hedgecast.registry.store import ModelStore, ModelVersion
from hedgecast.registry.student import newest_student, student_of, write_graph
from hedgecast.testing import TinyModel, altered_bundle, make_tiny_student

VERSION = ModelVersion("tiny", 2, (), "", {})


@pytest.fixture(scope="module")
def taught(trained: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_student(trained, tmp_path_factory.mktemp("student") / "bundle")


def _packed(trained: TinyModel, taught: Bundle, folder: Path) -> Bundle:
    """The teacher's bundle in ``folder`` with the student's graph and the record that names it."""
    teacher = altered_bundle(trained.bundle, folder)
    student = student_of(taught, VERSION, teacher)
    write_graph(student, taught, folder)
    record = MeasuredLadder(
        format=FORMAT, fingerprint=teacher.manifest.fingerprint, steps=(), student=student
    )
    record.write(folder)
    return teacher


def test_a_student_is_named_by_its_version_and_contents(trained: TinyModel, taught: Bundle) -> None:
    found = student_of(taught, VERSION, trained.bundle)
    assert found.full_name == "tiny@2"
    assert found.fingerprint == taught.manifest.fingerprint != trained.bundle.manifest.fingerprint
    assert found.digest == taught.manifest.files[SCENARIOS_GRAPH]
    assert (found.calls, found.teacher_calls) == (4, 8)
    assert 0.0 < found.distance < 0.5


def _foreign(bundle: Bundle, folder: Path) -> Bundle:
    return altered_bundle(bundle, folder, training={TEACHER_FINGERPRINT: "9" * 64})


def _as_slow(bundle: Bundle, folder: Path) -> Bundle:
    """The teacher's own weights, sampler and all."""
    return altered_bundle(bundle, folder, training={TEACHER_FINGERPRINT: bundle.manifest.fingerprint}, seed=7)


@pytest.mark.parametrize(
    ("make", "message"), [(_foreign, "names another teacher, or none"), (_as_slow, "8 network calls, the")]
)
def test_who_is_no_student_or_no_faster_is_refused(
    trained: TinyModel, tmp_path: Path, make: Callable[[Bundle, Path], Bundle], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        student_of(make(trained.bundle, tmp_path / "other"), VERSION, trained.bundle)


def test_who_draws_other_scenarios_is_refused(trained: TinyModel, taught: Bundle, tmp_path: Path) -> None:
    graph = (trained.bundle.folder / BASELINE_GRAPH).read_bytes()
    liar = altered_bundle(taught, tmp_path / "liar", files={SCENARIOS_GRAPH: graph})
    with pytest.raises(BundleError, match=r"is 1\.00 of what the network does to noise away"):
        student_of(liar, VERSION, trained.bundle)


@pytest.mark.parametrize("changed", ["precision", "names", "schema"])
def test_who_takes_or_gives_something_else_is_refused(
    trained: TinyModel, taught: Bundle, tmp_path: Path, changed: str
) -> None:
    shape = taught.manifest.generator.to_dict()
    changes: dict[str, dict[str, Any]] = {
        "precision": {"generator": {**shape, "precision": "float16"}},
        "names": {"generator": {**shape, "names": ["wind_gw"]}},
        "schema": {"schema": {**taught.manifest.schema, "history": taught.manifest.schema["history"] + 1}},
    }
    other = altered_bundle(taught, tmp_path / "other", **changes[changed])
    with pytest.raises(BundleError, match="takes other contexts"):
        student_of(other, VERSION, trained.bundle)


def test_the_packed_graph_draws_what_the_student_draws(
    trained: TinyModel, taught: Bundle, tmp_path: Path
) -> None:
    teacher = _packed(trained, taught, tmp_path / "teacher")
    session, alone = ScenarioSession(teacher), ScenarioSession(taught)
    (graph,) = set(session.graphs) - {SCENARIOS_GRAPH, BASELINE_GRAPH}
    contexts = np.random.default_rng(0).normal(size=(3, teacher.manifest.generator.num_features))
    drawn = session.draw(contexts, [1, 2, 3], 20, 5, graph=graph)
    np.testing.assert_array_equal(drawn, alone.draw(contexts, [1, 2, 3], 20, 5))
    own = session.draw(contexts, [1, 2, 3], 20, 5)
    np.testing.assert_array_equal(own, ScenarioSession(trained.bundle).draw(contexts, [1, 2, 3], 20, 5))
    assert not np.array_equal(drawn, own)
    with pytest.raises(BundleError, match="not student-0"):
        session.draw(contexts, [1, 2, 3], 1, 5, graph="student-0.onnx")
    # The bundle is what it was.
    assert Bundle.open(teacher.folder).manifest.fingerprint == trained.bundle.manifest.fingerprint


def test_a_graph_that_is_not_the_measured_one_is_refused(
    trained: TinyModel, taught: Bundle, tmp_path: Path
) -> None:
    teacher = _packed(trained, taught, tmp_path / "teacher")
    (graph,) = teacher.folder.glob("student-*.onnx")
    graph.write_bytes((teacher.folder / SCENARIOS_GRAPH).read_bytes())
    with pytest.raises(BundleError, match="was changed"):
        ScenarioSession(teacher)
    graph.unlink()
    with pytest.raises(BundleError, match="is missing"):
        ScenarioSession(teacher)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_newest_student_of_the_version_is_taken(
    trained: TinyModel, taught: Bundle, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path)
    store.register(trained.bundle, "tiny")
    with pytest.raises(ModelNotFoundError, match="no version of tiny is a student"):
        newest_student(store, "tiny", trained.bundle)
    tags = {TEACHER_FINGERPRINT: trained.bundle.manifest.fingerprint}
    for own in (tags, tags, {TEACHER_FINGERPRINT: "9" * 64}):
        store.register(taught, "tiny", tags=own)
    assert newest_student(store, "tiny", trained.bundle).version == 3
