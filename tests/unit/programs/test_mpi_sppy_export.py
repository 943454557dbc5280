"""Our programs in mpi-sppy: its extensive form, solved by HiGHS, has our cost and our decision."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError, DependencyError
from hedgecast.programs import mpi_sppy_export
from hedgecast.programs.block_arrays import BlockArrays
from hedgecast.programs.catalog import generation_scheduling
from hedgecast.programs.mpi_sppy_export import ScenarioModels, pyomo_model
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.smps import read_smps
from hedgecast.programs.smps_writer import write_smps

FOLDER = Path(__file__).parent / "smps"


@pytest.fixture(scope="module")
def sppy() -> ModuleType:
    """mpi-sppy's module of the extensive form; where it is missing CI fails, others skip loudly."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module("mpisppy.opt.ef")
    except ImportError as error:
        message = f"NEEDS mpi-sppy and Pyomo ({error}): pip install 'hedgecast[sppy]'"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


def solved(sppy: ModuleType, models: ScenarioModels, solver: str = "appsi_highs") -> Any:
    form = sppy.ExtensiveForm({"solver": solver}, models.all_scenario_names, models.scenario_creator)
    form.solve_extensive_form()
    return form


def schedule(**parameters: float) -> tuple[TwoStageProgram, torch.Tensor, torch.Tensor]:
    """Six hours of load with a capacity that binds, and unequal weights, one of them zero."""
    program = generation_scheduling.build(6, capacity=7.5, **parameters)
    draws = torch.Generator().manual_seed(0)
    load = 6 + torch.randn(2, 8, 6, generator=draws, dtype=torch.float64).cumsum(dim=2)
    weights = 0.2 + torch.rand(2, 8, generator=draws, dtype=torch.float64)
    weights[:, 3] = 0.0
    return program, load, weights / weights.sum(dim=1, keepdim=True)


def test_the_extensive_form_of_mpi_sppy_has_our_cost_and_our_decision(sppy: ModuleType) -> None:
    program, load, weights = schedule(quadratic_cost=0.0, reserve=0.3)
    for context in range(2):
        models = ScenarioModels.of(program, load, weights, context=context)
        assert models.all_scenario_names == [f"scenario{s}" for s in range(7)]
        form = solved(sppy, models)
        ours = program.solve(load[[context]], weights[[context]], backend="reference").require_optimal()
        assert form.get_objective_value() == pytest.approx(ours.objective.item(), rel=1e-6)
        theirs = models.decision(form.local_scenarios["scenario0"])
        assert list(theirs)[:2] == ["schedule[0]", "schedule[1]"]
        flat = torch.tensor([list(theirs.values())], dtype=torch.float64)
        assert program.violation(flat).item() <= 1e-6
        # Optima need not be unique: the decision must cost what they say.
        costs = program.value(flat, load[[context]], backend="reference")
        assert (weights[context] * costs[0]).sum().item() == pytest.approx(ours.objective.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "optimum"), [("lands", 381.853), ("airlift", 249101.672072), ("farmer", -108390.0)]
)
def test_published_instances_have_their_published_optimum(
    sppy: ModuleType, name: str, optimum: float
) -> None:
    instance = read_smps(FOLDER / name)
    models = ScenarioModels.of(instance.program, instance.scenarios, instance.probabilities)
    form = solved(sppy, models)
    assert form.get_objective_value() == pytest.approx(optimum, rel=2e-6)
    assert not any(models.kw_creator(None))


def quadratic_program() -> tuple[TwoStageProgram, torch.Tensor]:
    """Every quadratic part of the block form: in x, in w and across, known and of the scenario."""
    x, w = cp.Variable(2, name="x"), cp.Variable(2, name="w")
    y = cp.Parameter(2, name="y")
    program = TwoStageProgram(
        name="quadratic",
        decision=x,
        uncertain=y,
        constraints=[x >= 0, cp.sum(x) <= 4],
        cost=cp.square(x[0]) - x[1],
        recourse_cost=cp.sum_squares(w) + cp.square(x[0] - w[0]) + y @ w + cp.sum_squares(x - y) + cp.sum(y),
        recourse_constraints=[w[1] >= x[1] - 1, w <= 9, w[0] + w[1] + x[1] >= y[0]],
    )
    return program, torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_a_model_costs_what_we_say_with_every_quadratic_part(sppy: ModuleType) -> None:
    import pyomo.environ as pyo

    program, scenarios = quadratic_program()
    numbers = BlockArrays.of(program, scenarios)
    assert not numbers.matrices["P"].zero
    assert not numbers.matrices["R"].zero
    assert not numbers.matrices["O"].zero
    decision = program.solve(scenarios, backend="reference").require_optimal()
    for s in range(4):
        # With the decision fixed, the scenario's own optimum is its cost: by HiGHS, which solves convex QPs.
        model = pyomo_model(numbers, s)
        for j, value in enumerate(decision.flat[0].tolist()):
            model.x[j].fix(value)
        results = pyo.SolverFactory("highs").solve(model)
        assert pyo.check_optimal_termination(results)
        cost = pyo.value(model.total_cost)
        assert cost == pytest.approx(decision.scenario_costs[0, s].item(), rel=1e-5, abs=1e-5)
        parts = pyo.value(model.first_stage_cost) + pyo.value(model.second_stage_cost)
        assert parts == pytest.approx(cost, rel=1e-12)


