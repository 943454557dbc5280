"""The structured backend against Clarabel, limits, invariances and bad members."""

import concurrent.futures
import dataclasses
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgecast.core.errors import ShapeError
from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.backend import MAX_ITERATIONS, BlockBackend
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict

RISKS = [EXPECTATION, Risk(0.5, 0.6), Risk(1.0, 0.7), Risk(0.7, 1.0)]


def uniform(B, S):
    return torch.full((B, S), 1.0 / S, dtype=torch.float64)


def paths(seed, B, S, T=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(B, S, T, dtype=torch.float64, generator=generator) * 2.0 + 1.0


def constraint_violation(problem, found):
    """Largest violation of any row by the returned x and w."""
    x, w = found.x, found.w
    worst = (problem.G.dense()[:, 0] @ x[:, :, None])[..., 0] - problem.g
    rows = (problem.U.dense() @ x[:, None, :, None])[..., 0] + (problem.V.dense() @ w[..., None])[..., 0]
    out = [worst.clamp(min=0).max(), (rows - problem.k).clamp(min=0).max()]
    if problem.A.shape[0]:
        out.append(((problem.A.dense()[:, 0] @ x[:, :, None])[..., 0] - problem.a).abs().max())
    if problem.W.shape[0]:
        equal = (problem.T.dense() @ x[:, None, :, None])[..., 0] + (problem.W.dense() @ w[..., None])[..., 0]
        out.append((equal - problem.h).abs().max())
    return float(torch.stack(out).max())


@pytest.mark.parametrize("risk", RISKS, ids=str)
def test_schedule_agrees_with_clarabel(structured, problems, risk):
    problem, p = problems.schedule(paths(0, 2, 8)), uniform(2, 8)
    found = structured.solve_blocks(problem, p, risk=risk, tolerance=1e-9)
    assert isinstance(structured, BlockBackend)
    assert found.verdicts.tolist() == [0, 0]
    assert constraint_violation(problem, found) < 1e-7
    for member in range(2):
        value, _ = problems.clarabel(problem, p, member, risk)
        assert float(found.objective[member]) == pytest.approx(value, rel=1e-6)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    m=st.integers(1, 4),
    rows=st.integers(0, 5),
    varying=st.booleans(),
    equal=st.booleans(),
    risk=st.sampled_from(RISKS),
)
def test_random_templates_agree_with_clarabel(problems, seed, n, m, rows, varying, equal, risk):
    problem, p = problems.random(seed, n=n, m=m, rows=rows, varying=varying, equalities=int(equal))
    for compiled in (True, False):
        found = StructuredBackend(compiled=compiled).solve_blocks(problem, p, risk=risk, tolerance=1e-9)
        assert found.verdicts.tolist() == [0, 0]
        assert constraint_violation(problem, found) < 1e-7
        value, _ = problems.clarabel(problem, p, 1, risk)
        assert float(found.objective[1]) == pytest.approx(value, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("risk", [EXPECTATION, Risk(1.0, 0.5)], ids=str)
def test_one_scenario_is_the_deterministic_program(structured, problems, risk):
    problem, p = problems.random(5, B=3, S=1)
    found = structured.solve_blocks(problem, p, risk=risk, tolerance=1e-9)
    for member in range(3):
        value, x = problems.clarabel(problem, p, member)
        assert float(found.objective[member]) == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(found.x[member], x, atol=1e-4)
    split = found.first_cost + found.scenario_costs[:, 0]
    torch.testing.assert_close(split, found.objective)


@pytest.mark.parametrize("risk", RISKS, ids=str)
def test_duals_are_the_slopes_of_the_objective(problems, risk):
    problem, p = problems.random(3)
    found = StructuredBackend().solve_blocks(problem, p, risk=risk, tolerance=1e-10)
    h, step = problem.h.clone(), 1e-4
    h[0, 1, 0] += step
    moved = StructuredBackend().solve_blocks(dataclasses.replace(problem, h=h), p, risk=risk, tolerance=1e-10)
    slope = float(moved.objective[0] - found.objective[0]) / step
    assert -float(found.recourse_equality_dual[0, 1, 0]) == pytest.approx(slope, abs=2e-3)
    torch.testing.assert_close(found.weights.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_regret_uses_the_benchmarks(structured, problems):
    problem, p = problems.schedule(paths(1, 2, 6)), uniform(2, 6)
    benchmarks = torch.linspace(0.0, 9.0, 12, dtype=torch.float64).reshape(2, 6)
    risk = Risk(0.8, 0.5, on_regret=True)
    found = structured.solve_blocks(problem, p, risk=risk, benchmarks=benchmarks, tolerance=1e-9)
    value, _ = problems.clarabel(problem, p, 0, risk, benchmarks)
    assert float(found.objective[0]) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("risk", [EXPECTATION, Risk(0.5, 0.6)], ids=str)
def test_batch_equals_loop_and_permutation_changes_nothing(structured, problems, risk):
    problem, p = problems.random(7, B=4, S=5)
    whole = structured.solve_blocks(problem, p, risk=risk, tolerance=1e-10)
    order = [3, 0, 4, 1, 2]
    turned = structured.solve_blocks(
        problems.select(problem, scenarios=order), p[:, order], risk=risk, tolerance=1e-10
    )
    torch.testing.assert_close(turned.objective, whole.objective, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(turned.x, whole.x, rtol=1e-5, atol=1e-5)
    for member in range(4):
        alone = structured.solve_blocks(
            problems.select(problem, members=[member]), p[member : member + 1], risk=risk, tolerance=1e-10
        )
        torch.testing.assert_close(alone.x[0], whole.x[member], rtol=1e-5, atol=1e-5)


def test_splitting_a_scenario_changes_neither_solution_nor_smoothed_gradient(structured, problems):
    base = paths(2, 1, 4)
    p = torch.tensor([[0.1, 0.4, 0.3, 0.2]], dtype=torch.float64)
    halves = torch.cat([p[:, :1] / 2, p[:, :1] / 2, p[:, 1:]], dim=1)
    gradients, objectives = [], []
    for weights, order in ((p, [0, 1, 2, 3]), (halves, [0, 0, 1, 2, 3])):
        leaf = base.clone().requires_grad_()
        found = structured.solve_blocks(
            problems.schedule(leaf[:, order]), weights, tolerance=1e-10, smoothing=0.05
        )
        found.x.square().sum().backward()
        gradients.append(leaf.grad)
        objectives.append(found.objective.detach())
    torch.testing.assert_close(objectives[0], objectives[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("money", [1e-6, 1e-3, 1e6])
@pytest.mark.parametrize("risk", [EXPECTATION, Risk(1.0, 0.6)], ids=str)
def test_scaling_money_scales_the_objective_only(structured, problems, money, risk):
    y, p = paths(3, 2, 6), uniform(2, 6)
    plain = structured.solve_blocks(problems.schedule(y), p, risk=risk, tolerance=1e-9)
    scaled = structured.solve_blocks(problems.schedule(y, money=money), p, risk=risk, tolerance=1e-9)
    assert scaled.verdicts.tolist() == [0, 0]
    torch.testing.assert_close(scaled.x, plain.x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scaled.objective / money, plain.objective, rtol=1e-7, atol=0)


@pytest.mark.parametrize("risk", RISKS, ids=str)
def test_probability_zero_costs_nothing_and_one_is_deterministic(structured, problems, risk):
    y = paths(4, 1, 3)
    sure = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    found = structured.solve_blocks(problems.schedule(y), sure, risk=risk, tolerance=1e-9)
    alone = structured.solve_blocks(problems.schedule(y[:, 1:2]), sure[:, 1:2], tolerance=1e-9)
    assert found.verdicts.tolist() == [0]
    torch.testing.assert_close(found.objective, alone.objective, rtol=1e-6, atol=1e-6)


def tiny(problems, limits, *, first_limit=2.0, bounded=True):
    """x + w_s = 4, 0 <= w_s <= limit_s, 0 <= x <= first_limit, cost x + 2 w; unbounded: x may fall."""
    B, S = limits.shape
    new = limits.new_zeros
    G = problems.sparse([0, 1], [0, 0], (2, 1), [1.0, -1.0 if bounded else 0.0])
    return dataclasses.replace(
        problems.schedule(new(B, S, 1)),
        q=new(1, 1) + 1.0, G=G, g=torch.tensor([[first_limit, 0.0 if bounded else 1.0]], dtype=torch.float64),
        O=problems.empty(1, 1), o=new(1, 1, 1), Q=problems.empty(1, 1), R=problems.empty(1, 1),
        c=new(1, 1, 1) + 2.0, e=new(1, 1),
        T=problems.sparse([0], [0], (1, 1), [1.0]), W=problems.sparse([0], [0], (1, 1), [1.0]),
        h=new(1, 1, 1) + 4.0, U=problems.empty(2, 1), V=problems.sparse([0, 1], [0, 0], (2, 1), [1.0, -1.0]),
        k=torch.stack([limits, torch.zeros_like(limits)], dim=2),
    )  # fmt: skip


@pytest.mark.parametrize("risk", [EXPECTATION, Risk(1.0, 0.5)], ids=str)
def test_infeasible_scenario_is_named_with_a_certificate(structured, problems, risk):
    limits = torch.tensor([[5.0, 5.0, 5.0], [5.0, 1.0, 5.0], [5.0, 2.0, 5.0]], dtype=torch.float64)
    problem = tiny(problems, limits)
    found = structured.solve_blocks(problem, uniform(3, 3), risk=risk)
    assert found.verdicts.tolist() == [Verdict.OPTIMAL, Verdict.INFEASIBLE, Verdict.OPTIMAL]
    assert found.infeasible_scenario.tolist() == [-1, 1, -1]
    assert torch.isnan(found.x[1]).all()
    torch.testing.assert_close(found.objective[[0, 2]], torch.full((2,), 6.0, dtype=torch.float64))
    y, z = found.certificate[1, 1, 0], found.certificate[1, 1, 1:]
    # y W + z'V = 0, z >= 0, and over 0 <= x <= 2 even the best x leaves the combined row violated.
    assert abs(float(y + z[0] - z[1])) < 1e-6
    assert float(z.min()) >= 0.0
    assert float((y * 2.0).clamp(max=0.0) - (4.0 * y + z[0])) > 1e-3


def test_infeasible_first_stage_has_no_scenario_to_blame(structured, problems):
    problem = tiny(problems, torch.full((1, 2), 5.0, dtype=torch.float64), first_limit=-1.0)
    found = structured.solve_blocks(problem, uniform(1, 2))
    assert found.verdicts.tolist() == [Verdict.INFEASIBLE]


def test_unbounded_is_detected(structured, problems):
    limits = torch.full((2, 2), 1e3, dtype=torch.float64)
    problem = tiny(problems, limits, bounded=False)
    free = dataclasses.replace(
        problem, k=problem.k.clone(), V=problems.sparse([0, 1], [0, 0], (2, 1), [0.0, -1.0]),
        q=torch.tensor([[3.0], [1.0]], dtype=torch.float64),
    )  # fmt: skip
    # Cost 3 x + 2 (4 - x) falls with x; cost x + 2 (4 - x) wants x at its upper limit.
    found = structured.solve_blocks(free, uniform(2, 2))
    assert found.verdicts.tolist() == [Verdict.UNBOUNDED, Verdict.OPTIMAL]
    assert float(found.x[1, 0]) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.01])
def test_bad_members_do_not_spoil_the_batch(structured, problems, smoothing):
    y = paths(6, 4, 5)
    p = uniform(4, 5)
    good = structured.solve_blocks(problems.schedule(y[[0, 3]]), p[:2], tolerance=1e-9)
    y[1, 2, 3] = torch.nan
    p = p.clone()
    p[2, 0] = -0.5
    leaf = y.clone().requires_grad_()
    problem = problems.schedule(leaf)
    price = problem.c.clone().requires_grad_()
    found = structured.solve_blocks(
        dataclasses.replace(problem, c=price), p, tolerance=1e-9, smoothing=smoothing
    )
    assert found.verdicts.tolist() == [0, int(Verdict.INVALID), int(Verdict.INVALID), 0]
    torch.testing.assert_close(found.x[[0, 3]], good.x, rtol=1e-6, atol=1e-7)
    found.objective[[0, 3]].sum().backward()
    assert torch.isfinite(price.grad).all()
    assert torch.isfinite(leaf.grad[[0, 3]]).all()
    assert float(price.grad.abs().max()) > 0.0


def test_iteration_limit_is_a_verdict(structured, problems):
    found = structured.solve_blocks(problems.schedule(paths(7, 2, 4)), uniform(2, 4), max_iterations=3)
    assert found.verdicts.tolist() == [Verdict.NOT_CONVERGED] * 2
    assert torch.isfinite(found.x).all()


def test_members_converge_apart(structured, problems):
    y = torch.cat([paths(seed, 1, 6) * size for seed, size in ((8, 1.0), (9, 50.0), (12, 3.0), (13, 0.1))])
    found = structured.solve_blocks(problems.schedule(y), uniform(4, 6), tolerance=1e-9)
    assert found.verdicts.tolist() == [0] * 4
    assert len(set(found.iterations.tolist())) > 1


def test_degenerate_and_nearly_infeasible(structured, problems):
    # All scenarios equal: every row of the recourse is degenerate at the optimum.
    same = torch.full((1, 5, 6), 2.0, dtype=torch.float64)
    found = structured.solve_blocks(problems.schedule(same), uniform(1, 5), tolerance=1e-9)
    assert found.verdicts.tolist() == [0]
    assert float(found.objective[0]) == pytest.approx(0.0, abs=1e-6)
    # The feasible set is an interval of length 1e-6.
    limits = torch.full((1, 3), 2.0 + 1e-6, dtype=torch.float64)
    found = structured.solve_blocks(tiny(problems, limits), uniform(1, 3), tolerance=1e-9)
    assert found.verdicts.tolist() == [0]
    assert float(found.x[0, 0]) == pytest.approx(2.0, abs=2e-6)


@pytest.mark.parametrize("risk", [EXPECTATION, Risk(0.5, 0.6)], ids=str)
def test_single_precision_is_within_a_thousandth(problems, risk):
    problem, p = problems.schedule(paths(10, 3, 8)), uniform(3, 8)
    double = StructuredBackend().solve_blocks(problem, p, risk=risk)
    single = StructuredBackend().solve_blocks(problems.cast(problem, torch.float32), p.float(), risk=risk)
    assert single.x.dtype == torch.float32
    assert single.verdicts.tolist() == [0, 0, 0]
    torch.testing.assert_close(single.objective.double(), double.objective, rtol=1e-3, atol=1e-3)


def test_warm_start_reaches_the_same_solution(problems):
    backend = StructuredBackend(compiled=False)
    y, p = paths(11, 2, 6), uniform(2, 6)
    first = backend.solve_blocks(problems.schedule(y), p, tolerance=1e-9)
    cold = backend.solve_blocks(problems.schedule(y + 0.01), p, tolerance=1e-9)
    warm = backend.solve_blocks(problems.schedule(y + 0.01), p, tolerance=1e-9, warm_start=first.warm)
    torch.testing.assert_close(warm.objective, cold.objective, rtol=1e-7, atol=1e-7)
    assert int(warm.iterations.sum()) <= int(cold.iterations.sum()) + 2


def test_eight_threads_share_one_backend(problems):
    backend = StructuredBackend()
    cases = [(problems.schedule(paths(20 + i, 2, 4 + i)), uniform(2, 4 + i)) for i in range(8)]
    alone = [backend.solve_blocks(*case).x for case in cases]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda case: backend.solve_blocks(*case).x, cases * 3))
    for i, x in enumerate(together):
        torch.testing.assert_close(x, alone[i % 8], rtol=0, atol=0)


def test_wrong_shapes_are_refused(structured, problems):
    with pytest.raises(ShapeError, match="probabilities has shape"):
        structured.solve_blocks(problems.schedule(paths(0, 2, 3)), uniform(2, 4))


def test_costs_outside_the_tail_are_those_of_the_best_recourse(structured, problems):
    problem, p = problems.schedule(paths(14, 2, 6)), uniform(2, 6)
    found = structured.solve_blocks(problem, p, risk=Risk(1.0, 0.8), tolerance=1e-9)
    y, x = problem.k[:, :, :6] * -1.0, found.x[:, None]
    short, over = (y - x).clamp(min=0), (x - y).clamp(min=0)
    expected = (50.0 * short + 0.5 * over + 0.5 * (x - y) ** 2).sum(dim=2)
    torch.testing.assert_close(found.scenario_costs, expected, rtol=1e-5, atol=1e-5)


def test_program_without_recourse_needs_its_mean_only(structured, problems):
    problem, p = problems.random(21, B=2, S=4)
    bare = dataclasses.replace(
        problem, Q=problems.empty(0, 0), R=problems.empty(0, 3), c=problem.c[:, :, :0],
        T=problems.empty(0, 3), W=problems.empty(0, 0), h=problem.h[:, :, :0],
        U=problems.empty(0, 3), V=problems.empty(0, 0), k=problem.k[:, :, :0],
    )  # fmt: skip
    leaf = bare.o.clone().requires_grad_()
    found = structured.solve_blocks(dataclasses.replace(bare, o=leaf), p, tolerance=1e-9)
    for member in range(2):
        expected, _ = problems.clarabel(bare, p, member)
        assert float(found.objective[member].detach()) == pytest.approx(expected, rel=1e-6)
    assert found.scenario_costs.shape == (2, 4)
    (slope,) = torch.autograd.grad(found.objective.sum(), leaf)
    torch.testing.assert_close(slope, p[:, :, None] * found.x.detach()[:, None], rtol=1e-5, atol=1e-6)


def test_every_default_limit_of_iterations_is_the_same():
    for solve in (StructuredBackend.solve_blocks, TwoStageProgram.solve, TwoStageProgram.wait_and_see):
        assert inspect.signature(solve).parameters["max_iterations"].default == MAX_ITERATIONS == 200
