"""A registry that is saved, lost and restored: the same models, and nothing half done."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest

from hedgecast.core.errors import InputError
from hedgecast.registry.backup import main, restore, save, verify
from hedgecast.registry.store import ModelStore
from hedgecast.testing import TinyModel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, trained: TinyModel) -> Path:
    """A registry with a champion and a candidate."""
    folder = tmp_path_factory.mktemp("home")
    store = ModelStore(folder)
    store.register(trained.bundle)
    store.promote("tiny@candidate")
    store.register(trained.bundle)
    return folder


def _spoiled(archive: Path, target: Path, name: str, content: bytes) -> Path:
    """A copy of the archive in which one file is another."""
    folder = target.parent / "spoiled"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (folder / name).write_bytes(content)
    with tarfile.open(target, "w:gz") as tar:
        for path in folder.iterdir():
            tar.add(path, path.name)
    return target


def test_a_lost_registry_comes_back(home: Path, tmp_path: Path, trained: TinyModel) -> None:
    archive = tmp_path / "backups" / "registry.tar.gz"
    before = ModelStore(home).versions()
    assert main(["save", str(home), str(archive)]) == 0
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]
    assert main(["verify", str(archive)]) == 0
    lost = tmp_path / "lost"
    shutil.move(home, lost)
    try:
        assert main(["restore", str(archive), str(home)]) == 0
        store = ModelStore(home)
        assert store.versions() == before
        for version in before:
            fetched = store.fetch(version.reference, tmp_path / "fetched")
            assert fetched.manifest == trained.bundle.manifest
    finally:
        shutil.rmtree(home, ignore_errors=True)
        shutil.move(lost, home)


def test_a_database_that_is_written_meanwhile_is_saved_whole(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "registry.tar.gz"
    writer = sqlite3.connect(home / "mlflow.db")
    try:
        # A transaction that is not finished: a plain copy could take half of it.
        writer.execute("BEGIN")
        writer.execute("UPDATE registered_models SET description = 'half'")
        save(home, archive)
    finally:
        writer.rollback()
        writer.close()
    verify(archive)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    database = sqlite3.connect(tmp_path / "there" / "mlflow.db")
    try:
        assert database.execute("SELECT count(*) FROM model_versions").fetchone() == (2,)
        assert database.execute("SELECT description FROM registered_models").fetchall() != [("half",)]
    finally:
        database.close()


def test_a_changed_file_is_named(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "registry.tar.gz"
    manifest = save(home, archive)
    (first, *_) = (name for name in manifest["files"] if name.endswith("scenarios.onnx"))
    with pytest.raises(InputError, match=r"scenarios\.onnx is missing, changed"):
        verify(_spoiled(archive, tmp_path / "changed.tar.gz", first, b"other"))
    with pytest.raises(InputError, match=r"extra\.txt is missing, changed or not in its manifest"):
        verify(_spoiled(archive, tmp_path / "more.tar.gz", "extra.txt", b"more"))
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(InputError, match="damaged"):
        verify(cut)


def test_a_registry_goes_only_where_it_was_and_over_nothing(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "registry.tar.gz"
    save(home, archive)
    with pytest.raises(InputError, match="is not empty"):
        restore(archive, home)
    with pytest.raises(InputError, match="keeps absolute paths"):
        restore(archive, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_database_is_not_saved(home: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    content = bytearray((home / "mlflow.db").read_bytes())
    content[4096 : 4096 * 12] = bytes(4096 * 11)
    (damaged / "mlflow.db").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        save(damaged, tmp_path / "registry.tar.gz")
    assert not (tmp_path / "registry.tar.gz").exists()


def test_the_way_back_to_a_model_is_as_the_page_says(home: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "upgrade.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    store = ModelStore(home)
    assert store.resolve("tiny").version == 1
    ours = block.replace("german_grid", "tiny").replace('"6"', '"2"')
    exec(compile(ours, "upgrade.md", "exec"), {"registry": store.uri})
    assert store.resolve("tiny").version == 2
    exec(compile(ours.replace('"2"', '"1"'), "upgrade.md", "exec"), {"registry": store.uri})
    assert store.resolve("tiny").version == 1


def test_what_cannot_be_done_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["save", str(tmp_path), str(tmp_path / "a.tar.gz")])
    assert left.value.code == 2
    assert "holds no embedded registry" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path / "none.tar.gz")])
    assert "no backup of a registry" in capsys.readouterr().err
