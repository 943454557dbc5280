"""The block form equals the canonical form: same optimum, fewer columns."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgecast.programs.blocks import BlockProblem
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram


def solve_dense(problem: BlockProblem, member: int, probabilities: np.ndarray) -> float:
    """Optimal expected cost of one context of a block problem, straight from the formula of `blocks`."""

    def matrix(name: str, s: int = 0) -> np.ndarray:
        dense = getattr(problem, name).dense().detach().numpy()
        return dense[min(member, dense.shape[0] - 1), min(s, dense.shape[1] - 1)]

    def vector(name: str, s: int = 0) -> np.ndarray:
        values = getattr(problem, name).detach().numpy()
        if name in "qdag":
            return values[min(member, values.shape[0] - 1)]
        return values[min(member, values.shape[0] - 1), min(s, values.shape[1] - 1)]

    x = cp.Variable(problem.num_first)
    cost = 0.5 * cp.quad_form(x, cp.psd_wrap(matrix("P"))) + vector("q") @ x + vector("d")
    rows = [matrix("A") @ x == vector("a"), matrix("G") @ x <= vector("g")]
    for s, weight in enumerate(probabilities):
        w = cp.Variable(problem.num_recourse)
        block = np.block([[matrix("Q", s), matrix("R", s)], [matrix("R", s).T, matrix("O", s)]])
        both = cp.hstack([w, x])
        mine = 0.5 * cp.quad_form(both, cp.psd_wrap(block)) + vector("o", s) @ x + vector("c", s) @ w
        cost += weight * (mine + vector("e", s))
        rows.append(matrix("T", s) @ x + matrix("W", s) @ w == vector("h", s))
        rows.append(matrix("U", s) @ x + matrix("V", s) @ w <= vector("k", s))
    kept = [row for row in rows if row.shape[0]]
    problem_cvxpy = cp.Problem(cp.Minimize(cost), kept)
    problem_cvxpy.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return float(problem_cvxpy.value)


def test_a_schedule_has_two_single_entry_columns_an_hour() -> None:
    template = build(24, capacity=100.0).template
    assert template is not None
    block = template.scenario
    assert template.num_first == 24
    assert template.A.shape[0] == 0
    assert block.num_columns == 48
    assert block.T.shape[0] == 0
    assert block.V.rows.tolist() == list(range(96))
    # The whole quadratic cost is the decision's: t = z - y was substituted out.
    assert block.Q.rows.size == block.R.rows.size == 0
    assert block.O.rows.tolist() == block.O.cols.tolist() == list(range(24))
    # 46 ramps, 24 bounds below and 24 above.
    assert template.G.shape == (94, 24)


def test_values_have_size_one_where_nothing_changes() -> None:
    program = build(3, capacity=5.0)
    scenarios = torch.ones(4, 6, 3, dtype=torch.float64)
    inputs = program.inputs(scenarios)
    assert program.template is not None
    problem = program.template.instantiate(inputs.uncertain, inputs.given)
    assert problem.O.values.shape[:2] == (1, 1)
    assert problem.V.values.shape[:2] == (1, 1)
    assert problem.k.shape[:2] == (4, 6)
    assert problem.o.shape == (4, 6, 3)
    assert problem.g.shape[0] == 1
    per_context = program.inputs(scenarios, None, {"ramp_limit": torch.full((4,), 0.3)})
    assert program.template.instantiate(per_context.uncertain, per_context.given).g.shape[0] == 4


@pytest.mark.parametrize("reserve", [None, 0.2])
def test_dense_solution_of_the_blocks_equals_the_reference(reserve: float | None) -> None:
    program = build(3, capacity=5.0, reserve=reserve)
    generator = torch.Generator().manual_seed(1)
    scenarios = 3 + 0.5 * torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    check_blocks(program, scenarios)


def check_blocks(
    program: TwoStageProgram, scenarios: torch.Tensor, probabilities: np.ndarray | None = None
) -> None:
    num_contexts, num_scenarios = scenarios.shape[:2]
    weights = (
        np.full((num_contexts, num_scenarios), 1 / num_scenarios) if probabilities is None else probabilities
    )
    inputs = program.inputs(scenarios, weights)
    assert program.template is not None
    problem = program.template.instantiate(inputs.uncertain, inputs.given)
    reference = program.solve(scenarios, weights, backend="reference").require_optimal()
    for member in range(num_contexts):
        dense = solve_dense(problem, member, weights[member])
        assert dense == pytest.approx(reference.objective[member].item(), rel=1e-6, abs=1e-6)


@st.composite
def random_programs(draw: st.DrawFn) -> tuple[TwoStageProgram, torch.Tensor, np.ndarray]:
    """A feasible, bounded program with random technology, random prices, aliases and quadratic parts."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, m, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x, w, alias = cp.Variable(n, name="x"), cp.Variable(m, name="w"), cp.Variable(rows, name="alias")
    slack = cp.Variable(rows, name="slack", nonneg=True)
    rhs, tech = cp.Parameter(rows, name="rhs"), cp.Parameter((rows, n), name="tech")
    price = cp.Parameter(m, name="price", nonneg=True)
    W = rng.normal(size=(rows, m)) * (rng.random((rows, m)) < 0.7)
    cost = price @ w + 20 * cp.sum(slack)
    if draw(st.booleans()):
        cost += cp.sum_squares(alias - rhs)
    if draw(st.booleans()):
        cost += 0.5 * cp.sum_squares(w[:1] - x[:1])
    if draw(st.booleans()):
        cost += cp.norm1(alias) + cp.max(alias)
    constraints = [x >= 0, x <= 3]
    if draw(st.booleans()):
        constraints += [cp.norm1(x) <= 2]
    if draw(st.booleans()):
        constraints += [cp.sum(x) >= 0.5]
    program = TwoStageProgram(
        name="random",
        decision=x,
        uncertain=[rhs, tech, price],
        constraints=constraints,
        cost=rng.normal(size=n) @ x + (cp.sum_squares(x) if draw(st.booleans()) else 0),
        recourse_cost=cost,
        recourse_constraints=[
            alias == tech @ x + W @ w if draw(st.booleans()) else alias == W @ w + x[0],
            tech @ x + alias + slack >= rhs,
            w >= 0,
            w <= 4,
        ],
    )
    num_scenarios = draw(st.integers(1, 4))
    scenarios = rng.normal(size=(1, num_scenarios, program.num_uncertain))
    scenarios[..., -m:] = np.abs(scenarios[..., -m:]) + 0.1
    weights = rng.dirichlet(np.ones(num_scenarios))[None]
    return program, torch.as_tensor(scenarios), weights


