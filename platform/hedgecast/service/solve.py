"""From one context's scenarios and a program to a decision with everything an answer says about it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgecast.core.errors import NotConvergedError
from hedgecast.programs.information import Information
from hedgecast.programs.measures import conditional_value_at_risk, expectation
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.solution import Decision
from hedgecast.registry.session import Context
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.backend import (
    DecideAnswer,
    DecideQuery,
    DecisionArray,
    ProgramDescription,
    Scenarios,
    Solution,
    SolveReport,
    Statistics,
)
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.statistics import quantiles, standard_error

# Under this many scenarios a tail's mean is mostly noise.
_FEWEST_IN_TAIL = 5.0
# Whoever recomputes an answer with another solver shall agree to 1e-6; about one iteration more than 1e-7.
_TOLERANCE = 1e-8


def conclude(
    query: DecideQuery,
    model: ServedModel,
    context: Context,
    paths: NDArray[np.float32],
    budget: Budget,
    *,
    drawn_seconds: float,
) -> DecideAnswer:
    """The answer of ``model`` once ``paths`` (S, T, F) are drawn; see `solve_query`."""
    started = time.perf_counter()
    scenarios = model.source.scenario_set(context, paths, query.seed)
    seconds = drawn_seconds + time.perf_counter() - started
    program = model.program(scenarios.paths.shape[2])
    solution = solve_query(
        query, scenarios, program, model.description.program, budget, scenario_seconds=seconds
    )
    return DecideAnswer(model=model.description, solution=solution)


def solve_query(
    query: DecideQuery,
    scenarios: ScenarioSet,
    program: TwoStageProgram,
    description: ProgramDescription,
    budget: Budget,
    *,
    scenario_seconds: float,
) -> Solution:
    """The decision for one context's scenarios with everything an answer says about it.

    Parameters
    ----------
    query : DecideQuery
        Already checked against the model.
    scenarios : ScenarioSet
        One context.
    program : TwoStageProgram
        For as many steps as the scenarios have.
    description : ProgramDescription
        Names the units.
    budget : Budget
        Asked between stages.
    scenario_seconds : float
        What drawing took, for the answer.

    Raises
    ------
    SolveError
        The program has no usable decision under these scenarios.
    DeadlineError
        The budget ran out.
    """
    given = {name: torch.from_numpy(value)[None] for name, value in query.given.items()}
    values, weights = scenarios.values.double(), scenarios.weights().double()
    budget.check("the solve")
    started = time.perf_counter()
    decision = program.solve(values, weights, given, risk=query.risk, tolerance=_TOLERANCE).require_optimal()
    solved = time.perf_counter()
    budget.check("the statistics")
    optimum = decision if query.risk.neutral else None
    known = Information(program, values, weights, given, tolerance=_TOLERANCE, optimum=optimum)
    statistics = _statistics(query, decision, known, budget)
    done = time.perf_counter()
    return Solution(
        decision=_arrays(description, decision, scenarios),
        statistics=statistics,
        report=SolveReport(
            primal_residual=float(decision.primal_residual[0]),
            dual_residual=float(decision.dual_residual[0]),
            relative_gap=float(decision.gap[0]),
            iterations=int(decision.iterations[0]),
            backend=decision.backend,
        ),
        scenario_fingerprint=scenarios.fingerprint(),
        scenarios=_scenario_arrays(scenarios) if query.return_scenarios else None,
        scenario_seconds=scenario_seconds,
        solve_seconds=solved - started,
        statistics_seconds=done - solved,
        warnings=tuple(_warnings(query, statistics)),
    )


def _statistics(query: DecideQuery, decision: Decision, known: Information, budget: Budget) -> Statistics:
    costs, weight = decision.scenario_costs[0], known.inputs.probabilities[0]
    regrets = costs - _best_costs(known)
    budget.check("the plan without risk aversion")
    known.optimum.require_optimal()
    budget.check("the plan for the mean scenario")
    stochastic = float(known.value_of_stochastic_solution)
    levels, tail = query.quantile_levels, query.tail_level
    return Statistics(
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


def _best_costs(known: Information) -> Tensor:
    """(S,) least cost under each scenario."""
    best = known.scenario_wait_and_see[0]
    unsolved = torch.nonzero(~torch.isfinite(best))[:, 0]
    if unsolved.numel():
        raise NotConvergedError(
            f"the least cost under {unsolved.numel()} of {best.numel()} scenarios (the first is "
            f"{int(unsolved[0])}) was not found: regret cannot be stated; scale the program",
            scenario=int(unsolved[0]),
        )
    return best


def _arrays(
    description: ProgramDescription, decision: Decision, scenarios: ScenarioSet
) -> tuple[DecisionArray, ...]:
    units = {spec.name: spec.unit for spec in description.decision}
    arrays = []
    for name, tensor in decision.values.items():
        value = tensor[0].cpu().double().numpy()
        times = scenarios.times[0] if scenarios.times is not None and value.ndim else None
        if times is not None and value.shape[0] != len(times):
            times = None
        arrays.append(DecisionArray(name=name, unit=units.get(name, ""), values=value, times=times))
    return tuple(arrays)


def _scenario_arrays(scenarios: ScenarioSet) -> Scenarios:
    probabilities = scenarios.probabilities
    return Scenarios(
        names=scenarios.names,
        units=scenarios.units,
        times=None if scenarios.times is None else scenarios.times[0],
        paths=_numpy(scenarios.paths[0]),
        probabilities=None if probabilities is None else _numpy(probabilities[0]),
    )


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def _warnings(query: DecideQuery, statistics: Statistics) -> Iterator[tuple[str, str]]:
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
