import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner

from hedgecast.commands.train_surrogate import train_surrogate_command
from hedgecast.core.errors import HedgecastError
from hedgecast.decisions.surrogate import SurrogateBackend
from hedgecast.programs.catalog import load_file
from hedgecast.programs.risk import EXPECTATION, Risk

PROGRAM = """
import cvxpy as cp
from hedgecast.programs.program import TwoStageProgram

order, demand = cp.Variable(1, name="order"), cp.Parameter(1, name="demand")
program = TwoStageProgram(
    name="newsvendor",
    decision=order,
    uncertain=demand,
    constraints=[order >= 0],
    cost=cp.sum(order),
    recourse_cost=4 * cp.sum(cp.pos(demand - order)) + 0.1 * cp.sum_squares(demand - order),
)
"""
SMALL = ["--num-instances", "60", "--num-calibration", "60", "--num-test", "20", "--num-scenarios", "20"]
APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(train_surrogate_command)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    program, pool = tmp_path / "newsvendor.py", tmp_path / "demand.parquet"
    program.write_text(PROGRAM)
    demand = np.random.default_rng(0).gamma(4.0, 5.0, size=200)
    pa.parquet.write_table(pa.table({"demand": demand}), pool)
    return [str(program), "--scenarios", str(pool)]


def test_the_trained_surrogate_answers_for_its_program(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "surrogates"
    result = CliRunner().invoke(
        APP, [*files, *SMALL, "--budget", "0.2", "--max-share", "0.2", "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.exception
    record = json.loads(result.stdout)
    assert record["num_test"] == 20
    assert record["trusted_share"] > 0.5
    backend, program = SurrogateBackend(out), load_file(Path(files[0]))
    assert backend.refusal(program, EXPECTATION) is None
    assert backend.refusal(program, Risk.parse("cvar:0.9")) is not None
    assert {path.name for path in Path(record["folder"]).iterdir()} == {"surrogate.json", "weights.npz"}


def test_a_gate_that_trusts_nothing_is_said_so(files: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(
        APP, [*files, *SMALL, "--budget", "1e-9", "--out", str(tmp_path / "surrogates")]
    )
    assert result.exit_code == 0, result.exception
    words = " ".join(result.stdout.split())
    assert "the gate trusts nothing: every decision will be exact" in words
    assert "none trusted" in words


def test_a_wrong_setting_is_refused(files: list[str]) -> None:
    with pytest.raises(HedgecastError, match=r"budget = 0\.0: must be above 0"):
        CliRunner().invoke(APP, [*files, "--budget", "0"], catch_exceptions=False)
