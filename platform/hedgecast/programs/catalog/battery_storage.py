"""Buy and sell energy with a battery while tomorrow's prices are uncertain.

For steps t = 1..T with charge in_t >= 0 and discharge out_t >= 0 (MWh per step) and the state x_t (MWh)
at the end of a step:

    min  E[ sum_t p_t (in_t - out_t) ]
         + lambda sum_t (x_t - B/2)^2 + eps sum_t (in_t^2 + out_t^2) + w sum_t (in_t + out_t)

    s.t. x_t = x_{t-1} + eta in_t - out_t,   x_0 = initial state (default B/2)
         0 <= x_t <= B,   in_t <= dt P_in,   out_t <= dt P_out,   x_T >= final state (default 0)

p: price (money per MWh, uncertain). B: capacity. eta: charging efficiency. dt: hours per step. w: wear.
Everything is decided here and now, and the expected cost is linear in the price, so its optimum is
that of the mean price: scenarios pay off with a risk measure, such as CVaR.

Source: Donti et al. (2017), section 4.3, https://arxiv.org/abs/1703.04529.

Default data: ``history("battery_storage")`` of `hedgecast.programs.catalog.history`.
"""

from __future__ import annotations

import cvxpy as cp

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog import checks
from hedgecast.programs.program import TwoStageProgram


def build(
    num_steps: int = 24,
    *,
    capacity_mwh: float = 1.0,
    efficiency: float = 0.9,
    max_charge_mw: float = 0.5,
    max_discharge_mw: float = 0.2,
    initial_fraction: float = 0.5,
    final_fraction: float = 0.0,
    level_cost: float = 0.1,
    power_cost: float = 0.05,
    degradation_cost: float = 0.0,
    step_hours: float = 1.0,
) -> TwoStageProgram:
    """The battery's program over ``num_steps`` prices.

    Decision variables ``charge``, ``discharge`` and ``state`` (num_steps,), MWh; uncertain ``price``
    (num_steps,), money per MWh; given ``initial_state``, MWh, which is ``initial_fraction`` of the
    capacity unless a caller gives it.

    Parameters
    ----------
    num_steps : int
        Steps decided.
    capacity_mwh : float
        Energy that the full battery holds.
    efficiency : float
        Share of the charged energy that is stored, in (0, 1].
    max_charge_mw, max_discharge_mw : float
        Largest power into and out of the battery.
    initial_fraction, final_fraction : float
        State before the first step, and least state after the last one, as shares of the capacity.
    level_cost : float
        lambda, money per MWh^2: keeps the state near one half.
    power_cost : float
        eps, money per MWh^2: spreads charge and discharge.
    degradation_cost : float
        w, money per MWh moved in or out.
    step_hours : float
        Length of one step.

    Raises
    ------
    ConfigError
        A parameter outside its range; names key, value and range.
    """
    checks.whole(1, num_steps=num_steps)
    checks.positive(capacity_mwh=capacity_mwh, efficiency=efficiency, step_hours=step_hours)
    checks.at_least(0.0, max_charge_mw=max_charge_mw, max_discharge_mw=max_discharge_mw)
    checks.at_least(0.0, level_cost=level_cost, power_cost=power_cost, degradation_cost=degradation_cost)
    checks.within(0.0, 1.0, efficiency=efficiency)
    checks.within(0.0, 1.0, initial_fraction=initial_fraction, final_fraction=final_fraction)
    _check_final_state(
        capacity_mwh * (final_fraction - initial_fraction),
        num_steps * step_hours * efficiency * max_charge_mw,
        final_fraction,
    )

    charge = cp.Variable(num_steps, name="charge")
    discharge = cp.Variable(num_steps, name="discharge")
    state = cp.Variable(num_steps, name="state")
    price = cp.Parameter(num_steps, name="price")
    initial_state = cp.Parameter(1, name="initial_state", value=[initial_fraction * capacity_mwh])
    before = cp.hstack([initial_state, state[:-1]]) if num_steps > 1 else initial_state
    moved = charge + discharge
    cost = (
        level_cost * cp.sum_squares(state - capacity_mwh / 2)
        + power_cost * (cp.sum_squares(charge) + cp.sum_squares(discharge))
        + degradation_cost * cp.sum(moved)
    )
    constraints = [
        state == before + efficiency * charge - discharge,
        state >= 0,
        state <= capacity_mwh,
        charge >= 0,
        charge <= step_hours * max_charge_mw,
        discharge >= 0,
        discharge <= step_hours * max_discharge_mw,
    ]
    if final_fraction > 0:
        constraints.append(state[num_steps - 1] >= final_fraction * capacity_mwh)
    return TwoStageProgram(
        name="battery_storage",
        decision=[charge, discharge, state],
        uncertain=price,
        given=[initial_state],
        constraints=constraints,
        cost=cost,
        recourse_cost=price @ (charge - discharge),
    )


def _check_final_state(rise_mwh: float, reachable_mwh: float, final_fraction: float) -> None:
    if rise_mwh > reachable_mwh:
        raise ConfigError(
            f"final_fraction = {final_fraction!r}: the state would have to rise by {rise_mwh:g} MWh and "
            f"can rise by {reachable_mwh:g} MWh in all steps; lower it, or raise max_charge_mw",
            key="final_fraction",
        )
