"""A model of your own in CVXPY on 20 scenarios that stand for 1,000, and what that costs.

    python examples/reduced_cvxpy.py

The scenarios here are made up; a set from a model comes the same way, as paths (S, T, F).
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from hedgecast.programs.catalog import generation_scheduling
from hedgecast.programs.reduction_error import reduction_error
from hedgecast.scenarios.reduction import reduce_scenarios

SHORTAGE, EXCESS, RAMP = 50.0, 0.5, 1.5


def loads(count: int = 1000, steps: int = 24) -> np.ndarray:
    """(S, T, 1) loads of a day in GW: a noon peak and errors that last."""
    draws = np.random.default_rng(1)
    noon = 40 + 12 * np.sin(np.pi * np.arange(steps) / steps)
    errors = draws.normal(size=(count, steps)).cumsum(axis=1) * 0.4
    return (noon + errors)[:, :, None]


def own_model(paths: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Least expected cost of a schedule that follows from weighted scenarios (S, T), and the schedule."""
    schedule = cp.Variable(paths.shape[1], nonneg=True)
    expected = 0.0
    for path, probability in zip(paths, probabilities, strict=True):
        short, left = cp.sum(cp.pos(path - schedule)), cp.sum(cp.pos(schedule - path))
        expected += probability * (SHORTAGE * short + EXCESS * left)
    problem = cp.Problem(cp.Minimize(expected), [cp.abs(cp.diff(schedule)) <= RAMP])
    problem.solve(solver=cp.HIGHS)
    return float(problem.value), np.asarray(schedule.value)


def main() -> dict[str, float]:
    """Costs by name, printed too."""
    paths = loads()
    found = {}
    # The same model as a program: it judges the reduction on all scenarios.
    program = generation_scheduling.build(
        24, shortage_cost=SHORTAGE, excess_cost=EXCESS, quadratic_cost=0.0, ramp_limit=RAMP
    )
    optimum = program.solve(paths[None, :, :, 0], backend="reference")
    for method in ("forward-selection", "k-means", "quantiles"):
        few = reduce_scenarios(paths, 20, method=method)
        cost, schedule = own_model(few.paths[:, :, 0], few.probabilities)
        judged = reduction_error(
            program,
            paths[None, :, :, 0],
            few.paths[None, :, :, 0],
            reduced_probabilities=few.probabilities[None],
            backend="reference",
            optimum=optimum,
        )
        found[f"{method} own model"] = cost
        found[f"{method} believed"] = judged.cost_believed.item()
        found[f"{method} error"] = judged.error.item()
        found[f"{method} full"] = judged.cost_full.item()
        print(
            f"{method}: {few.count} of {len(paths)} at {few.relative_distance:.0%} of the spread; the model "
            f"says {cost:.1f}, all scenarios {judged.cost_reduced.item():.1f}, {judged.error.item():.1f} "
            f"({judged.relative_error.item():.0%}) above the best; at noon {schedule[12]:.1f} GW"
        )
    return found


if __name__ == "__main__":
    main()
