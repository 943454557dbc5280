import json
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


def test_version() -> None:
    assert run("--version").stdout.strip() == cli.__version__


def test_a_user_error_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    result = run("backtest", str(tmp_path / "none.toml"))
    assert result.returncode == 2
    assert "no study" in result.stderr
    assert "german_grid" in result.stderr
    assert "Traceback" not in result.stderr


def test_backtest_prints_one_json_object(tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path)
    result = run("backtest", str(study), "--methods", "point,ridge-residual", "--scenarios", "20", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert [entry["label"] for entry in record["entries"]] == ["point", "ridge-residual"]
    point, baseline = record["entries"]
    assert (point["is_baseline"], baseline["is_baseline"]) == (False, True)
    assert point["num_days"] == 30
    assert point["difference"] == pytest.approx(point["cost"] - baseline["cost"])
    assert record["pairs"][0]["difference"] == pytest.approx(-point["difference"])
    assert record["facts"]["counts"]["rows"] == 260 * 24
    assert not record["failures"]


def test_an_unknown_method_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    result = run("backtest", str(write_tiny_study(tmp_path)), "--methods", "oracle")
    assert result.returncode == 2
    assert "choose from point, ridge-residual, " in result.stderr
    assert "diffusion-dfl" in result.stderr
