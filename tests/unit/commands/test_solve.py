import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner

from hedgecast import cli
from hedgecast.commands.solve import solve
from hedgecast.core.errors import HedgecastError

FOLDER = Path(__file__).parents[1] / "programs" / "smps"
NEWSVENDOR = """
import cvxpy as cp
from hedgecast.programs.program import TwoStageProgram

order, demand = cp.Variable(2, name="order"), cp.Parameter((1, 2), name="demand")
price = cp.Parameter(2, name="price", value=[1.0, 1.0])
program = TwoStageProgram(
    name="newsvendor",
    decision=order,
    uncertain=demand,
    given=[price],
    constraints=[order >= 0],
    cost=price @ order,
    recourse_cost=4 * cp.sum(cp.pos(demand[0] - order)),
)
"""
APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(solve)


@pytest.fixture
def newsvendor(tmp_path: Path) -> Path:
    path = tmp_path / "newsvendor.py"
    path.write_text(NEWSVENDOR)
    return path


def _parquet(path: Path, **columns: Any) -> Path:
    pa.parquet.write_table(pa.table(columns), path)
    return path


def _demand(tmp_path: Path, **more: Any) -> Path:
    return _parquet(tmp_path / "demand.parquet", a=np.arange(1.0, 11.0), b=np.arange(10, 0, -1), **more)


