"""Textbook programs with known optimum, invariances, and what a program refuses."""

from __future__ import annotations

import concurrent.futures

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import InfeasibleError, ProgramError, ShapeError, UnboundedError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict

BACKENDS = ("reference", "structured")


def newsvendor(*, price: float = 50.0, salvage: float = 0.5) -> TwoStageProgram:
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    return TwoStageProgram(
        name="newsvendor",
        decision=order,
        uncertain=demand,
        constraints=[order >= 0],
        recourse_cost=price * cp.pos(demand - order) + salvage * cp.pos(order - demand),
    )


def farmer() -> TwoStageProgram:
    """Birge and Louveaux (2011), section 1.1: wheat, corn and sugar beets, random yields in tons an acre."""
    land = cp.Variable(3, name="land", nonneg=True)
    yields = cp.Parameter(3, name="yields")
    bought, sold = cp.Variable(2, nonneg=True, name="bought"), cp.Variable(4, nonneg=True, name="sold")
    produced = cp.multiply(yields, land)
    return TwoStageProgram(
        name="farmer",
        decision=land,
        uncertain=yields,
        constraints=[cp.sum(land) <= 500],
        cost=np.array([150.0, 230.0, 260.0]) @ land,
        recourse_cost=np.array([238.0, 210.0]) @ bought - np.array([170.0, 150.0, 36.0, 10.0]) @ sold,
        recourse_constraints=[
            produced[0] + bought[0] - sold[0] >= 200,
            produced[1] + bought[1] - sold[1] >= 240,
            sold[2] + sold[3] <= produced[2],
            sold[2] <= 6000,
        ],
    )


