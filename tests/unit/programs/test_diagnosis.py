"""Errors name the constraints that conflict and the costs that fall without limit."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from hedgecast.core.errors import InfeasibleError, UnboundedError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.solution import Verdict

BACKENDS = ("reference", "structured")


def supply(*, most: float = 4.0, least: float = 0.0) -> TwoStageProgram:
    """Order between limits, buy at most two more, meet demand; the rest of the rows never matter."""
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    later, unused = cp.Variable(name="later"), cp.Variable(2, name="unused")
    limit = cp.Parameter(name="limit", value=most)
    return TwoStageProgram(
        name="supply",
        decision=[order, unused],
        uncertain=demand,
        given=limit,
        constraints=[order >= least, order <= limit, cp.abs(unused) <= 1, cp.sum(unused) == 0],
        cost=order,
        recourse_cost=3 * later + cp.abs(later - 1),
        recourse_constraints=[order + later >= demand, later >= 0, later <= 2],
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scenario_without_recourse_names_what_conflicts(backend: str) -> None:
    scenarios = np.array([[[1.0], [6.5]], [[1.0], [2.0]]])
    decision = supply().solve(scenarios, backend=backend)
    assert dict(decision.blame) == {0: ("order <= limit", "demand <= order + later", "later <= 2.0")}
    message = r"scenario 1 has no feasible recourse: order <= limit; demand <= .*; later <= 2\.0 cannot all"
    with pytest.raises(InfeasibleError, match=message):
        decision.require_optimal()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_stage_without_decision_names_its_own_constraints(backend: str) -> None:
    decision = supply(least=5.0).solve(np.array([[[1.0], [9.0]]]), backend=backend)
    assert decision.infeasible_scenario.tolist() == [-1]
    with pytest.raises(
        InfeasibleError, match=r"no decision is feasible: 5\.0 <= order; order <= limit cannot"
    ):
        decision.require_optimal()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unbounded_program_names_its_costs(backend: str) -> None:
    level, price = cp.Variable(name="level"), cp.Parameter(name="price")
    program = TwoStageProgram(
        name="free lunch", decision=level, uncertain=price, constraints=[level >= 0], cost=2 * level,
        recourse_cost=price * level,
    )  # fmt: skip
    decision = program.solve(np.array([[[-3.0], [-2.0]]]), backend=backend)
    with pytest.raises(UnboundedError, match=r"cost 2\.0 \* level plus price \* level falls without limit"):
        decision.require_optimal()


def test_what_has_a_decision_has_no_conflict() -> None:
    program = supply()
    given = np.array([4.0])
    assert program.diagnosis.first_stage(given) == ()
    assert program.diagnosis.scenario(np.array([6.0]), given) == ()
    assert program.diagnosis.scenario(np.array([6.001]), given) != ()


def test_units_of_the_rows_do_not_hide_a_conflict() -> None:
    for size in (1e-6, 1e6):
        x, y = cp.Variable(name="x"), cp.Parameter(name="y")
        program = TwoStageProgram(
            name="units", decision=x, uncertain=y, constraints=[size * x <= size, x >= -1],
            recourse_cost=cp.abs(x - y), recourse_constraints=[size * x >= 3 * size * y],
        )  # fmt: skip
        named = program.diagnosis.scenario(np.array([1.0]), np.zeros(0))
        assert len(named) == 2, size
        assert program.diagnosis.scenario(np.array([0.3]), np.zeros(0)) == ()


def test_rows_of_other_cones_leave_linear_conflicts_named() -> None:
    z, y = cp.Variable(2, name="z"), cp.Parameter(2, name="y")
    program = TwoStageProgram(
        name="ball", decision=z, uncertain=y, constraints=[cp.norm2(z) <= 5, z[0] >= 2, z[0] <= 1],
        recourse_cost=cp.norm2(z - y),
    )  # fmt: skip
    decision = program.solve(np.zeros((1, 1, 2)))
    assert decision.verdict(0) is Verdict.INFEASIBLE
    assert set(decision.blame[0]) == {"2.0 <= z[0]", "z[0] <= 1.0"}


def test_the_conflicts_of_random_systems_are_infeasible_by_themselves() -> None:
    """Named constraints alone, without all others, have no solution either (HiGHS)."""
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(40):
        matrix, rhs = rng.normal(size=(6, 2)), rng.normal(size=6) - 0.3
        x, y = cp.Variable(2, name="x"), cp.Parameter(name="y")
        rows = [matrix[i] @ x <= rhs[i] for i in range(6)]
        program = TwoStageProgram(
            name="rows", decision=x, uncertain=y, constraints=[], recourse_cost=cp.sum_squares(x) * 1 + y,
            recourse_constraints=rows,
        )  # fmt: skip
        names = program.diagnosis.scenario(np.zeros(1), np.zeros(0))
        named = [i for i in range(6) if " ".join(str(rows[i]).split()) in names]
        all_rows = linprog(np.zeros(2), matrix, rhs, bounds=(None, None)).status
        assert (all_rows == 2) == bool(names)
        if names:
            found += 1
            assert linprog(np.zeros(2), matrix[named], rhs[named], bounds=(None, None)).status == 2
    assert found >= 5
    assert torch.is_tensor(program.solve(np.zeros((1, 1, 1))).verdicts)
