"""Stock of five products of an online shop for the next open day, before its demand is known.

The five products are those with the most units over the training days. Sales are what was sold, so demand
that met an empty shelf is not in them.

Data: Online Retail II of the UCI repository, by open day.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from small import CONFIG
from tables import table

from hedgecast.learning.part import Part
from hedgecast.learning.task import Task
from hedgecast.programs.catalog import product_allocation
from hedgecast.programs.program import TwoStageProgram

NUM_PRODUCTS = 5
PRICE = 3.0
HISTORY = 20
NUM_TRAIN, NUM_VALIDATION = 320, 78


def task() -> Task:
    """498 open days with 20 before them; 320 train, 78 validate, 100 test."""
    rows = pq.read_table(table("retail_demand.parquet"))
    day, place = np.unique(rows["date"].to_numpy().astype("datetime64[D]"), return_inverse=True)
    code, column = np.unique(np.asarray(rows["stock_code"].to_pylist()), return_inverse=True)
    units = np.zeros((len(day), len(code)))
    units[place, column] = rows["units"].to_numpy()
    best = np.argsort(-units[: HISTORY + NUM_TRAIN].sum(axis=0), kind="stable")[:NUM_PRODUCTS]
    context, targets = _context(units[:, best], units.sum(axis=1), day), units[HISTORY:, best]
    whole = Part.of_arrays(
        context,
        targets[:, None, :],
        days=day[HISTORY:],
        names=[str(code[index]) for index in best],
        units=["units"] * NUM_PRODUCTS,
    )
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
    """The shipped newsvendor network; demand below zero in a scenario counts as none.

    What is missing to zero costs more than a sale brings, so that nothing is sold to it. That is a constant
    of the scenario: it moves no decision, and what came true is never below zero.
    """
    plain = product_allocation.build(
        num_steps,
        num_products=NUM_PRODUCTS,
        unit_cost=1.0,
        price=PRICE,
        salvage_value=0.2,
        capacity=2000.0,
        max_stock=5000.0,
        substitution="none",
    )
    (demand,) = plain.uncertain
    missing = cp.Variable(demand.shape, name="missing")
    balance, served, *signs = plain.recourse_constraints
    return TwoStageProgram(
        name="retail_stock",
        decision=plain.decision,
        uncertain=demand,
        constraints=plain.constraints,
        cost=plain.cost,
        recourse_cost=plain.recourse_cost + 2.0 * PRICE * cp.sum(missing),
        recourse_constraints=[balance, served.args[0] == served.args[1] + missing, missing >= 0, *signs],
    )


def _context(
    units: NDArray[np.float64], total: NDArray[np.float64], day: NDArray[np.datetime64]
) -> NDArray[np.float64]:
    past = np.log1p(np.stack([units[row - HISTORY : row] for row in range(HISTORY, len(units))]))
    shop = np.log1p(np.stack([total[row - HISTORY : row] for row in range(HISTORY, len(units))]))
    later = day[HISTORY:]
    weekday = (later.astype(np.int64) + 3) % 7
    angle = 2.0 * np.pi * (later - later.astype("datetime64[Y]")).astype(np.int64) / 365.25
    return np.hstack(
        [
            past[:, -1],
            past[:, -5:].mean(axis=1),
            past.mean(axis=1),
            np.stack([shop[:, -1], shop[:, -5:].mean(axis=1)], axis=1),
            (weekday[:, None] == np.arange(7)).astype(np.float64),
            np.cos(angle)[:, None],
            np.sin(angle)[:, None],
        ]
    )
