"""SMPS files: read back by our reader, and their core by HiGHS, they give the program's own costs."""

from __future__ import annotations

import shutil
from pathlib import Path

import cvxpy as cp
import highspy
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ProgramError, ShapeError
from hedgecast.programs.catalog import generation_scheduling
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.smps import read_smps
from hedgecast.programs.smps_writer import write_smps
from hedgecast.scenarios.reduction import reduce_scenarios

FOLDER = Path(__file__).parent / "smps"


def everything_random() -> TwoStageProgram:
    """Random prices, yields and demands, a known price, equalities, constants that change or do not."""
    stock, demand = cp.Variable((2, 2), name="stock"), cp.Parameter(2, name="demand")
    sent, lost = cp.Variable(2, name="sent", nonneg=True), cp.Variable(2, name="lost", nonneg=True)
    keep = cp.Parameter(2, name="keep", nonneg=True)
    price = cp.Parameter(name="price", nonneg=True)
    fuel = cp.Parameter(name="fuel", nonneg=True, value=1.5)
    return TwoStageProgram(
        name="all sorts of things",
        decision=stock,
        uncertain=[demand, keep, price],
        given=fuel,
        constraints=[stock >= 0, cp.sum(stock) <= 30, stock[0, 0] == stock[1, 1]],
        cost=fuel * cp.sum(stock) + 7,
        recourse_cost=price * cp.sum(sent)
        + 9 * cp.sum(lost)
        + 0.1 * price * stock[0, 1]
        + cp.abs(stock[0, 0] - 3)
        + cp.sum(demand),
        recourse_constraints=[sent <= cp.multiply(keep, stock[0] + stock[1]), sent + lost == demand],
    )


