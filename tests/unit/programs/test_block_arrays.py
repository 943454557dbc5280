"""A context as plain arrays: the optimum of its extensive form by HiGHS, and a file that gives it back."""

from __future__ import annotations

from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from hedgecast.core.errors import DataError, ProgramError
from hedgecast.programs.block_arrays import MATRICES, VECTORS, BlockArrays
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.smps import read_smps

FOLDER = Path(__file__).parent / "smps"


def extensive_optimum(numbers: BlockArrays) -> float:
    """The linear extensive form, dense, by scipy's HiGHS."""
    n, m, S = len(numbers.columns), numbers.num_recourse, numbers.num_scenarios

    def dense(name: str, scenario: int) -> np.ndarray:
        out = np.zeros(numbers.matrices[name].shape)
        for i, j, value in numbers.matrices[name].of(scenario):
            out[i, j] = value
        return out

    cost, constant = np.zeros(n + m * S), 0.0
    cost[:n] = numbers.vector("q", 0)
    equal, below = (
        [np.pad(dense("A", 0), ((0, 0), (0, m * S)))],
        [np.pad(dense("G", 0), ((0, 0), (0, m * S)))],
    )
    right_equal, right_below = [numbers.vector("a", 0)], [numbers.vector("g", 0)]
    for s, weight in enumerate(numbers.probabilities):
        own = slice(n + m * s, n + m * (s + 1))
        cost[:n] += weight * np.array(numbers.vector("o", s))
        cost[own] = weight * np.array(numbers.vector("c", s))
        constant += weight * numbers.constant_of(s)
        for into, right, first, second, side in (
            (equal, right_equal, "T", "W", "h"),
            (below, right_below, "U", "V", "k"),
        ):
            rows = np.zeros((numbers.matrices[first].shape[0], n + m * S))
            rows[:, :n], rows[:, own] = dense(first, s), dense(second, s)
            into.append(rows)
            right.append(numbers.vector(side, s))
    found = linprog(
        cost,
        np.concatenate(below),
        np.concatenate(right_below),
        np.concatenate(equal),
        np.concatenate(right_equal),
        bounds=(None, None),
        method="highs",
    )
    assert found.status == 0
    return float(found.fun + constant)


@pytest.mark.parametrize(("name", "optimum"), [("lands", 381.853), ("farmer", -108390.0)])
def test_the_numbers_are_those_of_a_published_instance(name: str, optimum: float) -> None:
    instance = read_smps(FOLDER / name)
    numbers = BlockArrays.of(instance.program, instance.scenarios, instance.probabilities)
    assert numbers.linear
    assert numbers.columns[: numbers.num_decision] == tuple(f"x[{j}]" for j in range(len(instance.columns)))
    assert extensive_optimum(numbers) == pytest.approx(optimum, rel=2e-6)


def test_a_file_gives_the_numbers_back(tmp_path: Path) -> None:
    z, y = cp.Variable(2, name="z"), cp.Parameter(2, name="y")
    level = cp.Variable(name="level")
    program = TwoStageProgram(
        name="a square", decision=[z, level], uncertain=y, constraints=[z >= 0, level == z[0]],
        recourse_cost=cp.sum_squares(z - y) + cp.abs(level - y[0]) + cp.max(z),
    )  # fmt: skip
    scenarios = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[0.2] * 5, [0.5, 0.0, 0.25, 0.0, 0.25]])
    numbers = BlockArrays.of(program, scenarios, weights, context=1)
    assert not numbers.linear
    assert numbers.num_scenarios == 3
    assert numbers.columns[:3] == ("z[0]", "z[1]", "level")
    numbers.save(tmp_path / "day.npz")
    again = BlockArrays.load(tmp_path / "day.npz")
    assert (again.name, again.columns, again.num_decision) == (numbers.name, numbers.columns, 3)
    np.testing.assert_array_equal(again.probabilities, numbers.probabilities)
    for name in VECTORS:
        np.testing.assert_array_equal(again.vectors[name], numbers.vectors[name])
    for name in MATRICES:
        for scenario in range(3):
            assert again.matrices[name].of(scenario) == numbers.matrices[name].of(scenario)
    assert [again.constant_of(s) for s in range(3)] == [numbers.constant_of(s) for s in range(3)]


def test_files_and_programs_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"day\.npz: no such file"):
        BlockArrays.load(tmp_path / "day.npz")
    (tmp_path / "day.npz").write_text("nothing of numpy")
    with pytest.raises(DataError, match=r"day\.npz: not a file of BlockArrays\.save"):
        BlockArrays.load(tmp_path / "day.npz")
    np.savez(tmp_path / "day.npz", format=9)
    with pytest.raises(DataError, match="has format 9: must be 1"):
        BlockArrays.load(tmp_path / "day.npz")
    z, y = cp.Variable(2, name="z"), cp.Parameter(2, name="y")
    cone = TwoStageProgram(name="cone", decision=z, uncertain=y, recourse_cost=cp.norm(z - y))
    with pytest.raises(ProgramError, match="'cone' has no block form: its recourse has second-order cones"):
        BlockArrays.of(cone, torch.ones(1, 2, 2))
