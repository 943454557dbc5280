"""From one member of a solved batch to what its answer says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hedgecast.outcomes import band_of
from hedgecast.programs.information import Information, interval_of
from hedgecast.programs.measures import conditional_value_at_risk, expectation
from hedgecast.programs.prices import Prices, Stage
from hedgecast.programs.solution import Decision
from hedgecast.registry.ladder import Rung
from hedgecast.service.answers import (
    Bands,
    ConstraintPrice,
    Gap,
    ScenarioSource,
    Sensitivity,
    Solution,
    SolveReport,
    Statistics,
)
from hedgecast.service.queries import DecideQuery
from hedgecast.service.sample import Sample, scenario_arrays, to_numpy
from hedgecast.service.statistics import quantiles, standard_error

BAND_LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
"""Levels that outcomes are held against."""
# Under this many scenarios a tail's mean is mostly noise.
_FEWEST_IN_TAIL = 5.0


def solution_of(
    query: DecideQuery,
    sample: Sample,
    member: int,
    decision: Decision,
    prices: Prices | None,
    statistics: Statistics,
    gap: Gap | None,
) -> Solution:
    """What is told of one member of a batch; its solve's durations are left to the caller.

    Parameters
    ----------
    query, sample
        The member's.
    member : int
        Place in the batch.
    decision : Decision
        Of the batch.
    prices, statistics, gap
        The member's.
    """
    return Solution(
        decision=sample.arrays(decision.values, member),
        statistics=statistics,
        report=SolveReport(
            primal_residual=float(decision.primal_residual[member]),
            dual_residual=float(decision.dual_residual[member]),
            relative_gap=float(decision.gap[member]),
            iterations=int(decision.iterations[member]),
            backend=decision.backend,
        ),
        source=sample.judgement.source,
        scenario_fingerprint=sample.scenarios.fingerprint(),
        scenarios=scenario_arrays(sample.scenarios) if query.return_scenarios else None,
        gap=gap,
        prices=_constraint_prices(prices),
        sensitivities=_sensitivities(sample, prices),
        scenario_seconds=sample.seconds,
        solve_seconds=0.0,
        statistics_seconds=0.0,
        warnings=(*sample.judgement.warnings, *_warnings(query, statistics, prices)),
        bands=_bands(sample, decision.scenario_costs[member]) if query.keep else None,
        rungs=_taken(query, sample, trusted=_trusted(decision, member)),
    )


def _taken(query: DecideQuery, sample: Sample, *, trusted: bool) -> frozenset[Rung]:
    """The rungs that made the answer cheaper: not those whose own checks led back to the full way."""
    by_student = sample.judgement.source is ScenarioSource.STUDENT
    left_out = {Rung.SURROGATE_SOLVER: not trusted, Rung.STUDENT_SAMPLER: not by_student}
    return frozenset(rung for rung in query.rungs if not left_out.get(rung, False))


def _trusted(decision: Decision, member: int) -> bool:
    """Whether a learned map decided: then nothing was iterated."""
    return decision.backend == "surrogate" and int(decision.iterations[member]) == 0


def statistics_of(
    queries: Sequence[DecideQuery], decision: Decision, known: Information, regrets: Tensor
) -> list[Statistics]:
    """Those of every member of a batch.

    Parameters
    ----------
    queries : sequence of DecideQuery
        The members'.
    decision, known : Decision, Information
        Of the batch.
    regrets : Tensor
        (B, S).
    """
    members: dict[tuple[tuple[float, ...], float], list[int]] = {}
    for member, query in enumerate(queries):
        members.setdefault((query.quantile_levels, query.tail_level), []).append(member)
    found: dict[int, Statistics] = {}
    for (levels, tail), alike in members.items():
        part = torch.tensor(alike)
        found |= zip(alike, _statistics(levels, tail, part, decision, known, regrets), strict=True)
    return [found[member] for member in range(len(queries))]


def _statistics(
    levels: tuple[float, ...],
    tail: float,
    members: Tensor,
    decision: Decision,
    known: Information,
    regrets: Tensor,
) -> Iterator[Statistics]:
    """Of some members with the same levels."""
    weights = known.inputs.probabilities[members]
    # Costs, then regrets: (2, members, S).
    both = torch.stack([decision.scenario_costs[members], regrets[members]])
    everywhere = weights.expand_as(both)
    cost_quantiles, regret_quantiles = quantiles(both, everywhere, levels).tolist()
    costs_in_tail, regrets_in_tail = conditional_value_at_risk(both, everywhere, tail).tolist()
    means, mean_regrets = expectation(both, everywhere).tolist()
    errors = standard_error(both[1], weights).tolist()
    objectives = decision.objective[members].tolist()
    perfect = known.value_of_perfect_information[members].tolist()
    stochastic = known.value_of_stochastic_solution[members].tolist()
    for i in range(len(errors)):
        yield Statistics(
            objective=objectives[i],
            expected_cost=means[i],
            expected_regret=mean_regrets[i],
            expected_regret_standard_error=errors[i],
            cost_quantiles=tuple(zip(levels, cost_quantiles[i], strict=True)),
            regret_quantiles=tuple(zip(levels, regret_quantiles[i], strict=True)),
            cost_cvar=costs_in_tail[i],
            regret_cvar=regrets_in_tail[i],
            tail_level=tail,
            expected_value_of_perfect_information=perfect[i],
            value_of_stochastic_solution=stochastic[i] if math.isfinite(stochastic[i]) else None,
        )


def gap_of(query: DecideQuery, gaps: Tensor) -> Gap:
    """The interval of one member's replications (1, R)."""
    interval = interval_of(gaps, query.gap_confidence)
    return Gap(
        estimate=float(interval.gap),
        standard_error=float(interval.standard_error),
        upper_bound=float(interval.upper),
        confidence=query.gap_confidence,
        replications=query.gap_replications,
    )


def _bands(sample: Sample, costs: Tensor) -> Bands:
    paths = to_numpy(sample.scenarios.paths[0])
    names = sample.scenarios.names
    return Bands(
        cost=band_of(to_numpy(costs), BAND_LEVELS),
        series={name: band_of(paths[:, :, index], BAND_LEVELS) for index, name in enumerate(names)},
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