@settings(max_examples=40, deadline=None, derandomize=True)
@given(random_programs())
def test_random_templates_keep_their_optimum(case: tuple[TwoStageProgram, torch.Tensor, np.ndarray]) -> None:
    check_blocks(*case)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(random_programs())
def test_random_templates_solve_alike_in_every_backend(
    case: tuple[TwoStageProgram, torch.Tensor, np.ndarray],
) -> None:
    program, scenarios, weights = case
    reference = program.solve(scenarios, weights, backend="reference").require_optimal()
    structured = program.solve(scenarios, weights, backend="structured").require_optimal()
    torch.testing.assert_close(structured.objective, reference.objective, rtol=1e-6, atol=1e-5)
    costs = program.value(reference.flat, scenarios, backend="structured")
    torch.testing.assert_close(
        costs, program.value(reference.flat, scenarios, backend="reference"), rtol=1e-5, atol=1e-5
    )


def test_contradicting_constants_are_infeasible_not_dropped() -> None:
    x, w, y = cp.Variable(name="x"), cp.Variable(name="w"), cp.Parameter(name="y")
    program = TwoStageProgram(
        name="contradiction",
        decision=x,
        uncertain=y,
        constraints=[x >= 0],
        recourse_cost=cp.square(x - y) + w,
        recourse_constraints=[w >= 0, w + 1 <= w],
    )
    for backend in ("reference", "structured"):
        assert program.solve(np.ones((1, 2, 1)), backend=backend).verdict(0).name == "INFEASIBLE"


def test_rows_without_interior_become_equalities() -> None:
    x, w, y = cp.Variable(2, name="x"), cp.Variable(2, name="w"), cp.Parameter(name="y")
    program = TwoStageProgram(
        name="flat",
        decision=x,
        uncertain=y,
        constraints=[cp.sum(x) <= 2, 3 * cp.sum(x) >= 6, x >= 0],
        recourse_cost=cp.square(w[0] - y) + w[1],
        recourse_constraints=[
            w[0] + w[1] == 4,
            w[0] + w[1] <= 4.5,
            2 * (w[0] + w[1]) >= 8,
            w >= 0,
            w[0] <= x[0],
        ],
    )
    assert program.template is not None
    assert program.template.A.shape == (1, 2)
    assert program.template.G.shape == (2, 2)
    assert program.template.scenario.T.shape[0] + program.template.scenario.U.shape[0] <= 4
    scenarios = torch.tensor([[[1.0], [3.0]]], dtype=torch.float64)
    check_blocks(program, scenarios)
    structured = program.solve(scenarios, backend="structured").require_optimal()
    reference = program.solve(scenarios, backend="reference")
    torch.testing.assert_close(structured.objective, reference.objective, rtol=1e-6, atol=1e-6)


def test_an_inequality_that_contradicts_an_equality_stays() -> None:
    x, y = cp.Variable(name="x"), cp.Parameter(name="y")
    program = TwoStageProgram(
        name="contradiction",
        decision=x,
        uncertain=y,
        constraints=[x == 1, 2 * x <= 1.9],
        recourse_cost=cp.square(x - y),
    )
    for backend in ("reference", "structured"):
        assert program.solve(np.ones((1, 2, 1)), backend=backend).verdict(0).name == "INFEASIBLE"
