from pathlib import Path

import pytest

from hedgecast.core.errors import GateRefusedError, InputError, ModelNotFoundError
from hedgecast.registry.checks import Check, gate_checks
from hedgecast.registry.store import ModelStore
from hedgecast.testing import TinyModel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("home"))


def test_versions_and_aliases(store: ModelStore, trained: TinyModel, tmp_path: Path) -> None:
    first = store.register(trained.bundle)
    assert (first.name, first.version, first.aliases) == ("tiny", 1, ("candidate",))
    second = store.register(trained.bundle)
    assert second.version == 2
    champion = store.promote("tiny@candidate", gate_checks(trained.bundle.manifest.metrics))
    assert champion.aliases == ("candidate", "champion")
    assert store.resolve("tiny").version == 2
    assert store.resolve("tiny@1").aliases == ()
    fetched = store.fetch("tiny@champion", tmp_path)
    assert fetched.manifest == trained.bundle.manifest
    assert store.fetch("tiny@champion", tmp_path).folder == fetched.folder
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-2"]


def test_a_failed_check_leaves_the_champion(store: ModelStore, trained: TinyModel) -> None:
    version = store.register(trained.bundle, name="gated")
    bad = Check(name="coverage of the central 90 %", figure=0.5, bound=0.8, relation="at least")
    with pytest.raises(
        GateRefusedError, match=r"coverage of the central 90 % fails: 0.5, must be at least 0.8"
    ):
        store.promote(version.reference, [bad])
    with pytest.raises(GateRefusedError, match="no check was made"):
        store.promote(version.reference, [])
    with pytest.raises(ModelNotFoundError, match="no alias or version 'champion': versions \\[1\\]"):
        store.resolve("gated")


def test_an_unknown_model_names_the_known(store: ModelStore, trained: TinyModel) -> None:
    store.register(trained.bundle, name="known")
    with pytest.raises(ModelNotFoundError, match=r"no model 'other'.*known"):
        store.resolve("other@champion")


@pytest.mark.parametrize("name", ["", "a' OR 1=1", "../x"])
def test_a_name_that_could_be_a_query_is_refused(store: ModelStore, name: str) -> None:
    with pytest.raises(InputError, match="use letters, digits"):
        store.resolve(f"{name}@1")
