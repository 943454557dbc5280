"""Scheduling where the truth is known: residuals that are skewed, have two modes, or have heavy tails.

    y_dt = 10 + a_t'x_d + s(x_d) r_dt,      s(x) = 0.5 exp(0.5 x_1),      r = 0.8 g + 0.6 e_t        (1)

x has four standard normal entries, g (shared by the day's steps) and e_t have mean 0 and variance 1:

    normal        standard normal
    asymmetric    gamma of shape 1, standardized: a long upper tail
    bimodal       -0.5 or 2 with a spread of 0.2, the upper one with probability 1 / (1 + exp(1.4 - x_2)),
                  standardized over all days: no linear mean and size can express it
    heavy-tailed  Student t with 3 degrees of freedom, over its standard deviation

`oracle` decides with draws of the truth itself.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from small import CONFIG

from hedgecast.learning.part import Part
from hedgecast.learning.task import Task
from hedgecast.programs.catalog import generation_scheduling
from hedgecast.programs.program import TwoStageProgram

NUM_STEPS = 6
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 1500, 300, 1500
ORACLE_SCENARIOS = 2000
_SEED = 20261125


def task(shape: str) -> Task:
    """Rows of (1) in the order of their draw."""
    context = _context()
    truth = _draw(shape, context, 1, np.random.default_rng([_SEED, 1]))[:, 0]
    whole = Part.of_arrays(context, truth, names=["demand"], units=["GW"])
    edge = NUM_TRAIN + NUM_VALIDATION
    test = whole.select(slice(edge, None))
    return Task(
        train=whole.select(slice(0, NUM_TRAIN)),
        validation=whole.select(slice(NUM_TRAIN, edge)),
        test=test,
        test_days=test,
        program_for=program,
        config=CONFIG,
    )


def program(num_steps: int) -> TwoStageProgram:
    """The shipped schedule with a ramp limit that never binds."""
    return generation_scheduling.build(num_steps, ramp_limit=1000.0)


def oracle(shape: str) -> dict[str, float]:
    """Mean cost of the test days when deciding with `ORACLE_SCENARIOS` draws of the truth."""
    found = task(shape)
    context = found.test.context.numpy()
    draws = np.random.default_rng([_SEED, 2])
    costs = []
    for rows in np.array_split(np.arange(len(context)), 50):
        paths = torch.from_numpy(_draw(shape, context[rows], ORACLE_SCENARIOS, draws))
        decision = found.program().solve(paths)
        came = found.test.targets[torch.from_numpy(rows)].flatten(1).unsqueeze(1)
        costs.append(found.program().value(decision.flat, came)[:, 0].numpy())
    every = np.concatenate(costs)
    return {"cost": float(every.mean()), "standard_error": float(every.std() / np.sqrt(len(every)))}


def _context() -> NDArray[np.float64]:
    count = NUM_TRAIN + NUM_VALIDATION + NUM_TEST
    return np.random.default_rng([_SEED, 0]).standard_normal((count, 4))


def _draw(
    shape: str, context: NDArray[np.float64], count: int, draws: np.random.Generator
) -> NDArray[np.float64]:
    """(days, count, T) from equation (1)."""
    slope = np.cos(np.arange(NUM_STEPS)[:, None] * np.arange(1, 5) / NUM_STEPS)
    mean = 10.0 + context @ slope.T
    size = 0.5 * np.exp(0.5 * context[:, 0])
    upper = np.broadcast_to(context[:, 1, None, None], (len(context), count, 1))
    common = _standard(shape, upper, draws)
    own = _standard(shape, np.broadcast_to(upper, (len(context), count, NUM_STEPS)), draws)
    return np.asarray(mean[:, None] + size[:, None, None] * (0.8 * common + 0.6 * own))


def _standard(shape: str, tilt: NDArray[np.float64], draws: np.random.Generator) -> NDArray[np.float64]:
    if shape == "normal":
        return draws.standard_normal(tilt.shape)
    if shape == "asymmetric":
        return draws.gamma(1.0, size=tilt.shape) - 1.0
    if shape == "heavy-tailed":
        return np.asarray(draws.standard_t(3.0, size=tilt.shape) / np.sqrt(3.0))
    assert shape == "bimodal", shape
    upper = draws.random(tilt.shape) < 1.0 / (1.0 + np.exp(1.4 - tilt))
    # Over all days the upper mode has probability 0.2366 (standard normal tilt, by quadrature).
    mean, variance = -0.5 + 2.5 * 0.2366, 2.5**2 * 0.2366 * 0.7634 + 0.04
    return np.asarray(
        (np.where(upper, 2.0, -0.5) + 0.2 * draws.standard_normal(tilt.shape) - mean) / np.sqrt(variance)
    )
