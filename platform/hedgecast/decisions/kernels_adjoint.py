"""Compiled adjoint solve of one context after another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hedgecast.decisions.kernels_context import (
    Results,
    add_lanes,
    new_lanes,
    new_work,
    pack_context,
    spread,
    tile_of,
)
from hedgecast.decisions.kernels_first import (
    FirstStage,
    expected_costs,
    factor_first,
    own,
    rows_times,
    solve_first,
)
from hedgecast.decisions.kernels_pattern import Coefficients, Pattern
from hedgecast.decisions.kernels_tile import (
    OPTIONS,
    Lanes,
    Tile,
    adjoint_backward,
    adjoint_forward,
    begin,
    clear_sums,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Adjoint(NamedTuple):
    """-M^-1 gradient by context and scenario; scenario multipliers in the scenario's own units."""

    x: FloatArray
    equality: FloatArray
    multiplier: FloatArray
    w: FloatArray
    """(B, S, m)."""
    y: FloatArray
    z: FloatArray


@njit(**OPTIONS)
def _right_side(p: Pattern, t: Tile, a: Lanes, tile: int, grad_costs: FloatArray) -> None:
    """Minus the gradient in w over the measure, into ``affine``; R'w's part of the gradient in x."""
    lanes = t.w.shape[1]
    t.affine[:] = 0.0
    for lane in range(lanes):
        s = tile * lanes + lane
        if s >= grad_costs.shape[0] or grad_costs[s] == 0.0:
            continue
        # A cost gradient is per scenario; a scenario's equations are divided by its measure.
        share = grad_costs[s] / t.measure[0, lane]
        for col in range(p.num_recourse):
            t.affine[p.position[col], lane] -= share * t.c[col, 0 if t.c.shape[1] == 1 else lane]
        for e in range(p.q_row.shape[0]):
            value = t.Q[e, 0 if t.Q.shape[1] == 1 else lane]
            t.affine[p.position[p.q_row[e]], lane] -= share * value * t.w[p.q_col[e], lane]
        for e in range(p.r_row.shape[0]):
            value = t.R[e, 0 if t.R.shape[1] == 1 else lane]
            t.affine[p.position[p.r_row[e]], lane] -= share * value * a.x[p.r_col[e], lane]
            a.second_x[p.r_col[e], lane] -= grad_costs[s] * value * t.w[p.r_row[e], lane]


@njit(**OPTIONS)
def adjoint_contexts(
    p: Pattern,
    c: Coefficients,
    f: FirstStage,
    weight: FloatArray,
    measure: FloatArray,
    regularization: float,
    members: IntArray,
    lanes: int,
    point: Results,
    grad_x: FloatArray,
    grad_costs: FloatArray,
    adjoint: Adjoint,
) -> None:
    """Adjoints of the given contexts.

    Parameters
    ----------
    point : Results
        Where gradients are taken.
    grad_x : (B, n)
        Gradient of the loss in x, the costs' dependence on x through O and o included.
    grad_costs : (B, S)
        Gradient of the loss in the scenario costs.
    adjoint : Adjoint
        Written; w, y and z only where they have room.
    """
    n, size, tiles = p.num_first, p.envelope.shape[0], point.w.shape[1]
    a, work = new_lanes(p, lanes), new_work(p, tiles, lanes)
    hessian, gradient, factor = np.empty((n, n)), np.empty(n), np.zeros((size, size))
    accumulated, rhs = np.empty(p.hessian_row.shape[0]), np.empty(size)
    for member in members:
        d = pack_context(c, member, weight, measure, tiles, lanes)
        expected_costs(f, member, weight[member] * measure[member], hessian, gradient)
        w, y, z, s = point.w[member], point.y[member], point.z[member], point.s[member]
        clear_sums(a)
        a.floor[:], a.second_x[:] = 0.0, 0.0
        spread(point.x[member], a.x)
        for i in range(tiles):
            t = tile_of(d, w, y, z, s, work, i)
            begin(p, t, a, regularization, False)
            _right_side(p, t, a, i, grad_costs[member])
            adjoint_forward(p, t, a)
        accumulated[:] = 0.0
        add_lanes(a.hessian, accumulated)
        ratio = point.multiplier[member] / point.slack[member]
        factor_first(p, f, member, hessian, accumulated, ratio, regularization, factor)
        rhs[:n], rhs[n:] = -grad_x[member], 0.0
        add_lanes(a.second_x, rhs[:n])
        solve_first(p.envelope, factor, rhs)
        adjoint.x[member], adjoint.equality[member] = rhs[:n], rhs[n:]
        rows_times(f.g_ptr, f.g_col, own(f.G, member), rhs, adjoint.multiplier[member])
        adjoint.multiplier[member] *= ratio
        spread(rhs[:n], a.dx)
        for i in range(tiles):
            t = tile_of(d, w, y, z, s, work, i)
            adjoint_backward(p, t, a)
            _store(p, t, a, i, member, adjoint)


@njit(**OPTIONS)
def _store(p: Pattern, t: Tile, a: Lanes, tile: int, member: int, out: Adjoint) -> None:
    lanes = t.w.shape[1]
    for lane in range(lanes):
        s = tile * lanes + lane
        if s < out.w.shape[1]:
            for col in range(p.num_recourse):
                out.w[member, s, col] = a.nodes[p.position[col], lane]
        if s < out.y.shape[1]:
            for row in range(p.num_equalities):
                out.y[member, s, row] = a.nodes[p.position[p.num_recourse + row], lane]
        if s < out.z.shape[1]:
            for row in range(p.num_inequalities):
                out.z[member, s, row] = t.work_z[row, lane]
