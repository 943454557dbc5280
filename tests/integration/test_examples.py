"""The examples run, and what they print agrees with itself."""

from __future__ import annotations

import importlib.util
import os
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


def run(name: str) -> dict[str, float]:
    main: Callable[[], dict[str, float]] = runpy.run_path(str(FOLDER / name), run_name="example")["main"]
    return main()


def test_a_model_in_cvxpy_takes_a_reduced_set(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("reduced_cvxpy.py")
    for method in ("forward-selection", "k-means", "quantiles"):
        assert found[f"{method} own model"] == pytest.approx(found[f"{method} believed"], rel=1e-6)
        assert 0 < found[f"{method} error"] < found[f"{method} full"]
    assert "20 of 1000" in capsys.readouterr().out


def test_a_model_in_mpi_sppy_takes_a_reduced_set(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("mpisppy") is None:
        message = "NEEDS mpi-sppy and Pyomo: pip install 'hedgecast[sppy]'"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    found = run("mpi_sppy_schedule.py")
    assert found["own model"] == pytest.approx(found["our program"], rel=1e-6)
    assert "expected cost" in capsys.readouterr().out


def test_a_program_in_stages_takes_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("tree_cvxpy.py")
    # Costs are convex in the load, and knowing it ahead can only help.
    assert found["mean path"] < found["known ahead"] < found["decided at nodes"]
    assert "48 leaves" in capsys.readouterr().out


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'run("{path.name}")' in source for path in FOLDER.glob("*.py"))
