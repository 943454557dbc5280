"""A change of the protos that old clients cannot read is refused, and so is a baseline left behind."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "hedgecast/rpc/v1/decision_service.proto"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proto_baseline", ROOT / "deploy" / "proto_baseline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    """A copy of the protos, outside of any git repository."""
    return Path(shutil.copytree(ROOT / "protos", tmp_path / "protos"))


def _change(protos: Path, old: str, new: str) -> None:
    text = (protos / SERVICE).read_text()
    assert old in text, f"the test's place is gone: {old}"
    (protos / SERVICE).write_text(text.replace(old, new, 1))


def test_the_baseline_is_that_of_the_protos(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("int64 seed = 6;", "string seed = 6;", "changed type"),
        ("int64 seed = 6;", "int64 seed = 60;", "deleted"),
        ("int64 seed = 6;", "int64 random_seed = 6;", "changed name"),
        ("DRAWS_USED_UP = 3;", "NO_DRAWS_LEFT = 3;", "DRAWS_USED_UP"),
        (
            "rpc RecordOutcome(RecordOutcomeRequest) returns (RecordOutcomeResponse);",
            "",
            'RPC "RecordOutcome"',
        ),
        ("returns (stream DecideStreamResponse)", "returns (DecideStreamResponse)", "streaming"),
    ],
)
def test_what_breaks_old_clients_is_refused(
    script: ModuleType, protos: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, found: str
) -> None:
    before = (protos / "baseline.binpb").read_bytes()
    _change(protos, old, new)
    for options in (["--check"], []):
        assert script.main(["--protos", str(protos), *options]) == 1
        said = capsys.readouterr().err
        assert "old clients cannot go on" in said
        assert found in said
    assert (protos / "baseline.binpb").read_bytes() == before, "a break may not move the baseline on"


def test_an_addition_moves_the_baseline_on(
    script: ModuleType, protos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--protos", str(protos)]
    _change(protos, "int64 seed = 6;", "int64 seed = 6;\n  // New.\n  int64 salt = 99;")
    assert script.main([*folder, "--check"]) == 1
    assert f"run make proto: {SERVICE}" in capsys.readouterr().err
    assert script.main(folder) == 0
    assert script.main([*folder, "--check"]) == 0
    # From now on the addition is what clients may rely on.
    _change(protos, "int64 salt = 99;", "bool salt = 99;")
    assert script.main([*folder, "--check"]) == 1


def test_a_missing_baseline_is_no_free_pass(
    script: ModuleType, protos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (protos / "baseline.binpb").unlink()
    for options in (["--check"], []):
        assert script.main(["--protos", str(protos), *options]) == 1
        assert "restore it from git" in capsys.readouterr().err
