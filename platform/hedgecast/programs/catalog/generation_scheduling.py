"""Generation scheduling: commit tomorrow's output of dispatchable plants before the load is known.

For T steps, with schedule z (GW, here and now) and demand y (GW, uncertain),

    min_z  E sum_t  s (y_t - z_t)_+  +  e (z_t - y_t)_+  +  q (z_t - y_t)^2
    s.t.   |z_t - z_(t-1)| <= ramp_limit   for t = 2..T
           0 <= z_t <= capacity

s: shortage_cost and e: excess_cost, in money per GW and step; q: quadratic_cost, in money per GW^2 and
step. Without ramps the optimum of e = q = 0 is the highest demand, of q = 0 the s/(s + e) quantile.

With ``reserve`` r, upward reserve is booked beside the schedule: u (GW, here and now) at
reserve_cost c per GW and step. What is short is met from the reserve first, at excess_cost's size:

    min_(z,u)  sum_t c u_t + E sum_t [ s (y_t - z_t - v_t)_+ + a v_t + e (z_t - y_t)_+ + q (z_t - y_t)^2 ]
    s.t.       0 <= v_t <= u_t (called reserve, a = reserve_call_cost),  u_t >= r,  z_t + u_t <= capacity

Source: Donti, Amos and Kolter (2017), section 4.2, https://arxiv.org/abs/1703.04529 (without reserve).

Default data: ``history("generation_scheduling")`` of `hedgecast.programs.catalog.history`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cvxpy as cp

from hedgecast.programs.catalog import checks
from hedgecast.programs.program import TwoStageProgram


def build(
    num_steps: int = 24,
    *,
    shortage_cost: float = 50.0,
    excess_cost: float = 0.5,
    quadratic_cost: float = 0.5,
    ramp_limit: float = 0.4,
    capacity: float | Sequence[float] | None = None,
    reserve: float | None = None,
    reserve_cost: float = 0.2,
    reserve_call_cost: float = 1.0,
) -> TwoStageProgram:
    """The scheduling program over ``num_steps`` steps.

    Parameters
    ----------
    num_steps : int
        T; 23 or 25 on the days when clocks change.
    shortage_cost, excess_cost : float
        Money per GW short or in excess, each step; not negative.
    quadratic_cost : float
        Money per GW^2 of deviation, each step; not negative.
    ramp_limit : float
        GW between neighboring steps; the default of the given parameter ``ramp_limit``.
    capacity : float or sequence of num_steps floats, optional
        GW; the default of the given parameter ``capacity``. Without it the schedule has no upper limit
        and there is no such parameter.
    reserve : float, optional
        GW of upward reserve to hold at least, each step; adds the decision ``reserve``.
    reserve_cost, reserve_call_cost : float
        Money per GW of reserve booked, and per GW called; with ``reserve`` only.

    Raises
    ------
    ConfigError
        A parameter outside its range.
    """
    checks.whole(1, num_steps=num_steps)
    checks.at_least(
        0.0,
        shortage_cost=shortage_cost,
        excess_cost=excess_cost,
        quadratic_cost=quadratic_cost,
        ramp_limit=ramp_limit,
        reserve=reserve or 0.0,
        reserve_cost=reserve_cost,
        reserve_call_cost=reserve_call_cost,
    )
    schedule = cp.Variable(num_steps, name="schedule")
    demand = cp.Parameter(num_steps, name="demand")
    ramp = cp.Parameter(nonneg=True, name="ramp_limit", value=float(ramp_limit))
    given = [ramp]
    # With one step the difference is empty and the limit binds nothing.
    constraints = [schedule >= 0, cp.abs(schedule[1:] - schedule[:-1]) <= ramp]
    limit = None
    if capacity is not None:
        limit = cp.Parameter(
            num_steps, nonneg=True, name="capacity", value=checks.per_item("capacity", capacity, num_steps)
        )
        given.append(limit)
    deviation = schedule - demand
    cost_of_surplus = excess_cost * cp.sum(cp.pos(deviation)) + quadratic_cost * cp.sum_squares(deviation)
    if reserve is None:
        if limit is not None:
            constraints.append(schedule <= limit)
        return TwoStageProgram(
            name="generation_scheduling",
            decision=schedule,
            uncertain=demand,
            given=given,
            constraints=constraints,
            recourse_cost=shortage_cost * cp.sum(cp.pos(-deviation)) + cost_of_surplus,
        )
    booked = cp.Variable(num_steps, name="reserve")
    called = cp.Variable(num_steps, name="called")
    constraints.append(booked >= reserve)
    if limit is not None:
        constraints.append(schedule + booked <= limit)
    return TwoStageProgram(
        name="generation_scheduling",
        decision=[schedule, booked],
        uncertain=demand,
        given=given,
        constraints=constraints,
        cost=reserve_cost * cp.sum(booked),
        recourse_cost=shortage_cost * cp.sum(cp.pos(-deviation - called))
        + reserve_call_cost * cp.sum(called)
        + cost_of_surplus,
        recourse_constraints=[called >= 0, called <= booked],
    )
