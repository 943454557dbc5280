"""From one sample to a decision with everything an answer says about it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import NotConvergedError
from hedgecast.outcomes import band_of
from hedgecast.programs.information import Information, interval_of
from hedgecast.programs.measures import conditional_value_at_risk, expectation
from hedgecast.programs.prices import Prices, Stage
from hedgecast.programs.replications import replicated_gaps, tail_threshold
from hedgecast.programs.solution import Decision, Verdict
from hedgecast.service.answers import (
    Bands,
    ConstraintPrice,
    Gap,
    Sensitivity,
    Solution,
    SolveReport,
    Statistics,
)
from hedgecast.service.budget import Budget
from hedgecast.service.queries import DecideQuery
from hedgecast.service.sample import TOLERANCE, Sample, priced, scenario_arrays, to_numpy
from hedgecast.service.statistics import quantiles, standard_error

BAND_LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
"""Levels that outcomes are held against."""
# Under this many scenarios a tail's mean is mostly noise.
_FEWEST_IN_TAIL = 5.0


def solve_query(query: DecideQuery, sample: Sample, budget: Budget) -> Solution:
    """The decision for one context's scenarios with everything an answer says about it.

    Parameters
    ----------
    query : DecideQuery
        Already checked against the model.
    sample : Sample
        One context.
    budget : Budget
        Asked between stages.

    Raises
    ------
    SolveError
        The program has no usable decision under these scenarios.
    DeadlineError
        The budget ran out.
    """
    values, weights, given = sample.values, sample.weights, sample.given
    budget.check("the solve")
    started = time.perf_counter()
    decision, prices = _decided(query, sample)
    solved = time.perf_counter()
    budget.check("the statistics")
    optimum = decision if query.risk.neutral else None
    known = Information(sample.program, values, weights, given, tolerance=TOLERANCE, optimum=optimum)
    statistics, regrets = _statistics(query, decision, known, budget)
    gap = _gap(query, sample, decision, regrets, budget)
    done = time.perf_counter()
    return Solution(
        decision=sample.arrays(decision.values),
        statistics=statistics,
        report=SolveReport(
            primal_residual=float(decision.primal_residual[0]),
            dual_residual=float(decision.dual_residual[0]),
            relative_gap=float(decision.gap[0]),
            iterations=int(decision.iterations[0]),
            backend=decision.backend,
        ),
        source=sample.judgement.source,
        scenario_fingerprint=sample.scenarios.fingerprint(),
        scenarios=scenario_arrays(sample.scenarios) if query.return_scenarios else None,
        gap=gap,
        prices=_constraint_prices(prices),
        sensitivities=_sensitivities(sample, prices),
        scenario_seconds=sample.seconds,
        solve_seconds=solved - started,
        statistics_seconds=done - solved,
        warnings=(*sample.judgement.warnings, *_warnings(query, statistics, prices)),
        bands=_bands(sample, decision) if query.keep else None,
    )


def _bands(sample: Sample, decision: Decision) -> Bands:
    paths = to_numpy(sample.scenarios.paths[0])
    names = sample.scenarios.names
    return Bands(
        cost=band_of(to_numpy(decision.scenario_costs[0]), BAND_LEVELS),
        series={name: band_of(paths[:, :, index], BAND_LEVELS) for index, name in enumerate(names)},
    )


def _decided(query: DecideQuery, sample: Sample) -> tuple[Decision, Prices | None]:
    arguments = (sample.values, sample.weights, sample.given)
    if query.prices:
        program = priced(sample.program)
        decision = program.solve(*arguments, risk=query.risk, tolerance=TOLERANCE)
        if decision.verdict(0) is Verdict.OPTIMAL:
            return decision, program.prices(decision)
    # Its messages name the constraints as they were written.
    decision = sample.program.solve(*arguments, risk=query.risk, tolerance=TOLERANCE)
    return decision.require_optimal(), None


def _statistics(
    query: DecideQuery, decision: Decision, known: Information, budget: Budget
) -> tuple[Statistics, Tensor]:
    """The statistics and the regrets (S,) that they are made of."""
    costs, weight = decision.scenario_costs[0], known.inputs.probabilities[0]
    regrets = costs - best_costs(known)
    budget.check("the plan without risk aversion")
    known.optimum.require_optimal()
    budget.check("the plan for the mean scenario")
    stochastic = float(known.value_of_stochastic_solution)
    levels, tail = query.quantile_levels, query.tail_level
    found = Statistics(
        objective=float(decision.objective[0]),
        expected_cost=float(expectation(costs, weight)),
        expected_regret=float(expectation(regrets, weight)),
        expected_regret_standard_error=standard_error(regrets, weight),
        cost_quantiles=tuple(zip(levels, quantiles(costs, weight, levels), strict=True)),
        regret_quantiles=tuple(zip(levels, quantiles(regrets, weight, levels), strict=True)),
        cost_cvar=float(conditional_value_at_risk(costs, weight, tail)),
        regret_cvar=float(conditional_value_at_risk(regrets, weight, tail)),
        tail_level=tail,
        expected_value_of_perfect_information=float(known.value_of_perfect_information),
        value_of_stochastic_solution=stochastic if math.isfinite(stochastic) else None,
    )
    return found, regrets


def best_costs(known: Information) -> Tensor:
    """(S,) least cost under each scenario.

    Raises
    ------
    NotConvergedError
        It was not found for a scenario.
    """
    best = known.scenario_wait_and_see[0]
    unsolved = torch.nonzero(~torch.isfinite(best))[:, 0]
    if unsolved.numel():
        raise NotConvergedError(
            f"the least cost under {unsolved.numel()} of {best.numel()} scenarios (the first is "
            f"{int(unsolved[0])}) was not found: regret cannot be stated; scale the program",
            scenario=int(unsolved[0]),
        )
    return best


def _gap(
    query: DecideQuery, sample: Sample, decision: Decision, regrets: Tensor, budget: Budget
) -> Gap | None:
    if not query.gap_replications or sample.fresh is None:
        return None
    count = query.gap_replications
    fresh = sample.fresh.values.double().reshape(1, count, query.scenario_count, -1)
    tail = regrets if query.risk.on_regret else decision.scenario_costs[0]
    gaps = replicated_gaps(
        sample.program,
        decision.flat,
        fresh,
        sample.given,
        risk=query.risk,
        threshold=tail_threshold(tail, sample.weights[0], query.risk),
        tolerance=TOLERANCE,
        check=lambda: budget.check("the optimality gap's replications"),
    )
    interval = interval_of(gaps, query.gap_confidence)
    return Gap(
        estimate=float(interval.gap),
        standard_error=float(interval.standard_error),
        upper_bound=float(interval.upper),
        confidence=query.gap_confidence,
        replications=count,
    )


def _constraint_prices(prices: Prices | None) -> tuple[ConstraintPrice, ...]:
    if prices is None:
        return ()
    return tuple(
        ConstraintPrice(
            constraint=price.constraint,
            recourse=price.stage is Stage.RECOURSE,
            values=to_numpy(price.values),
        )
        for price in prices.constraints
    )


def _sensitivities(sample: Sample, prices: Prices | None) -> tuple[Sensitivity, ...]:
    if prices is None:
        return ()
    units = {spec.name: spec.unit for spec in sample.description.given}
    return tuple(
        Sensitivity(name=name, unit=units.get(name, ""), values=to_numpy(slope))
        for name, slope in prices.given.items()
    )


def _warnings(query: DecideQuery, statistics: Statistics, prices: Prices | None) -> Iterator[tuple[str, str]]:
    levels = [statistics.tail_level]
    if not query.risk.neutral and query.risk.alpha < 1.0:
        levels.append(query.risk.alpha)
    share = 1.0 - max(levels)
    if share * query.scenario_count < _FEWEST_IN_TAIL:
        in_tail = share * query.scenario_count
        yield (
            "THIN_TAIL",
            f"the worst {share:.3g} of {query.scenario_count} scenarios is {in_tail:.3g} of them, so its "
            "mean is mostly noise; ask for more scenarios or a lower level",
        )
    if statistics.value_of_stochastic_solution is None:
        yield (
            "MEAN_PLAN_UNUSABLE",
            "the plan for the mean scenario has no finite expected cost, so the value of the stochastic "
            "solution is not set",
        )
    if query.prices and prices is None:
        yield (
            "PRICES_UNKNOWN",
            "the solver of this program has no multipliers, so shadow prices and sensitivities are not set",
        )
