import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hedgecast.core.errors import GateRefusedError, InputError, ModelNotFoundError
from hedgecast.learning.distillation import student_of
from hedgecast.learning.fidelity import SCORES
from hedgecast.registry.bundle import (
    GENERATOR_WEIGHTS,
    VALIDATION_DAYS,
    Bundle,
)
from hedgecast.registry.descent import TEACHER_FINGERPRINT
from hedgecast.registry.evidence import ValidationDays
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.store import ModelStore
from hedgecast.registry.weights import weights_of
from hedgecast.testing import TinyModel, altered_bundle, made_up_days

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("home"))


def with_days(
    bundle: Bundle,
    folder: Path,
    *,
    days: ValidationDays,
    metrics: dict[str, float],
    files: dict[str, bytes] | None = None,
    training: dict[str, str] | None = None,
) -> Bundle:
    """A copy of ``bundle`` that measured something else."""
    table = {VALIDATION_DAYS: days.to_bytes()}
    return altered_bundle(
        bundle, folder, files={**table, **(files or {})}, metrics=metrics, training=training
    )


def test_versions_and_aliases(store: ModelStore, trained: TinyModel, tmp_path: Path) -> None:
    first = store.register(trained.bundle)
    assert (first.name, first.version, first.aliases) == ("tiny", 1, ("candidate",))
    second = store.register(trained.bundle)
    assert second.version == 2
    promotion = store.promote("tiny@candidate")
    assert promotion.version.aliases == ("candidate", "champion")
    assert promotion.replaced is None
    assert all(check.passed for check in promotion.checks)
    assert store.resolve("tiny").version == 2
    assert store.resolve("tiny@1").aliases == ()
    fetched = store.fetch("tiny@champion", tmp_path)
    assert fetched.manifest == trained.bundle.manifest
    assert store.fetch("tiny@champion", tmp_path).folder == fetched.folder
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-2"]


def test_a_failed_check_leaves_no_champion(store: ModelStore, trained: TinyModel, tmp_path: Path) -> None:
    bad = with_days(trained.bundle, tmp_path / "bad", days=made_up_days(), metrics={"coverage": 0.5})
    version = store.register(bad, name="gated")
    with pytest.raises(
        GateRefusedError, match=r"coverage of the central 90 % fails: 0.5, must be at least 0.8"
    ) as refusal:
        store.promote(version.reference)
    assert refusal.value.facts["failed"] == ["coverage of the central 90 %"]
    assert refusal.value.facts["checks"] == store.judge("gated@candidate").checks
    assert refusal.value.facts["rule"] == "first"
    with pytest.raises(ModelNotFoundError, match="no alias or version 'champion': versions \\[1\\]"):
        store.resolve("gated")


def test_a_champion_is_replaced_only_by_a_better_one(
    store: ModelStore, trained: TinyModel, tmp_path: Path
) -> None:
    first = store.register(trained.bundle, name="reigning")
    store.promote(first.reference)
    with pytest.raises(InputError, match="reigning@1 is champion already"):
        store.promote("reigning@champion")
    again = store.register(trained.bundle, name="reigning")
    with pytest.raises(GateRefusedError, match="upper 95 % bound fails: 0, must be below 0"):
        store.promote(again.reference)
    assert store.resolve("reigning").version == 1
    better = with_days(trained.bundle, tmp_path / "better", days=made_up_days(saved=20.0), metrics={})
    promotion = store.promote(store.register(better, name="reigning").reference)
    assert (promotion.version.version, promotion.version.aliases) == (3, ("candidate", "champion"))
    assert promotion.replaced is not None
    assert promotion.replaced.version == 1
    assert store.resolve("reigning").version == 3
    # Back to the first: it is shown worse now.
    with pytest.raises(GateRefusedError, match="upper 95 % bound fails: 20, must be below 0"):
        store.promote("reigning@1")


def test_a_champion_that_decided_the_new_days_is_compared_on_them(
    store: ModelStore, trained: TinyModel, tmp_path: Path
) -> None:
    first = store.register(trained.bundle, name="later")
    store.promote(first.reference)
    champion = store.champion("later", tmp_path)
    assert champion is not None
    assert store.champion("nothing", tmp_path) is None
    # A later season: other days than the champion was validated on.
    days = dataclasses.replace(made_up_days(saved=20.0), days=made_up_days().days + 365, data="5" * 64)
    alone = with_days(trained.bundle, tmp_path / "alone", days=days, metrics={})
    with pytest.raises(GateRefusedError, match="differences from the champion's validation"):
        store.promote(store.register(alone, name="later").reference)
    decided = dataclasses.replace(
        days, champion=champion.manifest.fingerprint, champion_cost=days.baseline_cost
    )
    both = with_days(trained.bundle, tmp_path / "both", days=decided, metrics={})
    assert store.promote(store.register(both, name="later").reference).version.version == 3


