"""A Pyomo model of your own in mpi-sppy, fed with a reduced set; and ours, without writing one.

    pip install 'hedgecast[sppy]'
    python examples/mpi_sppy_schedule.py

For many ranks save the numbers and start mpi-sppy's driver instead; see docs/scenarios.md.
"""

from __future__ import annotations

from typing import Any

import mpisppy.utils.sputils as sputils
import numpy as np
import pyomo.environ as pyo
from mpisppy.opt.ef import ExtensiveForm

from hedgecast.programs.catalog import generation_scheduling
from hedgecast.programs.mpi_sppy_export import ScenarioModels
from hedgecast.scenarios.reduction import Reduced, reduce_scenarios

SHORTAGE, EXCESS, RAMP = 50.0, 0.5, 1.5
SOLVER = {"solver": "appsi_highs"}


def loads(count: int = 500, steps: int = 12) -> np.ndarray:
    """(S, T, 1) made-up loads in GW."""
    draws = np.random.default_rng(2)
    return (40 + draws.normal(size=(count, steps)).cumsum(axis=1) * 0.6)[:, :, None]


def scenario_creator(scenario_name: str, few: Reduced) -> Any:
    """One scenario of your own model, as mpi-sppy wants it."""
    number = int(scenario_name.removeprefix("scenario"))
    load = few.paths[number, :, 0].tolist()
    model = pyo.ConcreteModel(scenario_name)
    hours = range(len(load))
    model.schedule = pyo.Var(hours, within=pyo.NonNegativeReals)
    model.short = pyo.Var(hours, within=pyo.NonNegativeReals)
    model.left = pyo.Var(hours, within=pyo.NonNegativeReals)
    model.balance = pyo.Constraint(hours, rule=lambda m, t: m.schedule[t] + m.short[t] - m.left[t] == load[t])
    model.ramp = pyo.Constraint(
        range(1, len(load)), rule=lambda m, t: (-RAMP, m.schedule[t] - m.schedule[t - 1], RAMP)
    )
    model.cost = pyo.Objective(expr=sum(SHORTAGE * model.short[t] + EXCESS * model.left[t] for t in hours))
    model._mpisppy_probability = float(few.probabilities[number])
    sputils.attach_root_node(model, 0.0, [model.schedule])
    return model


def main() -> dict[str, float]:
    """Costs by name, printed too."""
    few = reduce_scenarios(loads(), 15)
    names = [f"scenario{number}" for number in range(few.count)]
    own = ExtensiveForm(SOLVER, names, scenario_creator, scenario_creator_kwargs={"few": few})
    own.solve_extensive_form()

    program = generation_scheduling.build(
        12, shortage_cost=SHORTAGE, excess_cost=EXCESS, quadratic_cost=0.0, ramp_limit=RAMP
    )
    models = ScenarioModels.of(program, few.paths[None, :, :, 0], few.probabilities[None])
    ours = ExtensiveForm(SOLVER, models.all_scenario_names, models.scenario_creator)
    ours.solve_extensive_form()
    schedule = models.decision(ours.local_scenarios["scenario0"])

    found = {"own model": own.get_objective_value(), "our program": ours.get_objective_value()}
    print(
        f"expected cost: {found['own model']:.2f} by the own model, {found['our program']:.2f} by the program"
    )
    print(f"first hour: {schedule['schedule[0]']:.2f} GW")
    return found


if __name__ == "__main__":
    main()
