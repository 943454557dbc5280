"""A battery on the German day-ahead market, by mean and CVaR of a day's cost.

The expected cost is linear in the price: scenarios would be worth no more than their mean. So half of the
objective is the mean of the worst tenth of scenarios, written with its threshold as one more decision:

    min  known(z) + (1 - b) E c(z) + b (h + E (c(z) - h)_+ / (1 - a)),   c(z) = p'(charge - discharge) (1)

A day's realized cost is (1) at the price that came, h as decided: its mean over days is least for the right
threshold and the right decision together. It is that objective's value, not the money alone.

Source: Rockafellar and Uryasev (2000), eq. 4, https://doi.org/10.21314/JOR.2000.038; Donti et al. (2017),
section 4.3, https://arxiv.org/abs/1703.04529.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from small import CONFIG
from tables import table

from hedgecast.learning.part import Part
from hedgecast.learning.task import Task
from hedgecast.programs.catalog import battery_storage
from hedgecast.programs.program import TwoStageProgram

BETA, ALPHA = 0.5, 0.9
VALIDATION, TEST = "2014-07-01", "2015-01-01"


def task() -> Task:
    """German prices of 2012 to 2015, the day ahead."""
    market = pq.read_table(table("epf_prices.parquet"))
    rows = market.filter(pc.equal(market["market"], "DE"))
    times = rows["timestamp_local"].to_numpy().astype("datetime64[h]")
    hours = np.diff(times.astype(np.int64))
    assert times[0].astype(np.int64) % 24 == 0
    assert (hours == 1).all()
    assert len(times) % 24 == 0

    def daily(name: str) -> NDArray[np.float64]:
        return np.asarray(rows[name].to_numpy(), dtype=np.float64).reshape(-1, 24)

    price = daily("price")
    load, wind_solar = daily("zonal_load_forecast_mw"), daily("wind_solar_forecast_mw")
    days = times[::24].astype("datetime64[D]")
    later = np.arange(7, len(days))
    weekday = (days.astype(np.int64) + 3) % 7
    angle = 2.0 * np.pi * (days - days.astype("datetime64[Y]")).astype(np.int64) / 365.25
    context = np.hstack(
        [
            price[later - 1],
            price[later - 2],
            price[later - 7],
            load[later] / 1e3,
            wind_solar[later] / 1e3,
            (weekday[later, None] == np.arange(7)).astype(np.float64),
            np.cos(angle)[later, None],
            np.sin(angle)[later, None],
        ]
    )
    whole = Part.of_arrays(context, price[later], days=days[later], names=["price"], units=["EUR/MWh"])
    edges = np.searchsorted(whole.days, np.array([VALIDATION, TEST], dtype="datetime64[D]"))
    test = whole.select(slice(edges[1], None))
    return Task(
        train=whole.select(slice(0, edges[0])),
        validation=whole.select(slice(*edges)),
        test=test,
        test_days=test,
        program_for=program,
        config=CONFIG,
    )


def program(num_steps: int) -> TwoStageProgram:
    """Equation (1) over the constraints of the shipped battery."""
    plain = battery_storage.build(num_steps)
    threshold = cp.Variable(1, name="threshold")
    cost = plain.recourse_cost
    return TwoStageProgram(
        name="battery_mean_cvar",
        decision=[*plain.decision, threshold],
        uncertain=plain.uncertain,
        given=plain.given,
        constraints=plain.constraints,
        cost=plain.cost + BETA * cp.sum(threshold),
        recourse_cost=(1.0 - BETA) * cost + BETA / (1.0 - ALPHA) * cp.sum(cp.pos(cost - threshold)),
    )
