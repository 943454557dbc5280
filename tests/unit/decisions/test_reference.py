"""The reference against plain CVXPY and HiGHS: the same programs written out by hand."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict


def investment(kind: str) -> TwoStageProgram:
    """Capacity of two plants here and now; dispatch to a random demand at a random fuel price."""
    capacity = cp.Variable(2, name="capacity")
    output, lost = cp.Variable(2, name="output"), cp.Variable(name="lost")
    demand, fuel = cp.Parameter(name="demand"), cp.Parameter(2, name="fuel", nonneg=True)
    bent = {"linear": 0, "quadratic": cp.sum_squares(output), "conic": 2 * cp.norm2(output)}[kind]
    return TwoStageProgram(
        name=kind,
        decision=capacity,
        uncertain=[demand, fuel],
        constraints=[capacity >= 0, cp.sum(capacity) <= 6],
        cost=np.array([2.0, 1.2]) @ capacity,
        recourse_cost=fuel @ output + 20 * lost + bent,
        recourse_constraints=[
            output >= 0,
            output <= cp.multiply([0.9, 0.8], capacity),
            cp.sum(output) + lost >= demand,
            lost >= 0,
        ],
    )


def draws(num_scenarios: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scenarios = np.concatenate(
        [3 + rng.normal(size=(num_scenarios, 1)), 1 + rng.random((num_scenarios, 2))], axis=1
    )
    return scenarios, rng.dirichlet(np.ones(num_scenarios))


def by_hand(kind: str, scenarios: np.ndarray, weights: np.ndarray, risk: Risk, solver: str) -> float:
    """The extensive form, written again."""
    capacity = cp.Variable(2)
    rows, costs = [capacity >= 0, cp.sum(capacity) <= 6], []
    for demand, *fuel in scenarios:
        output, lost = cp.Variable(2), cp.Variable()
        rows += [
            output >= 0,
            output <= cp.multiply([0.9, 0.8], capacity),
            cp.sum(output) + lost >= demand,
            lost >= 0,
        ]
        bent = {"linear": 0, "quadratic": cp.sum_squares(output), "conic": 2 * cp.norm2(output)}[kind]
        costs.append(np.array(fuel) @ output + 20 * lost + bent)
    mean = sum(weight * cost for weight, cost in zip(weights, costs, strict=True))
    measure = mean
    if risk.beta:
        level = cp.Variable()
        if risk.alpha == 1.0:
            rows += [cost <= level for cost in costs]
            tail = level
        else:
            over = [cp.pos(cost - level) for cost in costs]
            tail = level + sum(w * o for w, o in zip(weights, over, strict=True)) / (1 - risk.alpha)
        measure = (1 - risk.beta) * mean + risk.beta * tail
    problem = cp.Problem(cp.Minimize(np.array([2.0, 1.2]) @ capacity + measure), rows)
    return float(problem.solve(solver=solver))


# CVXPY's bound propagation for HiGHS multiplies zero by infinity.
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")
@pytest.mark.parametrize("risk", ["expectation", "cvar:0.8", "mixture:0.3:0.6", "worst"])
@pytest.mark.parametrize(
    ("kind", "solver"), [("linear", "HIGHS"), ("quadratic", "CLARABEL"), ("conic", "CLARABEL")]
)
def test_equals_the_extensive_form_by_hand(kind: str, solver: str, risk: str) -> None:
    scenarios, weights = draws(9)
    measure = Risk.parse(risk)
    decision = investment(kind).solve(scenarios[None], weights[None], risk=measure, backend="reference")
    expected = by_hand(kind, scenarios, weights, measure, solver)
    assert decision.require_optimal().objective.item() == pytest.approx(expected, rel=1e-6)
    assert decision.primal_residual.item() <= 1e-7
    assert decision.gap.item() <= 1e-6


@pytest.mark.parametrize("kind", ["linear", "quadratic", "conic"])
def test_wait_and_see_is_a_loop_of_single_problems(kind: str) -> None:
    scenarios, _ = draws(4)
    program = investment(kind)
    known = program.wait_and_see(scenarios[None], backend="reference")
    for s, scenario in enumerate(scenarios):
        expected = by_hand(kind, scenario[None], np.ones(1), Risk(), "CLARABEL")
        assert known[0, s].item() == pytest.approx(expected, rel=1e-6)


def test_measure_on_regret_is_the_tail_of_regret() -> None:
    """Minimizing it can only lower the tail of regret against the neutral decision, and equals its value."""
    scenarios, _ = draws(7)
    program = investment("quadratic")
    risk = Risk.parse("regret-cvar:0.6")
    robust = program.solve(scenarios[None], risk=risk, backend="reference")
    neutral = program.solve(scenarios[None], backend="reference")
    worst = {}
    for name, decision in (("robust", robust), ("neutral", neutral)):
        regret = (
            program.regret(decision.flat, scenarios[None], backend="reference")[0]
            .sort(descending=True)
            .values
        )
        assert regret.min() >= -1e-6
        # 0.4 of seven scenarios: the two worst whole, and 0.8 of the third.
        worst[name] = ((regret[:2].sum() + 0.8 * regret[2]) / 2.8).item()
    assert robust.objective.item() == pytest.approx(worst["robust"], rel=1e-5)
    assert worst["robust"] < worst["neutral"] - 1e-3


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_badly_scaled_costs(scale: float) -> None:
    z, y = cp.Variable(3, name="z"), cp.Parameter(3, name="y")
    program = TwoStageProgram(
        name="scaled", decision=z, uncertain=y, constraints=[cp.sum(z) <= 4, z >= 0],
        recourse_cost=scale * (3 * cp.sum(cp.pos(y - z)) + cp.sum(cp.pos(z - y))),
    )  # fmt: skip
    scenarios = np.random.default_rng(0).random((1, 11, 3)) * 3
    plain = by_quantiles(scenarios[0])
    decision = program.solve(scenarios, backend="reference")
    assert decision.require_optimal().objective.item() == pytest.approx(scale * plain, rel=1e-5)


def by_quantiles(scenarios: np.ndarray) -> float:
    z = cp.Variable(3)
    cost = sum(3 * cp.sum(cp.pos(y - z)) + cp.sum(cp.pos(z - y)) for y in scenarios) / len(scenarios)
    return float(cp.Problem(cp.Minimize(cost), [cp.sum(z) <= 4, z >= 0]).solve(solver=cp.HIGHS))


def test_exponential_cone_programs_are_solved() -> None:
    """min_z E exp(-y z) with y = 1 or -2, at 3/4 and 1/4: exp(-3 z) = 2/3."""
    z, y = cp.Variable(name="z"), cp.Parameter(name="y")
    program = TwoStageProgram(name="utility", decision=z, uncertain=y, recourse_cost=cp.exp(-y * z))
    scenarios = torch.tensor([[[1.0], [-2.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    decision = program.solve(scenarios, weights).require_optimal()
    assert decision.backend == "reference"
    assert decision.flat.item() == pytest.approx(np.log(1.5) / 3, abs=1e-5)
    costs = program.value(decision.flat, scenarios)
    torch.testing.assert_close(costs, torch.exp(-scenarios[..., 0] * decision.flat), rtol=1e-6, atol=1e-6)


def test_an_iteration_limit_is_a_verdict() -> None:
    scenarios, _ = draws(6)
    decision = investment("quadratic").solve(scenarios[None], backend="reference", max_iterations=2)
    assert decision.verdict(0) is Verdict.NOT_CONVERGED
    assert decision.iterations.item() == 2
