"""The surrogate on a small newsvendor network, trained once for the module."""

import dataclasses
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import BundleError, ConfigError
from hedgecast.decisions.projection import project
from hedgecast.decisions.set_features import LEVELS, describe, in_order
from hedgecast.decisions.surrogate import (
    Surrogate,
    SurrogateBackend,
    calibrated_threshold,
    fingerprint,
    surrogate_home,
)
from hedgecast.decisions.surrogate_training import SurrogateConfig, neighborhoods, train_surrogate
from hedgecast.programs.backend import Inputs
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.results import solve_batch
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict

SIZE = 3
CONFIG = SurrogateConfig(
    num_instances=400,
    num_calibration=200,
    num_test=100,
    num_scenarios=40,
    num_epochs=60,
    width=32,
    budget=0.05,
)


def _program(price: float = 4.0) -> TwoStageProgram:
    order, demand = cp.Variable(SIZE, name="order"), cp.Parameter(SIZE, name="demand")
    cost = cp.Parameter(SIZE, name="cost", value=np.ones(SIZE))
    deviation = demand - order
    return TwoStageProgram(
        name="stocks",
        decision=order,
        uncertain=demand,
        given=[cost],
        constraints=[order >= 0, cp.sum(order) <= 40],
        cost=cost @ order,
        recourse_cost=price * cp.sum(cp.pos(deviation)) + 0.1 * cp.sum_squares(deviation),
    )


