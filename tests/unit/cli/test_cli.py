import subprocess
import sys
from pathlib import Path

import pytest

from hedgecast import cli
from hedgecast.testing import write_tiny_study

PROGRAM = Path(sys.executable).parent / "hedgecast"


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False, **options)


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.returncode == 0
    for name in (
        "demo",
        "train",
        "backtest",
        "decide",
        "models",
        "solve",
        "serve",
        "probe",
        "train-surrogate",
    ):
        assert name in result.stdout


@pytest.mark.parametrize("name", sorted(cli._homes()))
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.returncode == 0, result.stderr
    sub = run(name, "list", "--help") if name == "models" else result
    assert f"hedgecast {name}" in sub.stdout


# As where torch, Ray and the readers of files are not installed.
WITHOUT = """
import sys
for name in ("torch", "ray", "pyarrow", "cvxpy", "mlflow", "pydantic_settings"):
    sys.modules[name] = None
from hedgecast import cli
cli.main()
"""


def run_without_packages(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", WITHOUT, *arguments)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_help_in_a_light_installation_says_what_is_missing() -> None:
    result = run_without_packages("--help")
    assert result.returncode == 0, result.stderr
    for name in cli._homes():
        assert name in result.stdout
    assert "Not installed" in result.stdout


@pytest.mark.parametrize(
    ("name", "extra"), [("decide", "files"), ("train", "library,cpu"), ("serve", "library,cluster,cpu")]
)
def test_a_command_whose_packages_are_missing_names_its_extra(name: str, extra: str) -> None:
    result = run_without_packages(name, "--help")
    assert result.returncode == 2
    assert f"pip install 'hedgecast[{extra}]'" in result.stderr
    assert "MISSING_DEPENDENCY" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_module_of_ours_is_no_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing_here"):
        cli._load("hedgecast.commands.nothing_here:nothing")


def test_version() -> None:
    assert run("--version").stdout.strip() == cli.__version__


def test_a_user_error_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    result = run("backtest", str(tmp_path / "none.toml"))
    assert result.returncode == 2
    assert "no study" in result.stderr
    assert "german_grid" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_method_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    result = run("backtest", str(write_tiny_study(tmp_path)), "--methods", "oracle")
    assert result.returncode == 2
    assert "choose from point, ridge-residual, " in result.stderr
    assert "diffusion-dfl" in result.stderr