def entries(count: int, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return 0.2 + torch.rand(2, count, 5, generator=draws, dtype=torch.float64) * torch.tensor(
        [9.0, 5.0, 0.8, 0.7, 4.0]
    )


def test_what_is_read_back_has_the_same_optimum_and_decision(tmp_path: Path) -> None:
    program, sets = everything_random(), entries(6)
    weights = torch.tensor([[0.3, 0.1, 0.0, 0.2, 0.25, 0.15]] * 2, dtype=torch.float64)
    for context in range(2):
        files = write_smps(
            program,
            sets,
            tmp_path / f"day{context}",
            probabilities=weights,
            given={"fuel": 0.8},
            context=context,
        )
        assert [path.name for path in files] == [f"day{context}.{end}" for end in ("cor", "tim", "sto")]
        instance = read_smps(tmp_path / f"day{context}")
        # The third scenario has probability zero.
        assert instance.scenarios.shape[1] == instance.num_outcomes == 5
        decision = instance.program.solve(
            instance.scenarios, instance.probabilities, backend="reference"
        ).require_optimal()
        ours = program.solve(
            sets[[context]], weights[[context]], {"fuel": 0.8}, backend="reference"
        ).require_optimal()
        assert decision.objective.item() == pytest.approx(ours.objective.item(), rel=1e-7)
        kept = [0, 1, 3, 4, 5]
        costs = program.value(
            decision.flat[:, :4], sets[[context]][:, kept], {"fuel": 0.8}, backend="reference"
        )
        torch.testing.assert_close(costs, decision.scenario_costs, rtol=1e-6, atol=1e-6)
    text = (tmp_path / "day0.cor").read_text()
    assert "* X2 = stock[0,1]\n" in text
    names = [line.split()[1] for line in text.split("ROWS\n")[1].split("COLUMNS\n")[0].splitlines()]
    assert all(len(name) <= 8 for name in names)


def by_highs(core: Path) -> float:
    """The optimum of a core file alone."""
    shutil.copy(core, core.with_suffix(".mps"))
    model = highspy.Highs()
    model.silent()
    assert model.readModel(str(core.with_suffix(".mps"))) == highspy.HighsStatus.kOk
    model.run()
    return float(model.getObjectiveValue())


def test_highs_reads_the_core_as_the_first_scenario(tmp_path: Path) -> None:
    program, sets = everything_random(), entries(4)
    core, _, _ = write_smps(program, sets, tmp_path / "day")
    known = program.wait_and_see(sets[:1, :1], backend="reference")
    assert by_highs(core) == pytest.approx(known.item(), rel=1e-7)
    # A constant that is not random has its sign turned, as HiGHS knows it too.
    core, _, _ = write_smps(*plain("distance", 7.0, 6.0), tmp_path / "plain")
    assert by_highs(core) == pytest.approx(8.0, rel=1e-7)


@pytest.mark.parametrize("name", ["lands", "airlift", "farmer"])
def test_a_published_instance_keeps_its_optimum_on_the_way(name: str, tmp_path: Path) -> None:
    published = read_smps(FOLDER / name)
    write_smps(published.program, published.scenarios, tmp_path / name, probabilities=published.probabilities)
    again = read_smps(tmp_path / name)
    assert again.scenarios.shape[1] == published.scenarios.shape[1]
    costs = [
        one.program.solve(one.scenarios, one.probabilities, backend="reference")
        .require_optimal()
        .objective.item()
        for one in (published, again)
    ]
    assert costs[1] == pytest.approx(costs[0], rel=1e-7)


def test_a_reduced_day_goes_to_smps(tmp_path: Path) -> None:
    program = generation_scheduling.build(6, quadratic_cost=0.0, capacity=12.0)
    draws = np.random.default_rng(1)
    few = reduce_scenarios(6 + draws.normal(size=(200, 6, 1)).cumsum(axis=1), 7)
    values, weights = few.paths.reshape(1, 7, 6), few.probabilities[None]
    write_smps(program, values, tmp_path / "day", probabilities=weights)
    instance = read_smps(tmp_path / "day")
    np.testing.assert_allclose(instance.probabilities.numpy(), weights, rtol=1e-15)
    theirs = instance.program.solve(instance.scenarios, instance.probabilities, backend="reference")
    ours = program.solve(values, weights, backend="reference")
    assert theirs.objective.item() == pytest.approx(ours.objective.item(), rel=1e-7)


def plain(cost: str, *demands: float) -> tuple[TwoStageProgram, torch.Tensor]:
    z, y = cp.Variable(name="z"), cp.Parameter(name="y")
    costs = {"price": y * z, "distance": cp.abs(z - y), "quadratic": cp.square(z - y)}
    program = TwoStageProgram(
        name="plain", decision=z, uncertain=y, constraints=[z >= 1, z <= 4], cost=5, recourse_cost=costs[cost]
    )
    return program, torch.tensor(demands, dtype=torch.float64)[None, :, None]


@pytest.mark.parametrize(
    ("cost", "demands", "optimum"),
    [("price", [1.0, -3.0, 4.0], 5 + 2 / 3), ("distance", [7.0, 7.0], 8.0), ("distance", [-1.0], 7.0)],
)
def test_a_recourse_without_columns_or_without_anything_random_is_written(
    cost: str, demands: list[float], optimum: float, tmp_path: Path
) -> None:
    program, scenarios = plain(cost, *demands)
    write_smps(program, scenarios, tmp_path / "plain")
    instance = read_smps(tmp_path / "plain")
    assert instance.scenarios.shape[1] == len(demands)
    found = instance.program.solve(instance.scenarios, instance.probabilities, backend="reference")
    assert found.objective.item() == pytest.approx(optimum, abs=1e-6)


def test_what_smps_cannot_hold_is_refused(tmp_path: Path) -> None:
    program, scenarios = plain("quadratic", 1.0, 2.0)
    with pytest.raises(ProgramError, match="'plain' has quadratic costs"):
        write_smps(program, scenarios, tmp_path / "plain")
    linear, _ = plain("price", 1.0)
    with pytest.raises(ProgramError, match="context 0: scenarios, probabilities"):
        write_smps(linear, scenarios * torch.nan, tmp_path / "plain")
    with pytest.raises(ShapeError, match="context 3 of 1"):
        write_smps(linear, scenarios, tmp_path / "plain", context=3)
    assert list(tmp_path.iterdir()) == []