def _pool(generator: torch.Generator) -> torch.Tensor:
    level = 6 + 10 * torch.rand(500, 1, generator=generator, dtype=torch.float64)
    return level + 2 * torch.randn(500, SIZE, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def pool() -> torch.Tensor:
    return _pool(torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def program() -> TwoStageProgram:
    return _program()


@pytest.fixture(scope="module")
def surrogate(program: TwoStageProgram, pool: torch.Tensor) -> Surrogate:
    return train_surrogate(program, pool, config=CONFIG)


@pytest.fixture(scope="module")
def backend(
    surrogate: Surrogate, program: TwoStageProgram, tmp_path_factory: pytest.TempPathFactory
) -> SurrogateBackend:
    folder = tmp_path_factory.mktemp("surrogates")
    surrogate.save(surrogate_home(program, EXPECTATION, folder))
    return SurrogateBackend(folder)


def _sets(pool: torch.Tensor, count: int = 20, seed: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    return neighborhoods(pool, None, count, 40, torch.Generator().manual_seed(seed))


def _solve(backend: SurrogateBackend, program: TwoStageProgram, inputs: Inputs):
    return solve_batch(program, backend, inputs, EXPECTATION, 1e-7, 200)


def test_decisions_are_nearly_optimal_on_sets_not_seen(
    program: TwoStageProgram, pool: torch.Tensor, backend: SurrogateBackend, surrogate: Surrogate
) -> None:
    sets, weights = _sets(pool, 100)
    found = _solve(backend, program, program.inputs(sets, weights)).require_optimal()
    exact = program.solve(sets, weights).require_optimal()
    trusted = found.iterations == 0
    regret = (found.objective - exact.objective) / exact.objective
    assert trusted.double().mean() > 0.8
    assert regret.min() > -1e-6
    assert regret[trusted].mean() < 0.01
    assert (regret[trusted] > CONFIG.budget).double().mean() <= CONFIG.risk
    # The report says of its own test sets what holds here.
    assert surrogate.report["trusted_mean_regret"] < 0.01
    assert surrogate.report["trusted_share"] > 0.8


def test_the_order_of_scenarios_changes_no_bit(
    program: TwoStageProgram, pool: torch.Tensor, surrogate: Surrogate
) -> None:
    sets, weights = _sets(pool, 4)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        straight = surrogate.network(program.inputs(sets, weights))
        permuted = surrogate.network(program.inputs(sets[:, order], weights[:, order]))
    for one, other in zip(straight, permuted, strict=True):
        assert torch.equal(one, other)


def test_splitting_a_scenario_hardly_changes_the_decision(
    program: TwoStageProgram, pool: torch.Tensor, surrogate: Surrogate
) -> None:
    sets, weights = _sets(pool, 4)
    halves = torch.cat([weights, weights[:, :1] / 2], dim=1)
    halves[:, 0] /= 2
    with torch.no_grad():
        whole = surrogate.network(program.inputs(sets, weights))[0]
        split = surrogate.network(program.inputs(torch.cat([sets, sets[:, :1]], dim=1), halves))[0]
    torch.testing.assert_close(whole, split, rtol=0.02, atol=0.05)


def test_every_decision_is_feasible(
    program: TwoStageProgram, pool: torch.Tensor, backend: SurrogateBackend
) -> None:
    # Large demand makes the limit on the sum bind.
    sets, weights = _sets(pool[pool.sum(dim=1) > 38])
    found = _solve(backend, program, program.inputs(sets, weights)).require_optimal()
    assert (found.iterations == 0).any()
    assert found.flat.min() > -1e-7
    assert found.flat.sum(dim=1).max() < 40 + 1e-6


def test_sets_unlike_those_of_training_are_solved_exactly(
    program: TwoStageProgram, pool: torch.Tensor, backend: SurrogateBackend
) -> None:
    sets, weights = _sets(pool, 6)
    far = torch.cat([sets[:3], 50 + 10 * sets[3:]])
    found = _solve(backend, program, program.inputs(far, weights)).require_optimal()
    assert (found.iterations[3:] > 0).all()
    exact = program.solve(far[3:], weights[3:]).require_optimal()
    torch.testing.assert_close(found.objective[3:], exact.objective, rtol=1e-6, atol=0.0)


def test_other_given_parameters_are_solved_exactly(
    program: TwoStageProgram, pool: torch.Tensor, backend: SurrogateBackend
) -> None:
    sets, weights = _sets(pool, 3)
    given = {"cost": np.array([2.0, 1.0, 1.0])}
    found = _solve(backend, program, program.inputs(sets, weights, given)).require_optimal()
    exact = program.solve(sets, weights, given).require_optimal()
    torch.testing.assert_close(found.objective, exact.objective, rtol=1e-6, atol=0.0)


def test_a_gate_that_trusts_nothing_is_the_exact_solver(
    program: TwoStageProgram, pool: torch.Tensor, surrogate: Surrogate, tmp_path: Path
) -> None:
    wary = dataclasses.replace(surrogate, gate=dataclasses.replace(surrogate.gate, max_doubt=-1.0))
    wary.save(surrogate_home(program, EXPECTATION, tmp_path))
    sets, weights = _sets(pool, 3)
    found = _solve(SurrogateBackend(tmp_path), program, program.inputs(sets, weights))
    exact = program.solve(sets, weights, backend="structured")
    torch.testing.assert_close(found.flat, exact.flat, rtol=0.0, atol=0.0)
    assert (found.verdicts == Verdict.OPTIMAL).all()


def test_the_layer_has_the_gradients_of_the_map(
    program: TwoStageProgram, pool: torch.Tensor, backend: SurrogateBackend
) -> None:
    sets, _ = _sets(pool, 1)
    layer = backend.layer(program, risk=EXPECTATION, smoothing=0.0, tolerance=None)

    def decide(scenarios: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        found, _ = layer(program.inputs(scenarios, probabilities), None)
        return found

    small = sets[:, :5].clone().requires_grad_()
    mass = torch.tensor([[0.1, 0.3, 0.2, 0.15, 0.25]], dtype=torch.float64)
    found = decide(small, mass)
    direction = torch.randn(small.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (slope,) = torch.autograd.grad(found.sum(), small)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = decide(small + step * direction, mass), decide(small - step * direction, mass)
    finite_difference = (ahead - behind).sum() / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), finite_difference, rtol=1e-3, atol=1e-4)


def test_a_surrogate_reads_back_and_fits_its_own_program_only(
    program: TwoStageProgram, pool: torch.Tensor, surrogate: Surrogate, tmp_path: Path
) -> None:
    surrogate.save(tmp_path / "one")
    again = Surrogate.load(tmp_path / "one")
    sets, weights = _sets(pool, 2)
    with torch.no_grad():
        before = surrogate.network(program.inputs(sets, weights))[0]
        after = again.network(program.inputs(sets, weights))[0]
    assert torch.equal(before, after)
    assert again.gate == surrogate.gate
    assert fingerprint(_program()) == fingerprint(program)
    assert fingerprint(_program(price=5.0)) != fingerprint(program)
    refusal = SurrogateBackend(tmp_path).refusal(_program(price=5.0), EXPECTATION)
    assert refusal is not None
    assert "run hedgecast train-surrogate" in refusal


def test_a_damaged_surrogate_is_refused(surrogate: Surrogate, tmp_path: Path) -> None:
    surrogate.save(tmp_path)
    weights = tmp_path / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-10] + b"0123456789")
    with pytest.raises(BundleError, match=r"weights\.npz is not the file that was saved"):
        Surrogate.load(tmp_path)
    with pytest.raises(BundleError, match="no readable surrogate"):
        Surrogate.load(tmp_path / "nowhere")


def test_training_is_reproducible_and_leaves_the_global_seed(
    program: TwoStageProgram, pool: torch.Tensor
) -> None:
    tiny = dataclasses.replace(CONFIG, num_instances=20, num_calibration=5, num_test=5, num_epochs=2)
    before = torch.random.get_rng_state()
    one, other = (train_surrogate(program, pool, config=tiny) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for key, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[key])
    assert one.gate == other.gate
    # Five calibration sets cannot prove a share of 5 %.
    assert one.gate.max_doubt == -1.0


def test_the_threshold_is_the_largest_that_is_proven() -> None:
    doubt = torch.arange(1.0, 1001.0, dtype=torch.float64)
    harmless = torch.zeros(1000, dtype=torch.bool)
    assert calibrated_threshold(doubt, harmless, 0.05, 0.9) == 1000.0
    above = doubt > 500
    assert 400.0 <= calibrated_threshold(doubt, above, 0.05, 0.9) <= 526.0
    assert calibrated_threshold(doubt, ~harmless, 0.05, 0.9) == -1.0
    assert calibrated_threshold(doubt[:20], harmless[:20], 0.05, 0.9) == -1.0
    assert calibrated_threshold(doubt[:0], harmless[:0], 0.05, 0.9) == -1.0


def test_the_threshold_keeps_its_promise() -> None:
    # Harm of probability doubt: among the trusted, more than a tenth may be harmful in 10 % of draws.
    generator = torch.Generator().manual_seed(5)
    broken = 0
    for _ in range(200):
        doubt = torch.rand(300, generator=generator, dtype=torch.float64)
        harmful = torch.rand(300, generator=generator, dtype=torch.float64) < doubt
        limit = calibrated_threshold(doubt, harmful, 0.1, 0.9)
        broken += limit > 0.2  # the true share below a limit t is t / 2
    assert broken <= 20


def test_quantiles_are_those_of_the_weighted_set() -> None:
    values = torch.arange(1.0, 101.0, dtype=torch.float64).reshape(1, 100, 1)
    equal = torch.full((1, 100), 0.01, dtype=torch.float64)
    found = describe(values, equal, torch.zeros(1, 0, dtype=torch.float64))[0]
    assert found[0].item() == pytest.approx(50.5)
    assert found[1].item() == pytest.approx(values.std(unbiased=False).item(), rel=1e-6)
    expected = [100 * level + 0.5 for level in LEVELS]
    np.testing.assert_allclose(found[2:], expected, rtol=1e-12)


def test_one_scenario_describes_itself() -> None:
    found = describe(torch.full((2, 1, 2), 3.0), torch.ones(2, 1), torch.zeros(1, 0))
    torch.testing.assert_close(found[:, [0, 1]], torch.full((2, 2), 3.0))
    torch.testing.assert_close(found[:, 4:], torch.full((2, 2 * len(LEVELS)), 3.0))


def test_scenarios_are_sorted_entry_by_entry() -> None:
    uncertain = torch.tensor([[[2.0, 1.0], [1.0, 5.0], [1.0, 4.0], [1.0, 4.0]]])
    moved, weights = in_order(uncertain, torch.tensor([[0.1, 0.2, 0.4, 0.3]]))
    assert moved.tolist() == [[[1.0, 4.0], [1.0, 4.0], [1.0, 5.0], [2.0, 1.0]]]
    torch.testing.assert_close(weights, torch.tensor([[0.3, 0.4, 0.2, 0.1]]))


def test_the_projection_is_the_nearest_feasible_decision(program: TwoStageProgram) -> None:
    wish = torch.tensor([[30.0, 20.0, -5.0], [5.0, 6.0, 7.0]], dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    inputs = program.inputs(torch.zeros(2, 1, SIZE, dtype=torch.float64))
    found = project(program, inputs, wish, scale)
    nearest = cp.Variable(SIZE)
    distance = cp.sum_squares(cp.multiply(1 / scale.numpy(), nearest - wish[0].numpy()))
    cp.Problem(cp.Minimize(distance), [nearest >= 0, cp.sum(nearest) <= 40]).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(found.flat[0], nearest.value, atol=1e-5)
    torch.testing.assert_close(found.flat[1], wish[1], rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, r"budget = 0\.0: must be above 0"),
        ({"risk": 1.0}, r"risk = 1\.0: must lie between 0 and 1"),
        ({"num_members": 0}, "num_members = 0: must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SurrogateConfig(**changes)


def test_a_measure_on_regret_is_refused(program: TwoStageProgram, pool: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="trained on cost; leave regret- out"):
        train_surrogate(program, pool, risk=Risk.parse("regret-cvar:0.9"), config=CONFIG)
