"""Onward routes and trucks of a health supply chain, booked four weeks ahead, before deliveries are known.

A lane is one of the four countries with the most tonnes over the training weeks. A shipment arrives whole
in the week of its delivery; its tonnes are those of its lines that state a weight. What was promised for the
coming weeks, and what is overdue, is known from the schedule. Each week of the program is one step.

Only delivered items are in the data, and the schedule is read as known four weeks ahead. The price of
lateness is left out: promises differ from week to week, and a backtest has one set of them.

Data: USAID's Supply Chain Management System, delivery history.
"""

from __future__ import annotations

import dataclasses

import cvxpy as cp
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from small import CONFIG
from tables import table

from hedgecast.learning.part import Part
from hedgecast.learning.task import Task
from hedgecast.programs.catalog import freight_routing
from hedgecast.programs.program import TwoStageProgram

NUM_LANES = 4
NUM_WEEKS = 4
IDLE = 2.0
HISTORY = 8
FIRST = np.datetime64("2007-01-01")
VALIDATION, TEST = np.datetime64("2011-01-03"), np.datetime64("2012-01-02")


def task() -> Task:
    """A decision every Monday from 2007 to 2013: 4 years train, one validates, the rest tests.

    The last weeks of training and of validation are left out: their outcome lies in the next part.
    """
    country, scheduled, delivered, tonnes = _shipments()
    early = delivered < VALIDATION
    total = {name: tonnes[early & (country == name)].sum() for name in np.unique(country)}
    lanes = sorted(total, key=lambda name: -total[name])[:NUM_LANES]
    mondays = np.arange(FIRST, np.datetime64("2013-09-01"), np.timedelta64(7, "D"))
    starts = FIRST + np.arange(-HISTORY, len(mondays) + NUM_WEEKS).astype("timedelta64[W]")
    came = _weekly(starts, delivered, country, tonnes, lanes)
    due = _weekly(starts, scheduled, country, tonnes, lanes)
    overdue = np.stack(
        [
            [tonnes[(country == lane) & (scheduled < monday) & (delivered >= monday)].sum() for lane in lanes]
            for monday in mondays
        ]
    )
    rows = np.arange(len(mondays)) + HISTORY
    angle = 2.0 * np.pi * (mondays - mondays.astype("datetime64[Y]")).astype(np.int64) / 365.25
    context = np.hstack(
        [
            *(np.log1p(due[rows + ahead]) for ahead in range(NUM_WEEKS)),
            np.log1p(overdue),
            np.log1p(came[rows - 1]),
            np.log1p(np.stack([came[row - HISTORY : row].mean(axis=0) for row in rows])),
            np.cos(angle)[:, None],
            np.sin(angle)[:, None],
        ]
    )
    targets = np.stack([came[row : row + NUM_WEEKS] for row in rows])
    whole = Part.of_arrays(
        context,
        targets,
        days=mondays,
        names=[str(lane) for lane in lanes],
        units=["t"] * NUM_LANES,
        days_to_outcome=7 * NUM_WEEKS,
    )
    first, second = np.searchsorted(mondays, np.array([VALIDATION, TEST]))
    purged = NUM_WEEKS - 1
    test = whole.select(slice(second, None))
    return Task(
        train=whole.select(slice(0, first - purged)),
        validation=whole.select(slice(first, second - purged)),
        test=test,
        test_days=test,
        program_for=program,
        # Costs are thousands: at a barrier of 1e-3 the layer left 4 of 49 validation weeks unsolved, at 0.1
        # none.
        config=dataclasses.replace(CONFIG, smoothing=0.1),
    )


def program(num_steps: int) -> TwoStageProgram:
    """The shipped program without promises; arrivals below zero in a scenario count as none.

    What is missing to zero costs more than an idle truck, so that none is filled with it. That is a constant
    of the scenario: it moves no decision, and what came true is never below zero.
    """
    plain = freight_routing.build(
        num_steps,
        num_lanes=NUM_LANES,
        idle_cost=IDLE,
        lateness_cost=0.0,
        planned_tonnes=0.0,
        max_route_tonnes=100.0,
        max_truck_tonnes=200.0,
    )
    (arrivals,) = plain.uncertain
    missing = cp.Variable(arrivals.shape, name="missing")
    balance, *others = plain.recourse_constraints
    return TwoStageProgram(
        name="freight_weeks",
        decision=plain.decision,
        uncertain=arrivals,
        given=plain.given,
        constraints=plain.constraints,
        cost=plain.cost,
        recourse_cost=plain.recourse_cost + 5.0 * IDLE * cp.sum(missing),
        recourse_constraints=[
            balance.args[0] == balance.args[1] + missing,
            arrivals + missing >= 0,
            missing >= 0,
            *others,
        ],
    )


def _shipments() -> tuple[
    NDArray[np.str_], NDArray[np.datetime64], NDArray[np.datetime64], NDArray[np.float64]
]:
    """Country, scheduled day, day of delivery and tonnes of each shipment with a weight."""
    rows = pq.read_table(table("scms_deliveries.parquet"))
    weight = np.nan_to_num(rows["weight_kg"].to_numpy(zero_copy_only=False).astype(np.float64))
    names, first, place = np.unique(
        np.asarray(rows["shipment"].to_pylist()), return_index=True, return_inverse=True
    )
    tonnes = np.bincount(place, weights=weight, minlength=len(names)) / 1e3
    kept = tonnes > 0
    country = np.asarray(rows["country"].to_pylist())[first]
    scheduled = rows["scheduled_date"].to_numpy().astype("datetime64[D]")[first]
    delivered = rows["delivered_date"].to_numpy().astype("datetime64[D]")[first]
    return country[kept], scheduled[kept], delivered[kept], tonnes[kept]


def _weekly(
    starts: NDArray[np.datetime64],
    when: NDArray[np.datetime64],
    country: NDArray[np.str_],
    tonnes: NDArray[np.float64],
    lanes: list[str],
) -> NDArray[np.float64]:
    """(weeks, lanes) tonnes by the week of ``when``."""
    found = np.zeros((len(starts), len(lanes)))
    week = (when - starts[0].astype("datetime64[D]")).astype(np.int64) // 7
    for index, lane in enumerate(lanes):
        inside = (country == lane) & (week >= 0) & (week < len(starts))
        found[:, index] = np.bincount(week[inside], weights=tonnes[inside], minlength=len(starts))
    return found
