"""Training of a `Surrogate`: scenario sets from a pool, exact decisions, an ensemble, a calibrated gate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError, SolveError
from hedgecast.decisions.projection import project
from hedgecast.decisions.set_features import LEVELS
from hedgecast.decisions.surrogate import Gate, Surrogate, calibrated_threshold, fingerprint
from hedgecast.decisions.surrogate_network import SetMap
from hedgecast.programs.backend import Inputs
from hedgecast.programs.measures import risk_value
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict

# Contexts solved at once: bounds memory.
_BATCH = 64
_WIDTHS = (0.5, 4.0)
"""Smallest and largest width of a neighborhood, in standard deviations."""
# Slack beyond the range of features seen in training.
_MARGIN = 1.05
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SurrogateConfig(Config):
    """How a surrogate is trained."""

    num_instances: int = 2000
    """Scenario sets to train on."""
    num_calibration: int = 500
    """Scenario sets that set the gate, apart from training."""
    num_test: int = 500
    """Scenario sets on which the report is measured, apart from both."""
    num_scenarios: int = 100
    """Scenarios in each set."""
    width: int = 64
    """Hidden units."""
    num_members: int = 3
    """Networks in the ensemble."""
    num_epochs: int = 60
    """Passes over the training sets."""
    batch_size: int = 64
    learning_rate: float = 3e-3
    budget: float = 0.01
    """Relative regret that a trusted decision should not exceed."""
    risk: float = 0.05
    """Largest share of trusted decisions that exceed it."""
    confidence: float = 0.9
    """Probability, over calibration sets, that the share is kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("num_instances", "num_calibration", "num_test", "num_scenarios", "width", "num_members"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be at least 1", key=key)
        if self.num_epochs < 0 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError("num_epochs >= 0, batch_size >= 1 and learning_rate > 0 are needed")
        if self.budget <= 0:
            raise ConfigError(f"budget = {self.budget}: must be above 0", key="budget")
        for key in ("risk", "confidence"):
            if not 0.0 < getattr(self, key) < 1.0:
                raise ConfigError(f"{key} = {getattr(self, key)}: must lie between 0 and 1", key=key)


@dataclasses.dataclass(frozen=True, slots=True)
class Instances:
    """Scenario sets with their exact solutions."""

    inputs: Inputs
    flat: Tensor
    """(I, N) optimal decisions."""
    objective: Tensor
    """(I,) optimal values of the risk measure."""
    seconds: float
    """What the exact solves took."""

    def __len__(self) -> int:
        return int(self.flat.shape[0])


def train_surrogate(
    program: TwoStageProgram,
    pool: Tensor,
    pool_weights: Tensor | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    risk: Risk = EXPECTATION,
    config: SurrogateConfig,
    progress: Progress | None = None,
) -> Surrogate:
    """A surrogate for one program and risk measure.

    Parameters
    ----------
    program : TwoStageProgram
        With a block form.
    pool : Tensor
        (M, D) scenarios from which training sets are drawn: neighborhoods of one of them, of random width.
    pool_weights : Tensor, optional
        (M,) probabilities; equal where left out.
    given : mapping, optional
        Given parameters, the same in all sets; requests with others are solved exactly.
    risk : Risk
        Not on regret.
    config : SurrogateConfig
    progress : callable, optional
        Called with (what, done, all).

    Raises
    ------
    ConfigError
        A measure on regret.
    SolveError
        Some training set has no optimal decision.
    """
    if risk.on_regret:
        raise ConfigError(f"risk {risk}: a surrogate is trained on cost; leave regret- out", key="risk")
    say = progress or (lambda _what, _done, _all: None)
    generator = torch.Generator().manual_seed(config.seed)
    counts = (config.num_instances, config.num_calibration, config.num_test)
    train, calibration, test = (
        _instances(program, pool, pool_weights, given, count, risk, config, generator, say)
        for count in counts
    )
    network = _fitted(program, train, config, generator, say)
    with torch.no_grad():
        box = float(network(train.inputs)[2].max()) * _MARGIN
        doubt, feature, regret = _judged(program, network, calibration, risk)
        inside = feature <= box
        harmful = ~(regret[inside] <= config.budget)
        limit = calibrated_threshold(doubt[inside], harmful, config.risk, config.confidence)
        gate = Gate(budget=config.budget, risk=config.risk, max_doubt=limit, max_feature=box)
        report = _report(program, network, gate, test, risk)
    report.update(exact_seconds=train.seconds + calibration.seconds + test.seconds, config=config.to_dict())
    return Surrogate(
        program=program.name,
        fingerprint=fingerprint(program),
        risk=str(risk),
        network=network.eval(),
        gate=gate,
        report=report,
    )


def neighborhoods(
    pool: Tensor, weights: Tensor | None, count: int, num_scenarios: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scenario sets (count, S, D) and probabilities (count, S), each around one member of the pool.

    A set is drawn from the pool by a Gaussian kernel around its center, of a width between half and four
    standard deviations; every other set has random instead of equal probabilities.
    """
    center, scale = pool.mean(dim=0), pool.std(dim=0, unbiased=False).clamp(min=1e-12)
    standard = (pool - center) / scale
    base = (
        torch.zeros(pool.shape[0], dtype=pool.dtype) if weights is None else weights.clamp(min=1e-300).log()
    )
    sets, probabilities = [], []
    for index in range(count):
        anchor = torch.randint(pool.shape[0], (1,), generator=generator)
        low, high = _WIDTHS
        width = low * (high / low) ** float(torch.rand(1, generator=generator))
        distance = (standard - standard[anchor]).square().mean(dim=1)
        share = torch.softmax(base - distance / (2 * width**2), dim=0)
        picked = torch.multinomial(share, num_scenarios, replacement=True, generator=generator)
        sets.append(pool[picked])
        raw = torch.ones(num_scenarios, dtype=pool.dtype)
        if index % 2:
            raw = -torch.rand(num_scenarios, generator=generator, dtype=pool.dtype).clamp(min=1e-12).log()
        probabilities.append(raw / raw.sum())
    return torch.stack(sets), torch.stack(probabilities)


def _instances(
    program: TwoStageProgram,
    pool: Tensor,
    weights: Tensor | None,
    given: Mapping[str, Any] | None,
    count: int,
    risk: Risk,
    config: SurrogateConfig,
    generator: torch.Generator,
    say: Progress,
) -> Instances:
    sets, probabilities = neighborhoods(pool, weights, count, config.num_scenarios, generator)
    flats, objectives = [], []
    start = time.perf_counter()
    for first in range(0, count, _BATCH):
        part = slice(first, first + _BATCH)
        flat, objective = _solved(program, sets[part], probabilities[part], given, risk)
        flats.append(flat)
        objectives.append(objective)
        say("exact decisions", min(first + _BATCH, count), count)
    seconds = time.perf_counter() - start
    inputs = program.inputs(sets, probabilities, given)
    return Instances(inputs, torch.cat(flats), torch.cat(objectives), seconds)


def _solved(
    program: TwoStageProgram,
    sets: Tensor,
    probabilities: Tensor,
    given: Mapping[str, Any] | None,
    risk: Risk,
) -> tuple[Tensor, Tensor]:
    """Optimal decisions (B, N) and objectives (B,); the reference solves what the default solver gives up."""
    found = program.solve(sets, probabilities, given, risk=risk)
    flat, objective = found.flat, found.objective
    bad = torch.nonzero(found.verdicts != Verdict.OPTIMAL)[:, 0]
    if bad.numel():
        again = program.solve(sets[bad], probabilities[bad], given, risk=risk, backend="reference")
        worst = int(again.verdicts.argmax())
        if again.verdict(worst) is not Verdict.OPTIMAL:
            raise SolveError(
                f"a training set has no optimal decision ({again.verdict(worst).name.lower()}): a surrogate "
                "needs a program that every scenario set of the pool can solve"
            )
        flat, objective = flat.index_copy(0, bad, again.flat), objective.index_copy(0, bad, again.objective)
    return flat, objective


def _fitted(
    program: TwoStageProgram,
    train: Instances,
    config: SurrogateConfig,
    generator: torch.Generator,
    say: Progress,
) -> SetMap:
    num_uncertain = program.num_uncertain
    num_features = num_uncertain * (2 + len(LEVELS)) + program.num_given
    seed = int(torch.randint(2**31, (1,), generator=generator))
    # Layers draw their start from torch's global generator: lend it a seed, and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SetMap(num_features, num_uncertain, program.num_decision, config.width, config.num_members)
    _standardize(network, train)
    features, scenarios, probabilities = (part.detach() for part in network.prepared(train.inputs))
    wanted = (train.flat - network.decision_center) / network.decision_scale
    network.linear.copy_(_ridge(features, wanted))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(config.num_epochs, 1))
    for epoch in range(config.num_epochs):
        order = torch.randperm(len(train), generator=generator)
        for start in range(0, len(train), config.batch_size):
            batch = order[start : start + config.batch_size]
            found = network.standardized(features[batch], scenarios[batch], probabilities[batch])
            loss = (found - wanted[batch]).square().mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
        say("training", epoch + 1, config.num_epochs)
    return network


def _standardize(network: SetMap, train: Instances) -> None:
    features, scenarios, _ = network.prepared(train.inputs)
    for name, values in (
        ("feature", features),
        ("scenario", scenarios.flatten(0, 1)),
        ("decision", train.flat),
    ):
        center, scale = values.mean(dim=0), values.std(dim=0, unbiased=False)
        # What never changed in training has no scale of its own; a change in it must look large.
        floor = 1e-6 * (1.0 + center.abs())
        getattr(network, f"{name}_center").copy_(center)
        getattr(network, f"{name}_scale").copy_(torch.maximum(scale, floor))


def _ridge(features: Tensor, wanted: Tensor, penalty: float = 1e-3) -> Tensor:
    """(C, N) coefficients of least squares with a penalty, both sides being centered."""
    size = features.shape[0]
    moment = features.T @ features / size + penalty * torch.eye(features.shape[1], dtype=features.dtype)
    found: Tensor = torch.linalg.solve(moment, features.T @ wanted / size)
    return found


def _judged(
    program: TwoStageProgram, network: SetMap, instances: Instances, risk: Risk
) -> tuple[Tensor, Tensor, Tensor]:
    """(I,) doubt, largest feature and relative regret of the feasible proposals."""
    wish, doubt, feature = network(instances.inputs)
    feasible = project(program, instances.inputs, wish, network.decision_scale)
    costs = program.costs_of(program.backend(None), feasible.flat, instances.inputs, 1e-7)
    value = risk_value(risk, costs, instances.inputs.probabilities)
    value = torch.where(feasible.verdicts == Verdict.OPTIMAL, value, torch.inf)
    # Relative to the cost itself, and never to less than a thousandth of its usual size.
    size = instances.objective.abs().clamp(min=1e-3 * float(instances.objective.abs().mean()) + 1e-300)
    return doubt, feature, (value - instances.objective) / size


def _report(
    program: TwoStageProgram, network: SetMap, gate: Gate, test: Instances, risk: Risk
) -> dict[str, Any]:
    start = time.perf_counter()
    doubt, feature, regret = _judged(program, network, test, risk)
    seconds = time.perf_counter() - start
    trusted = gate.trusts(doubt, feature)
    kept = regret[trusted]
    finite = kept[torch.isfinite(kept)]
    return {
        "num_test": len(test),
        "trusted_share": float(trusted.double().mean()),
        "trusted_mean_regret": float(finite.mean()) if finite.numel() else None,
        "trusted_largest_regret": float(finite.max()) if finite.numel() else None,
        "trusted_over_budget_share": float((kept > gate.budget).double().mean()) if kept.numel() else None,
        "mean_regret": float(regret[torch.isfinite(regret)].mean()),
        "surrogate_seconds_per_set": seconds / len(test),
        "exact_seconds_per_set": test.seconds / len(test),
    }