YIELDS = torch.tensor([2.5, 3.0, 20.0], dtype=torch.float64) * torch.tensor([[1.2], [1.0], [0.8]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_farmer_has_the_textbook_values(backend: str) -> None:
    program, scenarios = farmer(), YIELDS[None].double()
    decision = program.solve(scenarios, backend=backend).require_optimal()
    assert decision.objective.item() == pytest.approx(-108_390, abs=0.5)
    assert decision.values["land"][0].tolist() == pytest.approx([170, 80, 250], abs=1e-3)
    known = program.wait_and_see(scenarios, backend=backend)
    assert known[0].tolist() == pytest.approx([-167_666.67, -118_600, -59_950], abs=1.0)
    worth = program.information(scenarios, backend=backend)
    assert worth.value_of_perfect_information.item() == pytest.approx(7_016, abs=1.0)
    assert worth.value_of_stochastic_solution.item() == pytest.approx(1_150, abs=1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_newsvendor_orders_the_critical_quantile(backend: str) -> None:
    demand = torch.arange(1.0, 102.0, dtype=torch.float64)[None, :, None]
    decision = newsvendor(price=3.0, salvage=1.0).solve(demand, backend=backend)
    # The 3/4 quantile of 1..101 is 76: 75 of 101 lie below it, less than three quarters.
    assert decision.flat.item() == pytest.approx(76.0, abs=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_scenario_is_the_deterministic_problem(backend: str) -> None:
    program, scenarios = farmer(), YIELDS[None, 1:2].double()
    decision = program.solve(scenarios, backend=backend)
    assert decision.objective.item() == pytest.approx(-118_600, abs=0.5)
    assert program.regret(decision.flat, scenarios, backend=backend).item() == pytest.approx(0, abs=0.5)


def schedule(num_steps: int = 4) -> TwoStageProgram:
    plan, load = cp.Variable(num_steps, name="plan"), cp.Parameter(num_steps, name="load")
    ramp = cp.Parameter(name="ramp", nonneg=True, value=0.4)
    gap = load - plan
    return TwoStageProgram(
        name="schedule",
        decision=plan,
        uncertain=load,
        given=ramp,
        constraints=[cp.abs(cp.diff(plan)) <= ramp, plan >= 0],
        recourse_cost=5 * cp.sum(cp.pos(gap)) + 0.5 * cp.sum(cp.pos(-gap)) + 0.5 * cp.sum_squares(gap),
    )


def loads(num_contexts: int = 2, num_scenarios: int = 6, num_steps: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_contexts, num_scenarios, num_steps, generator=generator, dtype=torch.float64)
    return 3 + 0.6 * noise


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("risk", ["expectation", "cvar:0.7", "regret-mixture:0.5:0.6", "worst"])
def test_order_and_splitting_of_scenarios_change_nothing(backend: str, risk: str) -> None:
    program, scenarios, measure = schedule(), loads(), Risk.parse(risk)
    plain = program.solve(scenarios, risk=measure, backend=backend)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = program.solve(scenarios[:, order], risk=measure, backend=backend)
    halves = torch.cat([scenarios, scenarios[:, :1]], dim=1)
    weights = torch.full((2, 7), 1 / 6, dtype=torch.float64)
    weights[:, [0, 6]] = 1 / 12
    split = program.solve(halves, weights, risk=measure, backend=backend)
    torch.testing.assert_close(permuted.objective, plain.objective, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(split.objective, plain.objective, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(permuted.scenario_costs, plain.scenario_costs[:, order], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_money_in_another_unit_changes_costs_only(backend: str) -> None:
    demand = loads(1, 9, 1)
    plain = newsvendor().solve(demand, backend=backend)
    cents = newsvendor(price=5000.0, salvage=50.0).solve(demand, backend=backend)
    torch.testing.assert_close(cents.flat, plain.flat, rtol=0, atol=1e-5)
    torch.testing.assert_close(cents.objective, 100 * plain.objective, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_probabilities_zero_and_one(backend: str) -> None:
    program, scenarios = schedule(), loads(1)
    weights = torch.zeros(1, 6, dtype=torch.float64)
    weights[0, 2] = 1.0
    certain = program.solve(scenarios, weights, backend=backend)
    alone = program.solve(scenarios[:, 2:3], backend=backend)
    torch.testing.assert_close(certain.objective, alone.objective, rtol=1e-6, atol=1e-7)
    # Scenarios of no weight have the cost of the decision after the best recourse all the same.
    costs = program.value(certain.flat, scenarios)
    torch.testing.assert_close(certain.scenario_costs, costs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits_of_the_tail_level(backend: str) -> None:
    program, scenarios = schedule(), loads(1)
    mean = program.solve(scenarios, backend=backend)
    whole = program.solve(scenarios, risk=Risk(beta=1.0, alpha=0.0), backend=backend)
    torch.testing.assert_close(whole.objective, mean.objective, rtol=1e-6, atol=1e-7)
    worst = program.solve(scenarios, risk=Risk.parse("worst"), backend=backend)
    last = program.solve(scenarios, risk=Risk(beta=1.0, alpha=5 / 6), backend=backend)
    torch.testing.assert_close(worst.objective, last.objective, rtol=1e-5, atol=1e-6)
    assert worst.objective.item() == pytest.approx(worst.scenario_costs.max().item(), rel=1e-9)
    assert worst.scenario_costs.max() <= mean.scenario_costs.max() + 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_tail_measures_are_robust_to_ties(backend: str) -> None:
    demand = torch.full((1, 8, 1), 5.0, dtype=torch.float64)
    for risk in ("cvar:0.9", "worst", "regret-cvar:0.5"):
        decision = newsvendor().solve(demand, risk=Risk.parse(risk), backend=backend).require_optimal()
        assert decision.flat.item() == pytest.approx(5.0, abs=1e-4)


def capped() -> TwoStageProgram:
    """Demand must be met from the order and at most two units bought later."""
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    later = cp.Variable(name="later")
    limit = cp.Parameter(name="limit", value=4.0)
    return TwoStageProgram(
        name="capped",
        decision=order,
        uncertain=demand,
        given=limit,
        constraints=[order >= 0, order <= limit],
        cost=order,
        recourse_cost=3 * later,
        recourse_constraints=[order + later >= demand, later >= 0, later <= 2],
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_infeasible_recourse_names_the_scenario_and_spares_the_others(backend: str) -> None:
    scenarios = torch.tensor([[1.0, 3.0], [1.0, 6.5], [2.0, 5.0]], dtype=torch.float64)[..., None]
    decision = capped().solve(scenarios, backend=backend)
    expected = [Verdict.OPTIMAL, Verdict.INFEASIBLE, Verdict.OPTIMAL]
    assert [decision.verdict(member) for member in range(3)] == expected
    assert decision.infeasible_scenario.tolist() == [-1, 1, -1]
    assert torch.isnan(decision.flat[1]).all()
    assert decision.flat[[0, 2]].flatten().tolist() == pytest.approx([3.0, 4.0], abs=1e-4)
    with pytest.raises(InfeasibleError, match="context 1: scenario 1 has no feasible recourse"):
        decision.require_optimal()
    known = capped().wait_and_see(scenarios, backend=backend)
    assert torch.isposinf(known[1, 1])
    assert torch.isfinite(known).sum() == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_certificate_proves_that_there_is_no_recourse(backend: str) -> None:
    order, demand = cp.Variable(name="order"), cp.Parameter(name="demand")
    later = cp.Variable(2, name="later")
    program = TwoStageProgram(
        name="bounded",
        decision=order,
        uncertain=demand,
        constraints=[order >= 0],
        cost=order,
        recourse_cost=cp.sum(later) + cp.abs(order - later[0]),
        recourse_constraints=[cp.sum(later) == demand, later >= 0, later <= 2],
    )
    scenarios = torch.tensor([[[3.0], [5.0]]], dtype=torch.float64)
    decision = program.solve(scenarios, backend=backend)
    assert decision.infeasible_scenario.tolist() == [1]
    assert decision.certificate is not None
    stage = program.recourse.stage
    matrix = np.zeros(stage.A.shape)
    matrix[stage.A.rows, stage.A.cols] = stage.A.values(np.array([[5.0]]), np.zeros(0))[0]
    offset = stage.b(np.array([[5.0]]), np.zeros(0))[0]
    multipliers = decision.certificate[0].numpy()
    scale = np.abs(multipliers).max()
    assert scale > 1e-3
    # A v + b in K has no solution: multipliers in the dual cone with A'z = 0 and b'z < 0.
    assert multipliers[stage.cones.zero :].min() >= -1e-6 * scale
    assert np.abs(matrix.T @ multipliers).max() <= 1e-5 * scale
    assert offset @ multipliers < -1e-3 * scale


@pytest.mark.parametrize("backend", BACKENDS)
def test_infeasible_first_stage_blames_no_scenario(backend: str) -> None:
    scenarios = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64)
    decision = capped().solve(scenarios, given={"limit": -1.0}, backend=backend)
    assert decision.verdict(0) is Verdict.INFEASIBLE
    assert decision.infeasible_scenario.tolist() == [-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_unbounded_programs_say_so(backend: str) -> None:
    level, price = cp.Variable(name="level"), cp.Parameter(name="price")
    program = TwoStageProgram(
        name="free lunch",
        decision=level,
        uncertain=price,
        constraints=[level >= 0],
        recourse_cost=price * level,
    )
    prices = torch.tensor([[[-1.0], [0.5]], [[1.0], [0.5]]], dtype=torch.float64)
    decision = program.solve(prices, backend=backend)
    assert [decision.verdict(b) for b in range(2)] == [Verdict.UNBOUNDED, Verdict.OPTIMAL]
    with pytest.raises(UnboundedError, match="context 0"):
        decision.require_optimal()


@pytest.mark.parametrize("backend", BACKENDS)
def test_members_with_unusable_numbers_are_invalid_alone(backend: str) -> None:
    program, scenarios = schedule(), loads(4)
    scenarios[0, 1, 2] = torch.nan
    weights = torch.full((4, 6), 1 / 6, dtype=torch.float64)
    weights[1, 0] = -1 / 6
    given = {"ramp": torch.tensor([0.4, 0.4, -0.4, 0.4], dtype=torch.float64)}
    decision = program.solve(scenarios, weights, given, backend=backend)
    invalid = [decision.verdict(b) is Verdict.INVALID for b in range(4)]
    # The negative ramp breaks the sign that its parameter declares.
    assert invalid == [True, True, True, False]
    alone = program.solve(scenarios[3:], backend=backend)
    torch.testing.assert_close(decision.objective[3:], alone.objective, rtol=1e-7, atol=1e-8)


def test_risk_on_regret_needs_every_benchmark() -> None:
    scenarios = torch.tensor([[1.0, 3.0], [1.0, 6.5]], dtype=torch.float64)[..., None]
    decision = capped().solve(scenarios, risk=Risk.parse("regret-cvar:0.5"))
    assert [decision.verdict(b) for b in range(2)] == [Verdict.OPTIMAL, Verdict.INFEASIBLE]
    assert decision.infeasible_scenario.tolist() == [-1, 1]


def test_batch_equals_loop() -> None:
    program, scenarios = schedule(), loads(5)
    batch = program.solve(scenarios)
    for member in range(5):
        alone = program.solve(scenarios[member : member + 1])
        torch.testing.assert_close(alone.flat[0], batch.flat[member], rtol=0, atol=1e-5)


def test_given_parameters_differ_by_context_and_have_defaults() -> None:
    program, scenarios = schedule(), loads(2)
    assert program.reader.defaults["ramp"].item() == 0.4
    ramps = torch.tensor([0.0, 10.0], dtype=torch.float64)
    decision = program.solve(scenarios, given={"ramp": ramps})
    plans = decision.values["plan"]
    assert plans[0].diff().abs().max() <= 1e-6
    assert plans[1].diff().abs().max() > 0.05
    default = program.solve(scenarios)
    assert default.flat.diff(dim=1).abs().max() <= 0.4 + 1e-6


def test_entries_stand_in_declaration_and_c_order() -> None:
    """Matrices of entries meet CVXPY's column-major order exactly once."""
    plan, extra = cp.Variable((2, 3), name="plan"), cp.Variable(name="extra")
    load, price = cp.Parameter((2, 3), name="load"), cp.Parameter(2, name="price", nonneg=True)
    distance = cp.Variable(2, name="distance")
    program = TwoStageProgram(
        name="matrix",
        decision=[plan, extra],
        uncertain=[load, price],
        cost=cp.square(extra - 7),
        recourse_cost=cp.sum_squares(plan - load) + price @ distance,
        recourse_constraints=[distance >= cp.sum(cp.abs(plan - load), axis=1)],
    )
    values = torch.arange(6.0, dtype=torch.float64).reshape(1, 1, 2, 3)
    prices = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    for backend in BACKENDS:
        decision = program.solve({"load": values, "price": prices}, backend=backend)
        torch.testing.assert_close(decision.values["plan"][0], values[0, 0], rtol=0, atol=1e-5)
        assert decision.flat[0].tolist() == pytest.approx([0, 1, 2, 3, 4, 5, 7], abs=1e-4)
        flat = torch.cat([values.flatten(2), prices], dim=2)
        assert program.value(decision.flat, flat).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_symmetric_decisions_keep_their_attributes(backend: str) -> None:
    matrix = cp.Variable((2, 2), name="matrix", symmetric=True)
    target = cp.Parameter((2, 2), name="target")
    program = TwoStageProgram(
        name="symmetric", decision=matrix, uncertain=target, recourse_cost=cp.sum_squares(matrix - target)
    )
    scenarios = torch.tensor([[[[1.0, 2.0], [4.0, 5.0]]]], dtype=torch.float64)
    decision = program.solve(scenarios, backend=backend)
    expected = torch.tensor([[1.0, 3.0], [3.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(decision.values["matrix"][0], expected, rtol=0, atol=1e-5)
    assert program.violation(decision.flat).item() <= 1e-6


def test_violation_measures_what_binds_the_decision_alone() -> None:
    program = schedule()
    plans = torch.tensor(
        [[1.0, 1.2, 1.4, 1.6], [1.0, 2.0, 2.0, 2.0], [-0.5, -0.5, 0, 0]], dtype=torch.float64
    )
    assert program.violation(plans).tolist() == pytest.approx([0, 0.6, 0.5], abs=1e-12)
    relaxed = program.violation(plans, {"ramp": torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)})
    assert relaxed.tolist() == pytest.approx([0, 0, 0.5], abs=1e-12)


def test_one_program_serves_eight_threads() -> None:
    program = farmer()
    generator = torch.Generator().manual_seed(3)
    cases = [
        YIELDS[None].double() * (0.8 + 0.4 * torch.rand(1, 3, 3, generator=generator)) for _ in range(24)
    ]
    expected = [program.solve(case, backend="reference").objective for case in cases]
    for backend in BACKENDS:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda case, name=backend: program.solve(case, backend=name).objective, cases)
            )
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-6, atol=0)


def test_wrong_shapes_and_names_say_what_is_expected() -> None:
    program, scenarios = schedule(), loads()
    with pytest.raises(ShapeError, match=r"must be \(contexts, scenarios, 4 entries of load"):
        program.solve(scenarios[0])
    with pytest.raises(ShapeError, match=r"scenarios\['load'\] has shape"):
        program.solve({"load": scenarios[..., :3]})
    with pytest.raises(ProgramError, match="known names are load"):
        program.solve({"demand": scenarios})
    with pytest.raises(ShapeError, match="probabilities have shape"):
        program.solve(scenarios, torch.ones(6))
    with pytest.raises(ShapeError, match=r"given\['ramp'\] has shape"):
        program.solve(scenarios, given={"ramp": torch.ones(3)})
    with pytest.raises(ProgramError, match="no backend is called"):
        program.solve(scenarios, backend="magic")
    with pytest.raises(ShapeError, match="3 decisions for 2 contexts"):
        program.value(torch.zeros(3, 4), scenarios)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_badly_scaled_money(backend: str, scale: float) -> None:
    demand = loads(1, 9, 1)
    plain = newsvendor(price=5.1).solve(demand, backend=backend)
    scaled = newsvendor(price=5.1 * scale, salvage=0.5 * scale).solve(demand, backend=backend)
    scaled.require_optimal()
    torch.testing.assert_close(scaled.objective / scale, plain.objective, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearly_infeasible_and_degenerate_programs(backend: str) -> None:
    """A limit met with 1e-6 to spare, and one constraint written three times."""
    tight = capped().solve(np.array([[[6.0 - 1e-6], [1.0]]]), backend=backend).require_optimal()
    assert tight.flat.item() == pytest.approx(4.0, abs=1e-4)
    z, y = cp.Variable(2, name="z"), cp.Parameter(2, name="y")
    program = TwoStageProgram(
        name="repeated",
        decision=z,
        uncertain=y,
        constraints=[cp.sum(z) <= 1, 2 * cp.sum(z) <= 2, z[0] + z[1] == 1, z >= 0, -z <= 0],
        recourse_cost=cp.sum(cp.abs(z - y)),
    )
    decision = program.solve(np.array([[[0.25, 0.75], [0.25, 0.75]]]), backend=backend).require_optimal()
    assert decision.flat[0].tolist() == pytest.approx([0.25, 0.75], abs=1e-5)
