"""A caller's plans against each other and against the best one, over common scenarios.

The best plan is made on one sample and all plans are compared on another, so that it has no advantage of
having seen it; where the caller brings the scenarios there is only one sample, and it has. Differences of
costs are paired by scenario: the interval of a mean difference is Student's.

Source: Law (2015), Simulation Modeling and Analysis, section 10.2.1.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import torch
from scipy.stats import t as student
from torch import Tensor

from hedgecast.programs.information import Information
from hedgecast.programs.measures import expectation, risk_value
from hedgecast.programs.risk import Risk
from hedgecast.service.answers import Difference, EvaluateAnswer, Evaluation, Violation
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.queries import EvaluateQuery
from hedgecast.service.sample import TOLERANCE, Sample
from hedgecast.service.solve import best_costs
from hedgecast.service.statistics import standard_error

# Of a constraint, relative to 1 + the largest entry of the plan: what is less is rounding.
_FEASIBILITY = 1e-6
_MOST_DIAGNOSED = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    label: str
    costs: Tensor
    """(S,): infinite where a scenario has no recourse."""
    violations: tuple[Violation, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Common:
    """The scenarios of the comparison."""

    sample: Sample
    values: Tensor
    """(1, S, D)."""
    weights: Tensor
    """(1, S)."""
    best: Tensor
    """(S,) wait-and-see costs."""
    risk: Risk
    confidence: float


def evaluate(query: EvaluateQuery, model: ServedModel, sample: Sample, budget: Budget) -> EvaluateAnswer:
    """The caller's plans ranked, with intervals of what they cost more than the best one and the leader.

    Raises
    ------
    SolveError
        The program has no usable decision, or a scenario none if it were known.
    DeadlineError
        The budget ran out.
    """
    budget.check("the best plan")
    started = time.perf_counter()
    program, given = sample.program, sample.given
    optimum = program.solve(sample.values, sample.weights, given, risk=query.risk, tolerance=TOLERANCE)
    optimum.require_optimal()
    solved = time.perf_counter()
    budget.check("the comparison")
    compared = sample if sample.fresh is None else dataclasses.replace(sample, scenarios=sample.fresh)
    known = Information(program, compared.values, compared.weights, given, tolerance=TOLERANCE)
    common = _Common(
        sample=compared,
        values=compared.values,
        weights=compared.weights,
        best=best_costs(known),
        risk=query.risk,
        confidence=query.confidence,
    )
    named = {candidate.label: candidate.values for candidate in query.candidates}
    plans = []
    for label, values in named.items():
        budget.check(f"plan {label!r}")
        tensors = {name: torch.from_numpy(value)[None] for name, value in values.items()}
        plans.append(_plan(label, program.flatten(tensors), common))
    best = _plan("", optimum.flat, common)
    ranked = sorted(plans, key=lambda plan: (bool(plan.violations), _objective(plan, common)))
    evaluations = tuple(_evaluation(plan, best, ranked[0], common) for plan in ranked)
    done = time.perf_counter()
    return EvaluateAnswer(
        model=model.description,
        evaluations=evaluations,
        best=_evaluation(best, best, ranked[0], common),
        best_decision=sample.arrays(optimum.values),
        source=sample.judgement.source,
        warnings=sample.judgement.warnings,
        scenario_fingerprint=compared.scenarios.fingerprint(),
        confidence=query.confidence,
        scenario_seconds=sample.seconds,
        solve_seconds=solved - started,
        statistics_seconds=done - solved,
    )


def paired(differences: Tensor, weights: Tensor, confidence: float) -> Difference | None:
    """The mean of paired differences (S,) with its two-sided Student interval; None where not finite.

    With one scenario there is no error to state: the interval is the whole line.
    """
    if not bool(torch.isfinite(differences[weights > 0]).all()):
        return None
    mean, error = float(expectation(differences, weights)), float(standard_error(differences, weights))
    count = int((weights > 0).sum())
    if count < 2:
        return Difference(mean=mean, standard_error=0.0, lower_bound=-math.inf, upper_bound=math.inf)
    reach = float(student.ppf(0.5 + 0.5 * confidence, df=count - 1)) * error
    return Difference(mean=mean, standard_error=error, lower_bound=mean - reach, upper_bound=mean + reach)


def _plan(label: str, flat: Tensor, common: _Common) -> _Plan:
    program, given = common.sample.program, common.sample.given
    with torch.no_grad():
        costs = program.value(flat, common.values, given, tolerance=TOLERANCE)[0]
    scale = _FEASIBILITY * (1.0 + float(flat.abs().max()))
    broken = [
        Violation(constraint=name, amount=amount, scenarios=0)
        for name, amount in program.violations_by_name(flat, given)
        if amount > scale
    ]
    without = torch.nonzero(torch.isposinf(costs) & (common.weights[0] > 0))[:, 0].tolist()
    return _Plan(label=label, costs=costs, violations=(*broken, *_recourse(flat, without, common)))


def _recourse(flat: Tensor, scenarios: Sequence[int], common: _Common) -> list[Violation]:
    """What leaves scenarios without recourse; named from the first few of them."""
    if not scenarios:
        return []
    program = common.sample.program
    given = program.reader.given_entries(common.sample.given, flat)[0].numpy()
    names: list[str] = []
    for scenario in scenarios[:_MOST_DIAGNOSED]:
        names += program.diagnosis.recourse(flat[0].numpy(), common.values[0, scenario].numpy(), given)
    found = dict.fromkeys(names or ["the recourse"])
    return [Violation(constraint=name, amount=math.inf, scenarios=len(scenarios)) for name in found]


def _objective(plan: _Plan, common: _Common) -> float:
    return float(risk_value(common.risk, plan.costs, common.weights[0], common.best))


def _evaluation(plan: _Plan, best: _Plan, leader: _Plan, common: _Common) -> Evaluation:
    weights = common.weights[0]
    regrets = plan.costs - common.best
    finite = bool(torch.isfinite(regrets[weights > 0]).all())

    def above(other: _Plan) -> Difference | None:
        return paired(plan.costs - other.costs, weights, common.confidence)

    return Evaluation(
        label=plan.label,
        feasible=not plan.violations,
        violations=plan.violations,
        objective=_objective(plan, common),
        expected_cost=float(expectation(plan.costs, weights)),
        expected_regret=float(expectation(regrets, weights)),
        expected_regret_standard_error=float(standard_error(regrets, weights)) if finite else math.inf,
        above_best=above(best),
        above_leader=above(leader),
    )