def scored(days: ValidationDays) -> ValidationDays:
    """With scores that are all one, as a model's that draws the same scenarios are the same."""
    return dataclasses.replace(days, scores={name: np.ones(len(days.days)) for name in SCORES})


def test_a_student_of_the_champion_replaces_it_once(
    store: ModelStore, trained: TinyModel, tmp_path: Path
) -> None:
    # The same graphs stand for a student that has learned all, its weights for its two calls.
    teacher = with_days(trained.bundle, tmp_path / "teacher", days=scored(made_up_days()), metrics={})
    store.promote(store.register(teacher, name="school").reference)
    pupil = with_days(
        teacher,
        tmp_path / "student",
        days=scored(made_up_days()),
        metrics={},
        files={GENERATOR_WEIGHTS: weights_of(student_of(trained.generator, 2))},
        training={TEACHER_FINGERPRINT: teacher.manifest.fingerprint},
    )
    promotion = store.promote(store.register(pupil, name="school").reference)
    assert (promotion.version.version, promotion.rule) == (2, "student")
    assert promotion.replaced is not None
    assert promotion.replaced.version == 1
    # Its own student would lose 2 % of what has lost 2 %.
    grandchild = with_days(
        pupil,
        tmp_path / "grandchild",
        days=scored(made_up_days()),
        metrics={},
        files={GENERATOR_WEIGHTS: weights_of(student_of(trained.generator, 1))},
        training={TEACHER_FINGERPRINT: pupil.manifest.fingerprint},
    )
    with pytest.raises(GateRefusedError, match="students among its teachers fails: 1") as refusal:
        store.promote(store.register(grandchild, name="school").reference)
    assert refusal.value.facts["failed"] == ["students among its teachers"]
    assert refusal.value.facts["rule"] == "student"


def test_a_bundle_that_lies_about_its_teacher_is_refused(
    store: ModelStore, trained: TinyModel, tmp_path: Path
) -> None:
    teacher = with_days(trained.bundle, tmp_path / "teacher", days=scored(made_up_days()), metrics={})
    store.promote(store.register(teacher, name="liars").reference)
    # Another network's graph under figures that say it draws the teacher's scenarios.
    files = {
        SCENARIOS_GRAPH: (trained.bundle.folder / BASELINE_GRAPH).read_bytes(),
        GENERATOR_WEIGHTS: weights_of(student_of(trained.generator, 1)),
    }
    claim = {TEACHER_FINGERPRINT: teacher.manifest.fingerprint}
    days = scored(made_up_days())
    liar = with_days(teacher, tmp_path / "liar", days=days, metrics={}, files=files, training=claim)
    with pytest.raises(
        GateRefusedError,
        match=r"distance from the teacher's scenarios of the same noise, share of what its network does "
        r"fails: 1, must be at most 0\.5",
    ) as refusal:
        store.promote(store.register(liar, name="liars").reference)
    assert str(refusal.value).count("fails") == 1
    # A true student of somebody else is held to being better.
    other = with_days(
        teacher, tmp_path / "other", days=days, metrics={}, training={TEACHER_FINGERPRINT: "9" * 64}
    )
    with pytest.raises(GateRefusedError, match="regret less the champion's") as refusal:
        store.promote(store.register(other, name="liars").reference)
    assert refusal.value.facts["rule"] == "better"


def test_an_unknown_model_names_the_known(store: ModelStore, trained: TinyModel) -> None:
    store.register(trained.bundle, name="known")
    with pytest.raises(ModelNotFoundError, match=r"no model 'other'.*known"):
        store.resolve("other@champion")


@pytest.mark.parametrize("name", ["", "a' OR 1=1", "../x"])
def test_a_name_that_could_be_a_query_is_refused(store: ModelStore, name: str) -> None:
    with pytest.raises(InputError, match="use letters, digits"):
        store.resolve(f"{name}@1")
