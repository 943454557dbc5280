"""The page of the sampler benchmark says what its results say, and says so where 2 % was missed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    path = ROOT / "benchmarks" / "sampler" / "sampler_page.py"
    spec = importlib.util.spec_from_file_location("sampler_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(calls: int, change: float) -> dict[str, Any]:
    figures = ("crps", "energy_score", "variogram_score", "cost")
    changes = {figure: {"relative": change, "low": change, "high": change} for figure in figures}
    return {"calls": calls, "sampler": "euler", "changes": changes, "regret": 1.0, "distance": 0.1}


def seed(number: int, change: float) -> dict[str, Any]:
    models = {"teacher": model(8, 0.0), "student 1": model(1, change), "euler 1": model(1, 2 * change)}
    return {
        "seed": number,
        "changed": ["learning.joint_epochs=2"] if number else [],
        "training_days": 90,
        "test_days": 30,
        "scenarios": 100,
        "models": models,
        "time": {"torch": {"teacher": 1.0, "student 1": 0.125, "euler 1": 0.25}, "onnx": {}},
    }


def record(*changes: float) -> dict[str, Any]:
    return {
        "study": "made_up",
        "date": "2026-01-01",
        "command": "python benchmarks/bench_sampler.py",
        "machine": {"processor": "a processor", "cores": 2, "load": [1.0, 7.5, 1.0]},
        "versions": {"torch": "2.13.0"},
        "threads": 1,
        "seeds": [seed(number, change) for number, change in enumerate(changes)],
    }


def written(page: ModuleType, folder: Path, *changes: float) -> str:
    (folder / "sampler_made_up.json").write_text(json.dumps(record(*changes)))
    page.write(folder, folder)
    assert (folder / "sampler.svg").read_text().startswith("<?xml")
    return (folder / "sampler.md").read_text()


def test_means_worst_seeds_and_shares_of_time(page: ModuleType, tmp_path: Path) -> None:
    text = written(page, tmp_path, 0.01, -0.015)
    (row,) = [line for line in text.splitlines() if line.startswith("| student 1")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("student 1", "1", "2", *["-0.25% [-1.50%]"] * 4, "0.100", "0.12", ""),
    ]
    assert "student 1: all within 2%" in text
    assert "Changed from the study: seed 1: learning.joint_epochs=2" in text
    assert "load 7.5" in text


def test_a_missed_budget_is_named(page: ModuleType, tmp_path: Path) -> None:
    text = written(page, tmp_path, 0.01, 0.03)
    assert "all within" not in text
    assert "student 1: CRPS +3.00%; energy score +3.00%; variogram score +3.00%; cost +3.00%" in text


def test_without_results_nothing_is_written(page: ModuleType, tmp_path: Path) -> None:
    page.write(tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())
