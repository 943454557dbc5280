"""Gradients of the solution map against finite differences and between the two paths."""

import dataclasses

import pytest
import torch

from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.blocks import SparseMatrix
from hedgecast.programs.risk import EXPECTATION, Risk

NAMES = ("P", "A", "G", "Q", "R", "O", "T", "W", "U", "V", "q", "a", "g", "o", "c", "e", "h", "k")
RISKS = [EXPECTATION, Risk(0.5, 0.6), Risk(1.0, 0.5), Risk(0.6, 1.0)]


def values_of(problem, name):
    value = getattr(problem, name)
    return value.values if isinstance(value, SparseMatrix) else value


def with_values(problem, name, values):
    value = getattr(problem, name)
    changed = dataclasses.replace(value, values=values) if isinstance(value, SparseMatrix) else values
    return dataclasses.replace(problem, **{name: changed})


def loss_of(found):
    weight = torch.linspace(0.5, 2.0, found.x.shape[1], dtype=torch.float64)
    return (
        (found.x * weight).sum() + (found.scenario_costs * found.scenario_costs).sum() + found.objective.sum()
    )


def symmetric_direction(matrix, direction):
    """Directions in P, Q and O keep them symmetric."""
    place = {(int(r), int(c)): i for i, (r, c) in enumerate(zip(matrix.rows, matrix.cols, strict=True))}
    mirror = [place[int(c), int(r)] for r, c in zip(matrix.rows, matrix.cols, strict=True)]
    return direction + direction[..., mirror]


def check_every_tensor(solver, problem, p, risk):
    """Slopes in a random direction of each tensor against central differences of tight solves."""
    generator = torch.Generator().manual_seed(1)
    step = 1e-4
    for name in NAMES:
        base = values_of(problem, name)
        if not base.numel():
            continue
        direction = torch.randn(base.shape, dtype=torch.float64, generator=generator)
        if name in ("P", "Q", "O"):
            direction = symmetric_direction(getattr(problem, name), direction)

        def value(amount, name=name, base=base, direction=direction):
            moved = with_values(problem, name, base + amount * direction)
            tolerance = 1e-8 if torch.is_tensor(amount) else 1e-11
            return loss_of(solver.solve_blocks(moved, p, risk=risk, tolerance=tolerance))

        amount = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(value(amount), amount)
        with torch.no_grad():
            numeric = (value(step) - value(-step)) / (2 * step)
        assert float(slope) == pytest.approx(float(numeric), rel=2e-3, abs=2e-3), name


@pytest.mark.parametrize("risk", RISKS, ids=str)
@pytest.mark.parametrize("S", [1, 3])
def test_every_tensor_against_finite_differences(structured, problems, risk, S):
    # Smooth where the solution is unique and strictly complementary; the seed is such a case.
    check_every_tensor(structured, *problems.random(13, B=2, S=S), risk)


@pytest.mark.parametrize("seed", [12, 14, 16])
def test_costs_outside_a_pure_tail_have_gradients_too(problems, seed):
    # These failed while scenarios outside the tail kept whatever recourse the solve had left them.
    check_every_tensor(StructuredBackend(), *problems.random(seed, B=2, S=3), Risk(1.0, 0.5))


@pytest.mark.parametrize("risk", RISKS, ids=str)
def test_probabilities_and_benchmarks_against_finite_differences(structured, problems, risk):
    problem, p = problems.random(15, B=2, S=3)
    direction = torch.tensor([[0.3, -0.2, -0.1], [-0.4, 0.1, 0.3]], dtype=torch.float64)
    risk = dataclasses.replace(risk, on_regret=True)
    benchmarks = torch.tensor([[0.2, -0.1, 0.1], [0.0, 0.3, -0.2]], dtype=torch.float64)

    def value(amount, other):
        tolerance = 1e-8 if torch.is_tensor(amount) else 1e-11
        moved = benchmarks + other * direction
        found = structured.solve_blocks(
            problem, p + amount * direction, risk=risk, benchmarks=moved, tolerance=tolerance
        )
        return loss_of(found)

    amounts = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    slopes = torch.autograd.grad(value(*amounts), amounts, allow_unused=True)
    step = 1e-4
    with torch.no_grad():
        numeric = [
            (value(step, 0.0) - value(-step, 0.0)) / (2 * step),
            (value(0.0, step) - value(0.0, -step)) / (2 * step),
        ]
    for slope, expected in zip(slopes, numeric, strict=True):
        found = 0.0 if slope is None else float(slope)
        assert found == pytest.approx(float(expected), rel=2e-3, abs=2e-3)


def test_gradcheck_of_a_smooth_solution(structured, problems):
    y = torch.rand(1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 1.0

    def solution(paths):
        found = structured.solve_blocks(
            problems.schedule(paths, shortage=0.8, excess=0.2),
            torch.full((1, 3), 1 / 3, dtype=torch.float64),
            tolerance=1e-10,
        )  # fmt: skip
        return found.scenario_costs

    torch.autograd.gradcheck(solution, y.requires_grad_(), eps=1e-5, atol=1e-3)


@pytest.mark.parametrize("risk", RISKS, ids=str)
@pytest.mark.parametrize("S", [1, 4])
def test_smoothed_gradient_is_that_of_the_smoothed_problem(structured, problems, risk, S, monkeypatch):
    import hedgecast.decisions.structured as module

    kept = {}
    original = module.differentiable

    def record(solved, *rest):
        # A pure tail measure solves the recourse once more; that one has no first stage.
        if S == 1:
            kept["x"] = solved.point.w[:3, :, 0].T.clone()
        elif solved.point.x.numel():
            kept["x"] = solved.point.x.clone()
        return original(solved, *rest)

    monkeypatch.setattr(module, "differentiable", record)
    y = torch.rand(2, S, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 2 + 1
    p = torch.full((2, S), 1 / S, dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)

    def solve(paths):
        return structured.solve_blocks(
            problems.schedule(paths), p, risk=risk, tolerance=1e-10, smoothing=0.02
        )

    leaf = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad((solve(leaf).x * weight).sum(), leaf)
    for place in [(0, 0, 0), (1, S - 1, 2)]:
        shift = torch.zeros_like(y)
        shift[place] = 1e-5
        values = []
        for sign in (1.0, -1.0):
            solve(y + sign * shift)
            values.append(float((kept["x"] * weight).sum()))
        numeric = (values[0] - values[1]) / 2e-5
        assert float(slope[place]) == pytest.approx(numeric, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("S", [1, 4])
def test_compiled_and_tensor_gradients_agree(problems, S):
    problem, p = problems.random(8, B=3, S=S, n=4, m=4, rows=5)
    gradients = []
    for compiled in (True, False):
        leaves = {name: values_of(problem, name).clone().requires_grad_() for name in NAMES}
        moved = problem
        for name, leaf in leaves.items():
            moved = with_values(moved, name, leaf)
        weights = p.clone().requires_grad_()
        found = StructuredBackend(compiled=compiled).solve_blocks(
            moved, weights, tolerance=1e-10, smoothing=0.01
        )
        loss = (found.x**2).sum() + (found.scenario_costs**2).sum()
        gradients.append(torch.autograd.grad(loss, [*leaves.values(), weights]))
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)
