"""Which scenarios drive a decision, and what the plan without hedge would be.

With weights p on the sample, z(p) the decision. The influence of scenario s is how the decision moves as
weight goes to s and away from all alike,

    p_s dz/de  at  p + e (delta_s - p),   that is   p_s (dz/dp_s - sum_r p_r dz/dp_r)

so that, to first order, it is the shift of the decision if the scenario were twice as likely. The derivative
is taken on the central path a little off the optimum (barrier `_SMOOTHING` of the cost's size): the optimum
of a sample is a corner as a rule, whose derivative is zero or none.

Source: Efron (1982), The Jackknife, the Bootstrap and Other Resampling Plans, section 6.2 (the infinitesimal
jackknife).
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from hedgecast.core.errors import ProgramError
from hedgecast.programs.measures import expectation
from hedgecast.service.answers import ExplainAnswer, Influence
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.queries import ExplainQuery
from hedgecast.service.sample import TOLERANCE, Sample

# Share of the expected cost's size.
_SMOOTHING = 1e-4


def explain(query: ExplainQuery, model: ServedModel, sample: Sample, budget: Budget) -> ExplainAnswer:
    """The most influential scenarios, and the decision for the mean scenario with what it costs.

    Raises
    ------
    SolveError
        The program has no usable decision, or the mean scenario none.
    ProgramError
        No solver has derivatives for the program.
    DeadlineError
        The budget ran out.
    """
    budget.check("the solve")
    started = time.perf_counter()
    program, given, values, weights = sample.program, sample.given, sample.values, sample.weights
    decision = program.solve(values, weights, given, risk=query.risk, tolerance=TOLERANCE).require_optimal()
    solved = time.perf_counter()
    budget.check("the influence of the scenarios")
    moves = decision_moves(query, sample, 1.0 + abs(float(decision.objective[0])))
    budget.check("the plan for the mean scenario")
    mean = (weights[:, :, None] * values).sum(dim=1, keepdim=True)
    naive = program.solve(mean, None, given, tolerance=TOLERANCE).require_optimal()
    with torch.no_grad():
        unhedged = program.value(naive.flat, values, given, tolerance=TOLERANCE)
    expected = float((weights * decision.scenario_costs).sum())
    done = time.perf_counter()
    return ExplainAnswer(
        model=model.description,
        decision=sample.arrays(decision.values),
        objective=float(decision.objective[0]),
        expected_cost=expected,
        influences=_strongest(query, sample, moves, decision.scenario_costs[0]),
        unhedged=sample.arrays(naive.values),
        unhedged_planned_cost=float(naive.objective[0]),
        unhedged_expected_cost=float(expectation(unhedged, weights)),
        source=sample.judgement.source,
        warnings=sample.judgement.warnings,
        scenario_fingerprint=sample.scenarios.fingerprint(),
        scenario_seconds=sample.seconds,
        solve_seconds=solved - started,
        statistics_seconds=done - solved,
    )


def decision_moves(query: ExplainQuery, sample: Sample, scale: float) -> Tensor:
    """(S, N) influence of each scenario on the decision; see the module's formula.

    Parameters
    ----------
    query : ExplainQuery
    sample : Sample
    scale : float
        Size of the cost, for the smoothing.

    Raises
    ------
    ProgramError
        No solver has derivatives for the program.
    """
    layer = sample.program.layer(risk=query.risk, smoothing=_SMOOTHING * scale)
    weights = sample.weights.clone().requires_grad_()
    flat = layer(sample.values, weights, sample.given)
    if not bool(torch.isfinite(flat).all()):
        raise ProgramError("the decision has no derivative under these scenarios: it did not converge")
    slopes = torch.stack([_slope(flat[0, entry], weights) for entry in range(flat.shape[1])], dim=1)
    p = sample.weights[0][:, None]
    return p * (slopes - (p * slopes).sum(dim=0, keepdim=True))


def _slope(entry: Tensor, weights: Tensor) -> Tensor:
    """(S,) derivative of one entry of the decision."""
    (slope,) = torch.autograd.grad(entry, weights, retain_graph=True)
    return slope[0]


def _strongest(query: ExplainQuery, sample: Sample, moves: Tensor, costs: Tensor) -> tuple[Influence, ...]:
    shifts = moves.norm(dim=1)
    order = torch.argsort(shifts, descending=True, stable=True)[: query.top_scenarios]
    return tuple(
        Influence(
            scenario=int(index),
            probability=float(sample.weights[0, index]),
            shift=float(shifts[index]),
            direction=sample.arrays(sample.program.unflatten(moves[index][None])),
            cost=float(costs[index]),
        )
        for index in order
    )