def _run(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(APP, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def _refused(*arguments: object) -> str:
    with pytest.raises(HedgecastError) as caught:
        CliRunner().invoke(APP, [*map(str, arguments)], catch_exceptions=False)
    return str(caught.value)


def test_the_record_has_the_decision_and_its_worth(newsvendor: Path, tmp_path: Path) -> None:
    record = _run(newsvendor, "--scenarios", _demand(tmp_path))
    assert record["decision"]["order"] == pytest.approx([8.0, 8.0], abs=1e-4)
    assert record["expected_cost"] == pytest.approx(18.4, rel=1e-5)
    assert record["wait_and_see"] == pytest.approx(11.0, rel=1e-5)
    assert record["expected_value_of_perfect_information"] == pytest.approx(7.4, rel=1e-4)
    assert record["expected_value_problem_cost"] == pytest.approx(21.0, rel=1e-4)
    assert record["value_of_stochastic_solution"] == pytest.approx(2.6, rel=1e-3)
    assert record["expected_regret"] == pytest.approx(7.4, rel=1e-4)
    assert record["status"] == "optimal"
    assert record["iterations"] > 0
    assert record["solve_seconds"] > 0
    assert record["cvar"] >= record["expected_cost"]


def test_probabilities_weigh_the_scenarios(newsvendor: Path, tmp_path: Path) -> None:
    weights = np.zeros(10)
    weights[2] = 1.0
    record = _run(newsvendor, "--scenarios", _demand(tmp_path, probability=weights))
    assert record["decision"]["order"] == pytest.approx([3.0, 8.0], abs=1e-4)
    assert record["expected_value_of_perfect_information"] == pytest.approx(0.0, abs=1e-5)


def test_given_parameters_come_from_json(newsvendor: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text('{"price": [4.5, 1]}')
    record = _run(newsvendor, "--scenarios", _demand(tmp_path), "--given", given)
    assert record["decision"]["order"] == pytest.approx([0.0, 8.0], abs=1e-4)


@pytest.mark.parametrize("risk", ["cvar:0.95", "expectation", "regret-cvar:0.9", "worst"])
@pytest.mark.parametrize("backend", ["structured", "reference"])
def test_every_risk_measure_is_solved(newsvendor: Path, tmp_path: Path, risk: str, backend: str) -> None:
    record = _run(newsvendor, "--scenarios", _demand(tmp_path), "--risk", risk, "--backend", backend)
    assert record["status"] == "optimal"
    assert record["backend"] == backend
    assert record["expected_cost"] >= 18.4 - 1e-4


def test_smps_files_are_solved_by_column_name() -> None:
    record = _run("--smps", FOLDER / "lands")
    assert record["expected_cost"] == pytest.approx(381.853, rel=2e-6)
    assert set(record["decision"]) == {"X1", "X2", "X3", "X4"}
    assert record["num_scenarios"] == 3


def test_without_json_the_terminal_shows_tables(newsvendor: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, [str(newsvendor), "--scenarios", str(_demand(tmp_path))])
    assert result.exit_code == 0
    for words in ("expected cost", "value of perfect information", "order", "optimal after"):
        assert words in result.stdout
    farmer = CliRunner().invoke(APP, ["--smps", str(FOLDER / "farmer")])
    assert "the negative of their objective" in " ".join(farmer.stdout.split())


def test_the_command_line_ends_an_error_with_code_2(
    newsvendor: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hedgecast", "solve", str(newsvendor), "--scenarios", "nowhere.parquet"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "nowhere.parquet: no such file" in error
    assert "Traceback" not in error


def test_an_infeasible_program_is_printed_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(NEWSVENDOR.replace("[order >= 0]", "[order >= 0, order <= -1]"))
    arguments = [str(path), "--scenarios", str(_demand(tmp_path)), "--json"]
    result = CliRunner().invoke(APP, arguments)
    assert isinstance(result.exception, HedgecastError)
    record = json.loads(result.stdout)
    assert record["status"] == "infeasible"
    assert record["expected_cost"] is None
    assert record["decision"] == {"order": None}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"a": [1.0]},
            "1 scenario columns (a), but program 'newsvendor' has 2 uncertain entries (demand (1, 2))",
        ),
        ({"a": [1.0, None], "b": [1.0, 1.0]}, "column 'a', row 2: an empty cell is no finite number"),
        ({"a": [1.0], "b": [float("inf")]}, "column 'b', row 1: inf is no finite number"),
        ({"a": ["x"], "b": [1.0]}, "column 'a': holds string: must be numbers"),
        ({"a": pa.array([], pa.float64()), "b": pa.array([], pa.float64())}, "no rows: give at least one"),
        (
            {"a": [1.0, 2.0], "b": [1.0, 2.0], "probability": [0.5, 0.4]},
            "'probability': sums to 0.9: must sum to 1",
        ),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0], "probability": [1.5, -0.5]}, "row 2: -0.5: must be at least 0"),
    ],
)
def test_a_wrong_scenario_file_is_refused(
    newsvendor: Path, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = _parquet(tmp_path / "bad.parquet", **columns)
    error = _refused(newsvendor, "--scenarios", path)
    assert message in error
    assert "bad.parquet" in error


def test_a_file_that_is_no_parquet_is_refused(newsvendor: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.parquet"
    path.write_text("a,b\n1,2\n")
    assert "text.parquet: not a readable Parquet file" in _refused(newsvendor, "--scenarios", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines neither build(num_steps, ...) nor program = TwoStageProgram(...)"),
        ("program = 3\n", "defines neither build(num_steps, ...) nor program = TwoStageProgram(...)"),
        ("x = 1\nx / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def broken(:\n", "line 1: SyntaxError"),
        (
            NEWSVENDOR.replace("constraints=[order >= 0]", "constraints=[order >= demand[0]]"),
            "uncertain parameter",
        ),
    ],
)
def test_a_wrong_program_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "program.py"
    path.write_text(text)
    assert message in _refused(path, "--scenarios", _demand(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{price: 1}", "given.json, line 1, column 2: not JSON"),
        ("[1]", "holds a list: must be an object"),
        ('{"cost": 1}', "'cost' is no given parameter: there are price"),
        ('{"price": [1]}', "'price' has shape (1,): must be (2,)"),
        ('{"price": ["a", "b"]}', "must be numbers in the shape (2,)"),
        ('{"price": [1, NaN]}', "'price' has an entry that is not finite"),
    ],
)
def test_a_wrong_given_file_is_refused(newsvendor: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "given.json"
    path.write_text(text)
    assert message in _refused(newsvendor, "--scenarios", _demand(tmp_path), "--given", path)


def test_arguments_that_do_not_fit_are_refused(newsvendor: Path, tmp_path: Path) -> None:
    assert "give PROGRAM.py and --scenarios" in _refused(newsvendor)
    assert "--smps brings program and scenarios" in _refused(newsvendor, "--smps", FOLDER / "lands")
    assert "use expectation, worst, cvar:ALPHA" in _refused("--smps", FOLDER / "lands", "--risk", "mean")
    assert "no such file: the core file" in _refused("--smps", tmp_path / "nowhere")
    assert "'nosuch'" in _refused("--smps", FOLDER / "lands", "--backend", "nosuch")
