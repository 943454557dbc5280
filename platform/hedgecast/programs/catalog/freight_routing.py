"""Book lanes and trucks while it is uncertain when freight arrives, then ship what is there.

Freight of lanes l arrives at a hub on days t (a_tl tonnes, uncertain: what was sent, shifted by transit
times and delays, see `arrivals_from_delays`) and goes on to its destination. Here and now: r_l tonnes a
day on each onward route and b_t tonnes of trucks on each day, shared by the lanes. Once arrivals are
known: f_tl goes on booked trucks, s_tl on spot trucks, x_tl stays in the hub overnight:

    min  sum_l T c_l r_l + sum_t k b_t
         + E[ sum_t i idle_t + sum_tl (p s_tl + h x_tl + m late_tl) + p_end sum_l x_Tl ]

    s.t. 0 <= r_l <= route limit,  0 <= b_t <= fleet limit
         x_tl = x_{t-1,l} + a_tl - f_tl - s_tl          (x_0 = backlog)
         f_tl <= r_l,   sum_l f_tl + idle_t = b_t
         late_tl >= sum_{u<=t} (due_ul - f_ul - s_ul)   (due: promised tonnes by day and lane)
         f, s, x, idle, late >= 0

Spot trucks are unlimited, so every scenario has a recourse. What is left at the end is shipped at the
price ``p_end``.

Default data: ``history("freight_routing")`` of `hedgecast.programs.catalog.history`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.programs.catalog import checks
from hedgecast.programs.program import TwoStageProgram


def build(
    num_steps: int = 5,
    *,
    num_lanes: int = 4,
    route_cost: float | Sequence[float] = 4.0,
    truck_cost: float = 20.0,
    idle_cost: float = 2.0,
    spot_cost: float | Sequence[float] = 60.0,
    storage_cost: float = 3.0,
    lateness_cost: float | Sequence[float] = 10.0,
    final_cost: float = 80.0,
    planned_tonnes: float | Sequence[float] = 10.0,
    max_route_tonnes: float | Sequence[float] = 40.0,
    max_truck_tonnes: float = 160.0,
) -> TwoStageProgram:
    """The freight program over ``num_steps`` days and ``num_lanes`` lanes.

    Decision variables ``route_capacity`` (num_lanes,) tonnes a day and ``truck_capacity`` (num_steps,)
    tonnes; uncertain ``arrivals`` (num_steps, num_lanes) tonnes; given ``backlog`` (num_lanes,) tonnes in the
    hub before the first day (zero unless given) and ``due`` (num_steps, num_lanes) tonnes promised by
    day (``planned_tonnes`` on every day unless given).

    Parameters
    ----------
    num_steps : int
        Days planned.
    num_lanes : int
        Lanes from origins over the hub to destinations.
    route_cost, spot_cost, lateness_cost : float or list of float
        Money per tonne and day, one number or one per lane: route capacity, spot truck, late freight.
    truck_cost, idle_cost, storage_cost : float
        Money per tonne and day: booked truck, unused booked truck, freight in the hub overnight.
    final_cost : float
        Money per tonne that is still in the hub after the last day.
    planned_tonnes : float or list of float
        Default tonnes due each day, one number or one per lane.
    max_route_tonnes : float or list of float
        Largest route capacity of a lane.
    max_truck_tonnes : float
        Largest truck capacity of a day.

    Raises
    ------
    ConfigError
        A parameter outside its range, or a list of the wrong length.
    """
    checks.whole(1, num_steps=num_steps, num_lanes=num_lanes)
    checks.at_least(
        0.0,
        truck_cost=truck_cost,
        idle_cost=idle_cost,
        storage_cost=storage_cost,
        final_cost=final_cost,
        max_truck_tonnes=max_truck_tonnes,
    )
    route_costs = checks.per_item("route_cost", route_cost, num_lanes)
    spot_costs = checks.per_item("spot_cost", spot_cost, num_lanes)
    lateness_costs = checks.per_item("lateness_cost", lateness_cost, num_lanes)
    planned = checks.per_item("planned_tonnes", planned_tonnes, num_lanes)
    route_limits = checks.per_item("max_route_tonnes", max_route_tonnes, num_lanes)
    if final_cost == 0.0 and (spot_costs > 0).any():
        raise ConfigError(
            "final_cost = 0: freight left in the hub would cost nothing; set it to at least the spot cost",
            key="final_cost",
        )
    shape = (num_steps, num_lanes)
    route_capacity = cp.Variable(num_lanes, name="route_capacity")
    truck_capacity = cp.Variable(num_steps, name="truck_capacity")
    arrivals = cp.Parameter(shape, name="arrivals")
    backlog = cp.Parameter((1, num_lanes), name="backlog", value=np.zeros((1, num_lanes)))
    due = cp.Parameter(shape, name="due", value=np.tile(planned, (num_steps, 1)))
    booked = cp.Variable(shape, name="booked")
    spot = cp.Variable(shape, name="spot")
    stored = cp.Variable(shape, name="stored")
    late = cp.Variable(shape, name="late")
    idle = cp.Variable(num_steps, name="idle")
    before = cp.vstack([backlog, stored[:-1]]) if num_steps > 1 else backlog
    so_far = np.tril(np.ones((num_steps, num_steps)))
    recourse_cost = (
        idle_cost * cp.sum(idle)
        + cp.sum(spot @ spot_costs)
        + storage_cost * cp.sum(stored)
        + cp.sum(late @ lateness_costs)
        + final_cost * cp.sum(stored[num_steps - 1])
    )
    return TwoStageProgram(
        name="freight_routing",
        decision=[route_capacity, truck_capacity],
        uncertain=arrivals,
        given=[backlog, due],
        constraints=[
            route_capacity >= 0,
            route_capacity <= route_limits,
            truck_capacity >= 0,
            truck_capacity <= max_truck_tonnes,
        ],
        cost=num_steps * (route_costs @ route_capacity) + truck_cost * cp.sum(truck_capacity),
        recourse_cost=recourse_cost,
        recourse_constraints=[
            stored == before + arrivals - booked - spot,
            booked <= np.ones((num_steps, 1)) @ cp.reshape(route_capacity, (1, num_lanes), order="C"),
            cp.sum(booked, axis=1) + idle == truck_capacity,
            late >= so_far @ (due - booked - spot),
            booked >= 0,
            spot >= 0,
            stored >= 0,
            late >= 0,
            idle >= 0,
        ],
    )


def arrivals_from_delays(planned: Tensor, delays_days: Tensor) -> Tensor:
    """(..., T, L) tonnes that arrive on each day when the freight planned for a day comes late.

    Parameters
    ----------
    planned : Tensor
        (T, L) tonnes due at the hub on each day, on time.
    delays_days : Tensor
        (..., T, L) delay of that freight, days; below zero (early) counts as on time.

    Raises
    ------
    ShapeError
        The last two axes differ.

    Notes
    -----
    A delay between two whole days splits the freight in proportion, so arrivals are continuous in delays
    and differentiable almost everywhere. Freight that comes after day T is taken to come on day T: what
    is promised within the horizon has to be shipped within it.
    """
    if planned.shape != delays_days.shape[-2:]:
        raise ShapeError(
            f"planned has shape {tuple(planned.shape)} and delays_days {tuple(delays_days.shape)}: "
            "the last two axes (days, lanes) must agree"
        )
    num_days = planned.shape[0]
    days = torch.arange(num_days, dtype=delays_days.dtype, device=delays_days.device)
    arrives = (days[:, None] + delays_days.clamp(min=0.0)).clamp(max=num_days - 1.0)
    # Hat functions: share of the freight of day u (axis -3) that arrives on day t (axis -2).
    share = (1.0 - (arrives.unsqueeze(-2) - days[:, None]).abs()).clamp(min=0.0)
    return (planned.unsqueeze(-2) * share).sum(dim=-3)
