"""Compiled adjoint solve of one context after another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_calls import borrowed
from hedgecast.decisions.kernels_code import compiled
from hedgecast.decisions.kernels_context import Results
from hedgecast.decisions.kernels_first import (
    FirstStage,
    expected_costs,
    factor_first,
    own,
    rows_times,
    solve_first,
)
from hedgecast.decisions.kernels_layout import clear_sums
from hedgecast.decisions.kernels_passes import (
    Block,
    add_lanes,
    adjoint_backward_all,
    adjoint_forward_all,
    adjoint_right_side_all,
    begin_all,
    new_block,
    new_lanes,
    pack_context,
    spread,
)
from hedgecast.decisions.kernels_pattern import Coefficients, Pattern

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


@compiled
def _upstream(b: Block, grad_costs: FloatArray) -> None:
    """The cost gradients over the measure by lane: a scenario's equations are divided by its measure."""
    tiles, _, lanes = b.work[10].shape
    b.work[10][:] = 0.0
    for tile in range(tiles):
        for lane in range(lanes):
            s = tile * lanes + lane
            if s < grad_costs.shape[0] and grad_costs[s] != 0.0:
                b.work[10][tile, 0, lane] = grad_costs[s] / b.d.measure[tile, 0, lane]


@compiled
def adjoint_contexts(
    p: Pattern,
    c: Coefficients,
    f: FirstStage,
    weight: FloatArray,
    measure: FloatArray,
    regularization: float,
    members: IntArray,
    lanes: int,
    code: IntArray,
    work: tuple[FloatArray, ...],
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
    p, c, f, work, code = borrowed(p), borrowed(c), borrowed(f), borrowed(work), borrowed(code)
    weight, measure, point, adjoint = borrowed(weight), borrowed(measure), borrowed(point), borrowed(adjoint)
    n, size, tiles = p.num_first, p.envelope.shape[0], point.w.shape[1]
    a = new_lanes(p, lanes)
    a.regularization[:] = regularization
    hessian, gradient, factor = np.empty((n, n)), np.empty(n), np.zeros((size, size))
    accumulated, rhs = np.empty(p.hessian_row.shape[0]), np.empty(size)
    for member in members:
        d = pack_context(c, member, weight, measure, tiles, lanes)
        expected_costs(f, member, weight[member] * measure[member], hessian, gradient)
        w, y, z, s = point.w[member], point.y[member], point.z[member], point.s[member]
        clear_sums(a)
        a.floor[:], a.second_x[:] = 0.0, 0.0
        spread(point.x[member], a.x)
        block = new_block(d, w, y, z, s, work, a, code)
        # Nothing is to be moved: the last context's adjoint must not be taken for a step.
        work[0][:], work[1][:], work[2][:], work[3][:] = 0.0, 0.0, 0.0, 0.0
        begin_all(p, block, a, False)
        _upstream(block, grad_costs[member])
        adjoint_right_side_all(p, block, a)
        adjoint_forward_all(p, block, a)
        accumulated[:] = 0.0
        add_lanes(a.hessian, accumulated)
        ratio = point.multiplier[member] / point.slack[member]
        factor_first(
            p.envelope, p.hessian_row, p.hessian_col, f.g_ptr, f.g_col, own(f.G, member), f.a_ptr, f.a_col,
            own(f.A, member), hessian, accumulated, ratio, regularization, factor,
        )  # fmt: skip
        rhs[:n], rhs[n:] = -grad_x[member], 0.0
        add_lanes(a.second_x, rhs[:n])
        solve_first(p.envelope, factor, rhs)
        adjoint.x[member], adjoint.equality[member] = rhs[:n], rhs[n:]
        rows_times(f.g_ptr, f.g_col, own(f.G, member), rhs, adjoint.multiplier[member])
        adjoint.multiplier[member] *= ratio
        spread(rhs[:n], a.dx)
        adjoint_backward_all(p, block, a)
        _store(block, member, adjoint)


@compiled
def _store(block: Block, member: int, out: Adjoint) -> None:
    _by_scenario(block.work[0], out.w[member])
    _by_scenario(block.work[1], out.y[member])
    _by_scenario(block.work[2], out.z[member])


@compiled
def _by_scenario(tiles: FloatArray, out: FloatArray) -> None:
    """(tiles, entries, lanes) into (S, entries), where there is room."""
    lanes = tiles.shape[2]
    for tile in range(tiles.shape[0]):
        for lane in range(min(lanes, out.shape[0] - tile * lanes)):
            row = out[tile * lanes + lane]
            for entry in range(tiles.shape[1]):
                row[entry] = tiles[tile, entry, lane]
