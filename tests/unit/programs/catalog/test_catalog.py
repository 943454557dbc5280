"""Programs by name and by file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError, ProgramError
from hedgecast.programs.catalog import ProgramConfig, load_file, load_program, program_names

NEWSVENDOR = """
import cvxpy as cp
from hedgecast.programs.program import TwoStageProgram

def build(num_steps=4, price=5.0):
    order, demand = cp.Variable(num_steps, name="order"), cp.Parameter(num_steps, name="demand")
    return TwoStageProgram(name="mine", decision=order, uncertain=demand, constraints=[order >= 0],
                           recourse_cost=price * cp.sum(cp.abs(order - demand)))
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def test_every_shipped_program_is_named() -> None:
    assert "generation_scheduling" in program_names()
    program = load_program(ProgramConfig(name="generation_scheduling", parameters={"capacity": 9.0}), 23)
    assert program.num_decision == 23


def test_a_file_builds_a_program_of_any_length(tmp_path: Path) -> None:
    config = ProgramConfig(path=write(tmp_path, NEWSVENDOR), parameters={"price": 2.0})
    assert load_program(config, 7).num_uncertain == 7
    assert load_file(Path(config.path or "")).num_uncertain == 4


def test_a_file_may_define_one_program(tmp_path: Path) -> None:
    path = write(tmp_path, NEWSVENDOR.replace("def build", "def _make") + "\nprogram = _make()\n")
    assert load_file(Path(path)).name == "mine"
    assert load_program(ProgramConfig(path=path), 4).num_uncertain == 4
    with pytest.raises(ProgramError, match="not a multiple of 3 steps"):
        load_program(ProgramConfig(path=path), 3)
    with pytest.raises(ConfigError, match="takes no parameters"):
        load_program(ProgramConfig(path=path, parameters={"price": 1.0}), 4)


def test_mistakes_in_a_file_name_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "x = 1\ny = x / 0\n")
    with pytest.raises(ProgramError, match=r"mine\.py, line 2: ZeroDivisionError"):
        load_file(Path(path))
    with pytest.raises(ProgramError, match=r"mine\.py, line 1: SyntaxError"):
        load_file(Path(write(tmp_path, "def broken(:\n")))
    with pytest.raises(ProgramError, match="defines neither build"):
        load_file(Path(write(tmp_path, "x = 1\n")))
    with pytest.raises(ProgramError, match="build returned a int"):
        load_file(Path(write(tmp_path, "def build(num_steps=1):\n    return num_steps\n")))
    with pytest.raises(ProgramError, match=r"mine\.py, line 2: KeyError"):
        load_file(Path(write(tmp_path, "def build(num_steps=1):\n    return {}[num_steps]\n")))
    with pytest.raises(ProgramError, match="cannot read program file"):
        load_file(tmp_path / "missing.py")


def test_configuration_is_strict() -> None:
    with pytest.raises(ConfigError, match="set exactly one"):
        ProgramConfig()
    with pytest.raises(ConfigError, match="not shipped: use one of"):
        ProgramConfig(name="genration_scheduling")
    with pytest.raises(ConfigError, match=r"do not fit generation_scheduling.*build takes num_steps"):
        load_program(ProgramConfig(name="generation_scheduling", parameters={"shortage": 1.0}), 24)
