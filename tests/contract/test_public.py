"""What the package shows to its users."""

import subprocess
import sys
from pathlib import Path

import pytest

import hedgecast


def test_every_public_name_can_be_had() -> None:
    for name in hedgecast.__all__:
        assert getattr(hedgecast, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        hedgecast.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "cvxpy", "ray", "mlflow", "pandas")
    code = f"import sys, hedgecast; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_changelog_names_the_version() -> None:
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{hedgecast.__version__}]" in text
