"""Risk measures on torch tensors against Clarabel's cone form: shipped programs, ties, and hard shapes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.catalog import (
    battery_storage,
    freight_routing,
    generation_scheduling,
    portfolio,
    product_allocation,
)
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict

MEASURES = [
    "cvar:0", "cvar:0.5", "cvar:0.9", "cvar:0.95", "cvar:0.99", "worst", "mixture:0.5:0.9",
    "regret-cvar:0", "regret-cvar:0.9", "regret-worst", "regret-mixture:0.4:0.9",
]  # fmt: skip
LANDS = Path(__file__).parents[1] / "programs" / "smps"


def random_walks(count, steps=24):
    base = 50.0 + 10.0 * np.sin(np.arange(steps) / 4.0)
    steps_taken = 0.5 * np.random.default_rng(0).normal(size=(1000, steps)).cumsum(axis=1)
    return torch.from_numpy(base + steps_taken)[None, :count]


def draws(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def shipped(name):
    """A program of the catalog and (1, 12, ...) scenarios."""
    S = 12
    if name == "generation_scheduling":
        return generation_scheduling.build(5, ramp_limit=1.0), random_walks(S, 5)
    if name == "battery_storage":
        prices = 40.0 + 20.0 * torch.sin(torch.arange(8) / 1.5) + 8.0 * draws(1, 1, S, 8)
        return battery_storage.build(8), prices
    if name == "product_allocation":
        # Some demands are zero: sales between zero and zero.
        demand = (30.0 + 20.0 * draws(2, 1, S, 1, 5)).clamp(min=0.0)
        return product_allocation.build(1, capacity=120.0), demand * (draws(3, 1, S, 1, 5) > -1.0)
    if name == "freight_routing":
        return freight_routing.build(3, num_lanes=2), (10.0 + 4.0 * draws(4, 1, S, 3, 2)).clamp(min=0.0)
    returns = 0.01 * draws(5, 1, S, 1, 6) + 0.002 * torch.arange(6)
    return portfolio.build(num_assets=6, objective=name, transaction_cost=0.002), returns


PROGRAMS = [
    "generation_scheduling", "battery_storage", "product_allocation", "freight_routing",
    "mean-variance", "mean-cvar",
]  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_shipped_programs_agree_with_clarabel(name):
    program, scenarios = shipped(name)
    for measure, count in itertools.product(MEASURES, (2, 12)):
        risk = Risk.parse(measure)
        part = scenarios[:, :count]
        found = program.solve(part, risk=risk, tolerance=1e-8)
        truth = program.solve(part, risk=risk, backend="reference", tolerance=1e-9)
        assert found.verdict(0) is Verdict.OPTIMAL, (measure, count)
        if torch.isfinite(truth.objective).all():
            excess = float(found.objective - truth.objective) / (1.0 + abs(float(truth.objective)))
            # Clarabel ends up to 2.5e-6 above the optimum of a quadratic tail (by its own tighter solves).
            assert -5e-6 <= excess <= 1e-6, (measure, count)


@pytest.mark.parametrize("name", PROGRAMS)
def test_ties_cost_what_the_scenario_once_costs(name):
    program, scenarios = shipped(name)
    weights = torch.full((1, 12), 1.0 / 12.0, dtype=torch.float64)
    doubled = torch.cat([scenarios, scenarios], dim=1)
    for measure in ("cvar:0.5", "cvar:0.9", "worst", "mixture:0.5:0.9", "regret-cvar:0.9"):
        risk = Risk.parse(measure)
        once = program.solve(scenarios, weights, risk=risk, tolerance=1e-9)
        twice = program.solve(doubled, risk=risk, tolerance=1e-9)
        assert twice.verdict(0) is Verdict.OPTIMAL
        torch.testing.assert_close(twice.objective, once.objective, rtol=1e-7, atol=1e-7)


def test_a_tail_of_schedules_is_no_qcqp_too_hard():
    # 24 hours with ramps: the tail's weights move while costs are curved.
    program, scenarios = generation_scheduling.build(24, ramp_limit=4.0, capacity=80.0), random_walks(100)
    risk = Risk.parse("cvar:0.9")
    found = program.solve(scenarios, risk=risk)
    truth = program.solve(scenarios, risk=risk, backend="reference", tolerance=1e-9)
    assert found.verdict(0) is Verdict.OPTIMAL
    assert float(found.objective) == pytest.approx(float(truth.objective), rel=1e-6)


def test_a_thousand_schedules_stay_between_the_mean_and_the_worst():
    program, scenarios = generation_scheduling.build(24, ramp_limit=4.0, capacity=80.0), random_walks(1000)
    found = {}
    for measure in ("expectation", "cvar:0.9", "worst"):
        decision = program.solve(scenarios, risk=Risk.parse(measure))
        assert decision.verdict(0) is Verdict.OPTIMAL
        found[measure] = float(decision.objective)
    # Clarabel's second-order-cone form, 38 s.
    assert found["cvar:0.9"] == pytest.approx(537.1558575663527, rel=1e-6)
    assert found["expectation"] < found["cvar:0.9"] < found["worst"]


def test_linear_recourse_with_many_ties_has_no_nan(tmp_path):
    from hedgecast.programs.smps import read_smps

    for suffix in ("cor", "tim"):
        (tmp_path / f"lands.{suffix}").write_bytes((LANDS / f"lands.{suffix}").read_bytes())
    rows = [
        f"    RIGHT     DEMAND{mode}    {1.17 * k + 0.1:.4f}   SECOND    0.2"
        for mode in (1, 2, 3)
        for k in range(5)
    ]
    lines = ["STOCH         LANDS", "INDEP         DISCRETE", *rows, "ENDATA", ""]
    (tmp_path / "lands.sto").write_text("\n".join(lines))
    instance = read_smps(tmp_path / "lands")
    for measure in ("cvar:0.9", "regret-cvar:0.9", "regret-worst"):
        risk = Risk.parse(measure)
        found = instance.program.solve(instance.scenarios, instance.probabilities, risk=risk)
        truth = instance.program.solve(
            instance.scenarios, instance.probabilities, risk=risk, backend="reference", tolerance=1e-9
        )
        assert found.verdict(0) is Verdict.OPTIMAL
        assert float(found.objective) == pytest.approx(float(truth.objective), rel=1e-6)


def test_levels_zero_and_below_one_scenario_are_the_mean_and_the_worst(problems):
    paths = torch.rand(2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) * 2.0 + 1.0
    p = torch.full((2, 8), 0.125, dtype=torch.float64)
    problem = problems.schedule(paths)
    benchmarks = paths.sum(dim=2)
    solver = StructuredBackend(compiled=False)

    def objective(risk):
        found = solver.solve_blocks(problem, p, risk=risk, benchmarks=benchmarks, tolerance=1e-9)
        assert (found.verdicts == Verdict.OPTIMAL).all()
        return found.objective

    mean = objective(EXPECTATION)
    torch.testing.assert_close(objective(Risk(1.0, 0.0, on_regret=True)), mean)
    torch.testing.assert_close(
        objective(Risk(1.0, 0.9, on_regret=True)),
        objective(Risk(1.0, 1.0, on_regret=True)),
        rtol=1e-7,
        atol=1e-7,
    )
    levels = [objective(Risk(1.0, alpha, on_regret=True)) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for low, high in itertools.pairwise(levels):
        assert (low <= high + 1e-7).all()


def test_a_batch_of_measures_is_its_members_one_by_one(problems):
    paths = torch.rand(4, 10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8)) * 2.0 + 1.0
    p = torch.rand(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    p = p / p.sum(dim=1, keepdim=True)
    solver, risk = StructuredBackend(compiled=False), Risk(0.8, 0.7)
    problem = problems.schedule(paths)
    batch = solver.solve_blocks(problem, p, risk=risk, tolerance=1e-9)
    for member in range(4):
        one = solver.solve_blocks(
            problems.select(problem, members=[member]), p[[member]], risk=risk, tolerance=1e-9
        )
        torch.testing.assert_close(one.objective, batch.objective[[member]], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(one.x, batch.x[[member]], rtol=0, atol=1e-7)


@pytest.mark.parametrize("measure", ["cvar:0.8", "worst", "mixture:0.5:0.9"])
def test_single_precision_measures_are_near_those_in_double(problems, measure):
    paths = torch.rand(8, 30, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2.0 + 1.0
    problem, risk = problems.schedule(paths), Risk.parse(measure)
    p = torch.full((8, 30), 1.0 / 30.0, dtype=torch.float64)
    truth = StructuredBackend().solve_blocks(problem, p, risk=risk)
    found = StructuredBackend().solve_blocks(problems.cast(problem, torch.float32), p.float(), risk=risk)
    assert (found.verdicts == Verdict.OPTIMAL).all()
    torch.testing.assert_close(found.objective.double(), truth.objective, rtol=5e-5, atol=5e-5)
