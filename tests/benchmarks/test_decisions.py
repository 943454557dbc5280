"""What the benchmark tasks are made of: programs, truths and figures, each against something independent."""

import dataclasses
import importlib
import pathlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np
import pytest
import torch

from hedgecast.learning.budget import Budget
from hedgecast.learning.fit import Fitted, Job, Progress, Trainer, Weights, train_here
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.part import Part
from hedgecast.programs.catalog import battery_storage, freight_routing, portfolio, product_allocation
from hedgecast.programs.risk import Risk

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks" / "decisions"
NAMES = {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Imports a module of the benchmarks by name; their names are free again afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield module
    for name in NAMES:
        sys.modules.pop(name, None)


def _draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "dim"), [("battery", 24), ("portfolio", 20)])
def test_a_threshold_as_decision_is_the_risk_measure(load, name: str, dim: int) -> None:
    module = load(name)
    if name == "battery":
        plain, values = battery_storage.build(24), 40.0 + 10.0 * _draws(2, 30, dim)
    else:
        plain = portfolio.build(1, objective="mean-cvar", transaction_cost=module.COST)
        values = 0.001 + 0.03 * _draws(2, 30, dim)
    risk = Risk(beta=module.BETA, alpha=module.ALPHA)
    with_threshold = module.program(24 if name == "battery" else 1).solve(values)
    as_risk = plain.solve(values, risk=risk)
    torch.testing.assert_close(with_threshold.objective, as_risk.objective, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["retail", "freight"])
def test_below_zero_counts_as_none_and_moves_no_decision_of_what_is_above(load, name: str) -> None:
    module = load(name)
    steps = 1 if name == "retail" else module.NUM_WEEKS
    program = module.program(steps)
    amounts = (20.0 + 15.0 * _draws(3, 12, program.num_uncertain)).clamp(min=0.0)
    if name == "retail":
        plain = product_allocation.build(
            1, price=module.PRICE, capacity=2000.0, max_stock=5000.0, substitution="none"
        )
    else:
        plain = freight_routing.build(
            steps,
            idle_cost=module.IDLE,
            lateness_cost=0.0,
            planned_tonnes=0.0,
            max_route_tonnes=100.0,
            max_truck_tonnes=200.0,
        )
    expected = plain.solve(amounts).objective
    torch.testing.assert_close(program.solve(amounts).objective, expected, rtol=1e-6, atol=1e-4)
    decision = program.solve(amounts).flat
    below = amounts.clone()
    below[amounts == 0.0] = -5.0
    penalty = 2.0 * module.PRICE if name == "retail" else 5.0 * module.IDLE
    surcharge = penalty * 5.0 * (amounts == 0.0).sum(dim=2)
    lower = program.value(decision, below)
    torch.testing.assert_close(lower, program.value(decision, amounts) + surcharge, rtol=1e-6, atol=1e-3)


def test_shared_utility_decides_as_the_cone_solver_does(load) -> None:
    module = load("utility")
    profits = product_allocation.exponential_profits(60, generator=torch.Generator().manual_seed(3))
    for limit in (2.0, 0.3):
        plain = product_allocation.build_exponential(1, num_products=10, limit=limit)
        solved = plain.solve(profits[None], backend="reference")
        shared = module.SharedUtility(10, limit)
        amounts, _ = shared.layer().judged(profits.reshape(12, 5, 10))
        assert bool((amounts == amounts[0]).all())
        cost = shared.value(amounts[:1], profits[None]).mean()
        torch.testing.assert_close(cost, solved.objective[0], rtol=1e-5, atol=1e-6)
        assert float(amounts.min()) >= 0.0
        assert float(amounts.max()) <= limit


@pytest.mark.parametrize("limit", [2.0, 0.6])
def test_shared_decision_has_the_slope_of_its_minimizer(load, limit: float) -> None:
    module = load("utility")
    profits = product_allocation.exponential_profits(200, generator=torch.Generator().manual_seed(5))
    amounts = module.minimizer(profits, limit)
    assert bool((amounts == limit).any()) == (limit < 1.0)
    assert bool((amounts < limit).any())
    some = profits[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda first: module.decided(torch.cat([first, profits[3:]]), limit), (some,), eps=1e-5, atol=1e-5
    )


def test_cost_by_the_law_is_that_of_many_draws_and_least_at_the_optimum(load) -> None:
    module = load("exponential")
    best = torch.full((10,), module.OPTIMAL_AMOUNT, dtype=torch.float64)
    assert module.law_cost(best) == pytest.approx(module.POPULATION_OPTIMUM, abs=1e-5)
    assert module.law_cost(best + 0.01) > module.law_cost(best) < module.law_cost(best - 0.01)
    profits = product_allocation.exponential_profits(200_000, generator=torch.Generator().manual_seed(4))
    # Small amounts, whose cost has a light tail. Five standard errors.
    amounts = torch.linspace(0.05, 0.3, 10, dtype=torch.float64)
    costs = torch.exp(-profits @ amounts)
    error = float(costs.std()) / len(costs) ** 0.5
    assert module.law_cost(amounts) == pytest.approx(float(costs.mean()), abs=5.0 * error)