def test_its_driver_reads_a_file_in_a_process_of_its_own(sppy: ModuleType, tmp_path: Path) -> None:
    program, load, weights = schedule(quadratic_cost=0.0)
    ScenarioModels.of(program, load, weights).numbers.save(tmp_path / "day.npz")
    command = [sys.executable, "-m", "mpisppy.generic_cylinders", "--module-name"]
    command += ["hedgecast.programs.mpi_sppy_export", "--blocks-file", str(tmp_path / "day.npz"), "--EF"]
    command += ["--EF-solver-name", "appsi_highs", "--solution-base-name", str(tmp_path / "found")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    stated = re.search(r"EF objective: (\S+)", result.stdout)
    assert stated is not None
    ours = program.solve(load[:1], weights[:1], backend="reference").require_optimal()
    assert float(stated[1]) == pytest.approx(ours.objective.item(), rel=1e-6)
    found = np.load(tmp_path / "found.npy")
    assert found.size == len(ScenarioModels.of(program, load, weights).numbers.columns)


def test_a_rank_loads_neither_torch_nor_cvxpy() -> None:
    program = "import sys, hedgecast.programs.mpi_sppy_export as export; export.BlockArrays.load\n"
    program += "assert not {'torch', 'cvxpy', 'pyarrow'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_its_reader_understands_our_smps_files(sppy: ModuleType, tmp_path: Path) -> None:
    from mpisppy.problem_io import smps_reader

    program, load, weights = schedule(quadratic_cost=0.0)
    core, time, stochastics = write_smps(program, load, tmp_path / "day", probabilities=weights)
    stages = smps_reader.parse_tim(str(time))
    columns = smps_reader.partition_vars_by_stage(smps_reader.get_var_order_from_mps(str(core)), stages)
    numbers = BlockArrays.of(program, load, weights)
    assert columns[stages[0][0]] == [f"X{j + 1}" for j in range(len(numbers.columns))]
    assert len(columns[stages[1][0]]) == numbers.num_recourse
    scenarios = smps_reader.parse_sto_discrete(str(stochastics))
    assert [one["probability"] for one in scenarios] == numbers.probabilities.tolist()
    # All that is random is a right-hand side: six loads above and six below.
    assert smps_reader.get_rhs_name_from_mps(str(core)) == "RIGHT"
    assert {column for one in scenarios for column, _, _ in one["modifications"]} == {"RIGHT"}
    assert len(scenarios[0]["modifications"]) == 12


def test_names_that_are_none_are_refused() -> None:
    program, load, weights = schedule(quadratic_cost=0.0)
    models = ScenarioModels.of(program, load, weights)
    assert models.scenario_names_creator() == models.all_scenario_names
    assert models.scenario_names_creator(2, start=3) == ["scenario3", "scenario4"]
    for name in ("scenario7", "scenario-1", "day"):
        with pytest.raises(ConfigError, match="there are scenario0 to scenario6"):
            models.scenario_creator(name)
    with pytest.raises(ConfigError, match="scenarios 5 to 9 of 7"):
        models.scenario_names_creator(4, start=5)

    class Options:
        blocks_file = None

    with pytest.raises(ConfigError, match="--blocks-file is missing"):
        mpi_sppy_export.get_mpisppy_helper_object(Options())


def test_without_pyomo_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    program, load, weights = schedule(quadratic_cost=0.0)
    monkeypatch.setitem(sys.modules, "pyomo.environ", None)
    with pytest.raises(DependencyError, match=r"pyomo is not installed .*'hedgecast\[sppy\]'"):
        ScenarioModels.of(program, load, weights).scenario_creator("scenario0")
