import json
import shutil
from pathlib import Path

import pytest

from hedgecast.core.errors import BundleError
from hedgecast.registry.bundle import Bundle, write_bundle
from hedgecast.testing import TinyModel


@pytest.fixture
def copy(trained: TinyModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.bundle.folder, tmp_path / "bundle"))


def test_a_bundle_reads_back(trained: TinyModel, copy: Path) -> None:
    bundle = Bundle.open(copy)
    assert bundle.manifest == trained.bundle.manifest
    assert bundle.manifest.fingerprint == trained.bundle.manifest.fingerprint
    assert bundle.manifest.generator.names == ("load_gw",)
    assert bundle.manifest.generator.units == ("GW",)
    assert "generation_scheduling" in (copy / "README.md").read_text()


def test_a_changed_file_is_refused_by_name(copy: Path) -> None:
    graph = copy / "scenarios.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"scenarios\.onnx was changed"):
        Bundle.open(copy)


def test_a_missing_file_is_refused_by_name(copy: Path) -> None:
    (copy / "denoiser.onnx").unlink()
    with pytest.raises(BundleError, match=r"denoiser\.onnx is missing"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99"),
        ({"surplus": 1}, "unknown key 'surplus'"),
        ({"files": {"../outside": "0" * 64}}, "names a file outside the bundle"),
    ],
)
def test_a_foreign_manifest_is_refused(copy: Path, change: dict[str, object], message: str) -> None:
    path = copy / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=message):
        Bundle.open(copy)


def test_no_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        Bundle.open(tmp_path)


def test_another_folder_is_never_overwritten(trained: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    manifest = trained.bundle.manifest.to_dict()
    del manifest["format"], manifest["files"]
    with pytest.raises(BundleError, match="would be overwritten"):
        write_bundle(tmp_path / "precious", files={}, card="", manifest=manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_write_that_fails_leaves_nothing(trained: TinyModel, tmp_path: Path) -> None:
    manifest = trained.bundle.manifest.to_dict()
    del manifest["format"], manifest["files"]
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "new", files={"no/such/folder": b""}, card="", manifest=manifest)
    assert list(tmp_path.iterdir()) == []