def _trained_by(module: ModuleType, trainer: Trainer, **settings: object) -> tuple[Fitted, Job]:
    """What ``trainer`` keeps of a run of two joint epochs on few draws, and the run."""
    profits = product_allocation.exponential_profits(400, generator=torch.Generator().manual_seed(6))
    whole = Part.of_arrays(torch.zeros(len(profits), 1), profits.unsqueeze(1))
    config = dataclasses.replace(
        module.SETTINGS, epochs=1, batch_days=64, joint_epochs=2, joint_learning_rate=0.01, **settings
    )
    kept: list[tuple[Fitted, Job]] = []

    def keeping(job: Job, progress: Progress | None = None) -> Fitted:
        fitted = trainer(job, progress)
        kept.append((fitted, job))
        return fitted

    program = module.SharedUtility(10, module.LIMIT)
    fit_diffusion(
        whole.select(slice(0, 300)), whole.select(slice(300, 400)), config, program, trainer=keeping
    )
    return kept[0]


def _same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_joint_epoch_that_costs_least_is_kept(load, monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    module = load("exponential")
    judged: list[Weights] = []

    def planted(job: Job, weights: Weights, draws: torch.Tensor) -> float:
        judged.append(weights)
        return 0.0 if len(judged) == best + 1 else 1.0

    monkeypatch.setattr(module, "_cost_of", planted)
    fitted, _ = _trained_by(
        module,
        module._choosing(torch.zeros(1, 10).double()),
        noise_matching_margin=9.0,
        budget=Budget.Config(score_margin=9.0, score_scenarios=2),
    )
    assert len(judged) == 3
    assert fitted.history.best_joint_epoch == best
    assert fitted.joint is not None
    assert _same(fitted.joint, judged[best])
    # The weights that joint training starts from come first, and no two are the same.
    assert _same(judged[0], fitted.pretrained)
    assert not _same(judged[1], judged[0])
    assert not _same(judged[2], judged[1])


def test_a_joint_epoch_beyond_the_margins_is_not_kept(load, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("exponential")
    costs = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(module, "_cost_of", lambda *_: next(costs))
    fitted, _ = _trained_by(
        module,
        module._choosing(torch.zeros(1, 10).double()),
        budget=Budget.Config(score_margin=1e-9, score_scenarios=2),
        task_share=1.0,
    )
    assert min(fitted.history.joint_score_ratios) > 1.0 + 1e-9
    assert fitted.history.best_joint_epoch == 0
    assert fitted.joint is not None
    assert _same(fitted.joint, fitted.pretrained)


def test_cost_that_chooses_is_that_of_the_weights_own_law(load, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("exponential")
    monkeypatch.setattr(module, "NUM_CHOOSING", 20_000)
    _, job = _trained_by(module, train_here)
    blank = {name: value.clone() for name, value in job.model.denoiser.state_dict().items()}
    # Without its last layer the network draws the whitening's normal law, whose decision is known:
    # E exp(-y'z) = exp(-m'z + z'Cz / 2) is least at z = C^-1 m.
    blank |= {"exit.weight": 0.0 * blank["exit.weight"], "exit.bias": 0.0 * blank["exit.bias"]}
    law = job.model.whitening
    context = law.standardized(torch.zeros(1, 1))
    mean, factor = law.mean(context)[0].double(), (law.size(context) * law.factor).double()
    best = torch.linalg.solve(factor @ factor.T, mean).clamp(0.0, module.LIMIT)
    # Few draws of small profits: what is priced is the decision, not a tail that its own noise is lost in.
    draws = 0.1 * product_allocation.exponential_profits(500, generator=torch.Generator().manual_seed(8))
    expected = float(torch.exp(-draws @ best).mean())
    assert expected < 0.99
    # A hundredth of each amount and more moves the cost by that of 1 - expected.
    assert 1.0 - module._cost_of(job, blank, draws) == pytest.approx(1.0 - expected, rel=0.05)


@pytest.mark.parametrize("shape", ["normal", "asymmetric", "bimodal", "heavy-tailed"])
def test_synthetic_residuals_have_mean_zero_and_variance_one(load, shape: str) -> None:
    module = load("synthetic")
    draws = np.random.default_rng(7)
    values = module._standard(shape, draws.standard_normal(1_000_000), draws)
    # Student t with 3 degrees of freedom has no fourth moment: its sample variance is compared loosely.
    assert values.mean() == pytest.approx(0.0, abs=5e-3)
    assert values.var() == pytest.approx(1.0, abs=0.2 if shape == "heavy-tailed" else 0.01)


def test_synthetic_oracle_is_not_worse_than_the_mean(load, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("synthetic")
    # A tenth of its draws: it decides worse so, and ten times as fast.
    monkeypatch.setattr(module, "ORACLE_SCENARIOS", 200)
    task = module.task("normal")
    context = task.test.context
    mean = 10.0 + context @ torch.from_numpy(np.cos(np.arange(6)[:, None] * np.arange(1, 5) / 6)).T
    came = task.test.targets.flatten(1).unsqueeze(1)
    mean_cost = float(task.program().value(mean.clamp(min=0.0), came).mean())
    assert module.oracle("normal")["cost"] < 0.5 * mean_cost


def test_published_training_is_not_charged_for_a_score_that_it_does_not_take(load) -> None:
    module = load("training_cost")
    for setting in module.SETTINGS:
        config, published = module._config(setting), setting.sampler_steps >= 1000
        # The fewest that there are: a step scores its scenarios in any case.
        assert config.budget.score_scenarios == (2 if published else Budget.Config().score_scenarios)
        assert config.checkpointed is setting.checkpointed


def test_portfolio_pays_for_turnover_once_where_nothing_moves(load) -> None:
    module = load("portfolio")
    flat = np.zeros((4, 5))
    net = module._held(module._equal, flat)
    np.testing.assert_allclose(net, [-module.COST, 0.0, 0.0, 0.0], atol=1e-15)


def test_portfolio_figures_by_hand(load) -> None:
    module = load("portfolio")
    net = np.arange(100.0) / 1000.0 - 0.02
    risk, sharpe = module._figures(net)
    # The worst five losses of a hundred: 0.020, 0.019, .., 0.016.
    assert risk == pytest.approx(1e4 * (0.5 * -net.mean() + 0.5 * 0.018))
    assert sharpe == pytest.approx(net.mean() / net.std() * np.sqrt(252 / 5))


@pytest.mark.shared
def test_pjm_days_are_the_published_ones(load) -> None:
    module = load("pjm")
    days = module.published()
    context, groups = module._joined(days.blocks)
    assert context.shape == (3192, 149)
    assert days.targets.shape == (3192, 24)
    assert np.isfinite(context).all()
    np.testing.assert_array_equal(days.blocks["past_load"][1:], days.targets[:-1])
    assert len(set(groups)) == 11
    # The sensor that stands still, over the whole test period.
    assert np.unique(days.blocks["temp"][-module.NUM_TEST :]).tolist() == [1.4]
    assert str(days.days[-module.NUM_TEST]) == "2014-12-29"


@pytest.mark.shared
def test_pjm_choice_leaves_the_broken_temperature_out(load) -> None:
    module = load("pjm")
    days = module.published()
    choice = module.choice(days)
    assert "temperature" in choice.dropped
    assert "past_load" in choice.kept


@pytest.mark.shared
def test_pjm_days_with_a_standing_temperature_come_before_the_others(load) -> None:
    module = load("pjm")
    task, plain = module.task("published", still=True), module.task("published")
    num_days = len(plain.train)
    assert len(task.train) == 2 * num_days
    assert torch.equal(task.train.context[num_days:], plain.train.context)
    assert torch.equal(task.train.targets[:num_days], plain.train.targets)
    assert torch.equal(task.test.context, plain.test.context)
    still = task.train.context[:num_days].numpy()
    past, powers = still[:, 24:48], {72: 1, 48: 2, 96: 2, 120: 3}
    assert np.array_equal(np.ptp(past, axis=1), np.zeros(num_days))
    assert len(np.unique(past[:, 0])) > 500
    for first, power in powers.items():
        np.testing.assert_allclose(still[:, first : first + 24], past**power, rtol=1e-12)
    # The rest, load and calendar, is the same; so are the days of the week and the dates.
    rest = [*range(24), *range(144, 149)]
    assert np.array_equal(still[:, rest], plain.train.context.numpy()[:, rest])
    earlier, later = (days.astype(object) for days in (task.train.days[:num_days], plain.train.days))
    assert all(
        (one.weekday(), one.month, one.day, one.year + 28)
        == (other.weekday(), other.month, other.day, other.year)
        for one, other in zip(earlier, later, strict=True)
    )


def test_the_page_gives_the_joint_method_less_another_tasks_method(load) -> None:
    page = load("page")
    assert page._is_shown({"diffusion", "diffusion-dfl"})
    assert page._is_shown({"ridge-residual@pjm-149", "diffusion-dfl"})
    assert not page._is_shown({"ridge-residual", "diffusion-dfl"})
    assert not page._is_shown({"ridge-residual@pjm-149", "diffusion"})
    pair = {"label": "ridge@there", "other": "diffusion-dfl", "num_scenarios": 25}
    line = page._joint_against({**pair, "difference": 0.5, "interval": [0.25, 1.0]})
    turned = page._joint_against(
        {
            **pair,
            "label": "diffusion-dfl",
            "other": "ridge@there",
            "difference": -0.5,
            "interval": [-1.0, -0.25],
        }
    )
    assert line == turned
    assert line.startswith("25 scenarios, diffusion-dfl less ridge@there: -0.5")
