"""Rules of the layout that a test can hold."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_platform_is_no_package() -> None:
    # With an __init__.py it would shadow the standard library's platform module.
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_no_folder_of_tests_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_import_rules_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_nothing_is_left_to_do_later() -> None:
    marker = "TO" + "DO"
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found = subprocess.run(
        ["git", "grep", "-n", marker], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "manager"])
def test_no_module_has_a_name_that_says_nothing(word: str) -> None:
    sources = [*ROOT.glob("platform/**/*.py"), *ROOT.glob("workers/**/*.py")]
    assert [source for source in sources if source.stem == word] == []


def test_every_test_folder_mirrors_a_package() -> None:
    packages = {path.name for path in (ROOT / "platform" / "hedgecast").iterdir()}
    for folder in (ROOT / "tests" / "unit").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert folder.name in packages or f"{folder.name}.py" in packages, folder
