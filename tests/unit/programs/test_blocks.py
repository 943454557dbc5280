"""Block problems: products of sparse matrices, and the recourse alone, against dense algebra."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import torch

from hedgecast.programs.blocks import BlockProblem, SparseMatrix, recourse_alone
from hedgecast.programs.program import TwoStageProgram


def plant() -> TwoStageProgram:
    """Quadratic recourse with equalities, random technology, and costs that join both stages."""
    x, w = cp.Variable(2, name="x"), cp.Variable(3, name="w")
    y, tech = cp.Parameter(2, name="y"), cp.Parameter((2, 2), name="tech")
    return TwoStageProgram(
        name="plant",
        decision=x,
        uncertain=[y, tech],
        constraints=[x >= 0, cp.sum(x) <= 4],
        cost=x[0],
        recourse_cost=cp.sum_squares(w) + cp.square(x[0] - w[0]) + y @ w[:2] + cp.sum_squares(x - y),
        recourse_constraints=[tech @ x + w[:2] == y, w[2] >= x[1] - 1, w <= 9],
    )


def numbers(num_contexts: int = 2, num_scenarios: int = 3) -> tuple[BlockProblem, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    program = plant()
    entries = torch.randn(num_contexts, num_scenarios, 6, generator=generator, dtype=torch.float64)
    inputs = program.inputs(entries)
    assert program.template is not None
    return program.template.instantiate(inputs.uncertain, inputs.given), entries


def test_products_are_those_of_the_dense_matrix() -> None:
    problem, _ = numbers()
    vectors = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name in ("R", "O", "T", "U"):
        matrix = getattr(problem, name)
        vector = vectors[..., : matrix.shape[1]]
        expected = (matrix.dense() @ vector[..., None])[..., 0]
        torch.testing.assert_close(matrix.times(vector), expected.expand_as(matrix.times(vector)))
    nothing = SparseMatrix.empty(2, 4, vectors)
    assert nothing.num_nonzeros == 0
    assert nothing.times(vectors.new_ones(1, 1, 4)).tolist() == [[[0.0, 0.0]]]


def test_recourse_alone_is_each_scenario_at_the_decision() -> None:
    problem, _ = numbers()
    x = torch.tensor([[1.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
    alone = recourse_alone(problem, x)
    assert (alone.num_contexts, alone.num_scenarios, alone.num_first) == (6, 1, 0)
    w = np.linspace(-1.0, 1.0, alone.num_recourse)

    def cost(block: BlockProblem, b: int, s: int, decision: np.ndarray) -> float:
        def at(name: str) -> np.ndarray:
            value = getattr(block, name)
            value = value.dense() if isinstance(value, SparseMatrix) else value
            found: np.ndarray = value[min(b, value.shape[0] - 1), min(s, value.shape[1] - 1)].numpy()
            return found

        own = 0.5 * w @ at("Q") @ w + w @ at("R") @ decision + at("c") @ w + at("e")
        return float(own + 0.5 * decision @ at("O") @ decision + at("o") @ decision)

    for b in range(2):
        for s in range(3):
            whole = cost(problem, b, s, x[b].numpy())
            assert np.isclose(cost(alone, 3 * b + s, 0, np.zeros(0)), whole, rtol=1e-12)


def test_recourse_alone_is_differentiable_in_decision_and_scenarios() -> None:
    program = plant()
    _, entries = numbers(1, 2)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)

    def terms(decision: torch.Tensor, scenarios: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert program.template is not None
        whole = program.template.instantiate(scenarios, scenarios.new_zeros(1, 0))
        alone = recourse_alone(whole, decision)
        return alone.c, alone.e, alone.h, alone.k

    assert torch.autograd.gradcheck(terms, (x, entries.requires_grad_()))


def test_what_a_decision_costs_is_the_optimum_of_its_recourse_alone() -> None:
    program = plant()
    _, entries = numbers()
    x = torch.tensor([[1.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
    costs = {name: program.value(x, entries, backend=name) for name in ("structured", "reference")}
    torch.testing.assert_close(costs["structured"], costs["reference"], rtol=1e-6, atol=1e-6)
