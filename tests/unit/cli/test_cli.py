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
    for name in ("demo", "train", "backtest", "decide", "models", "solve", "serve", "train-surrogate"):
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
    assert [row["label"] for row in record["methods"]] == ["point", "ridge-residual"]
    assert record["methods"][1]["difference"] == {
        "mean": 0.0, "low": 0.0, "high": 0.0, "level": 0.95, "num_days": 30, "block_days": 7,
    }  # fmt: skip
    assert len(record["days"]) == 30
    assert record["counts"]["rows"] == 260 * 24
    day = record["days"][0]
    assert day["regret"]["point"] == pytest.approx(day["cost"]["point"] - day["best"])


def test_an_unknown_method_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    result = run("backtest", str(write_tiny_study(tmp_path)), "--methods", "oracle")
    assert result.returncode == 2
    assert "choose from point, ridge-residual, diffusion, diffusion-dfl" in result.stderr
