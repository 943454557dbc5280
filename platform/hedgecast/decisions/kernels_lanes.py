"""Compiled interior-point loop for deterministic programs: one program per lane, no first stage.

Every program of a tile has its own barrier, step and end; a finished one waits, unmoved, for the
slowest of its tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_calls import borrowed
from hedgecast.decisions.kernels_code import compiled
from hedgecast.decisions.kernels_context import (
    CENTRAL,
    GAP_SHARE,
    MOST_CENTERING,
    STEP_FRACTION,
    Settings,
)
from hedgecast.decisions.kernels_layout import Lanes, Tile, clear_sums
from hedgecast.decisions.kernels_passes import (
    Block,
    Packed,
    adjoint_backward_all,
    adjoint_forward_all,
    aligned,
    begin_all,
    costs_all,
    finish_all,
    new_block,
    new_lanes,
    predict_all,
    tile_of,
)
from hedgecast.decisions.kernels_pattern import Coefficients, Pattern, Values

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class LaneResults(NamedTuple):
    """Solutions by program: (B, entries)."""

    w: FloatArray
    y: FloatArray
    z: FloatArray
    s: FloatArray


class LaneReport(NamedTuple):
    """What the loop says about each program, (B,) each."""

    primal: FloatArray
    dual: FloatArray
    gap: FloatArray
    converged: npt.NDArray[np.bool_]
    central_found: npt.NDArray[np.bool_]
    iterations: IntArray


@compiled
def _one_tile(count: int, lanes: int) -> FloatArray:
    return aligned(count * lanes).reshape(1, count, lanes)


@compiled
def pack_programs(values: Values, start: int, lanes: int) -> FloatArray:
    """(1, entries, lanes or 1) of programs from ``start`` on; lanes past the last one repeat it."""
    if not values.varies:
        out = np.empty((1, values.shared.shape[1], 1))
        out[0, :, 0] = values.shared[0]
        return out
    block = values.varying[0]
    out = _one_tile(block.shape[1], lanes)
    for lane in range(lanes):
        row = min(start + lane, block.shape[0] - 1)
        for e in range(block.shape[1]):
            out[0, e, lane] = block[row, e]
    return out


@compiled
def pack_lanes(c: Coefficients, weight: FloatArray, start: int, lanes: int) -> Packed:
    """The numbers of one tile of programs."""
    weights, measure = _one_tile(1, lanes), _one_tile(1, lanes)
    measure[:] = 1.0
    for lane in range(lanes):
        weights[0, 0, lane] = weight[min(start + lane, weight.shape[0] - 1)]
    return Packed(
        pack_programs(c.V, start, lanes),
        pack_programs(c.U, start, lanes),
        pack_programs(c.W, start, lanes),
        pack_programs(c.T, start, lanes),
        pack_programs(c.Q, start, lanes),
        pack_programs(c.R, start, lanes),
        pack_programs(c.c, start, lanes),
        pack_programs(c.h, start, lanes),
        pack_programs(c.k, start, lanes),
        weights,
        measure,
    )


@compiled
def solve_lanes(
    p: Pattern,
    c: Coefficients,
    weight: FloatArray,
    constant: FloatArray,
    settings: Settings,
    tiles: IntArray,
    lanes: int,
    code: IntArray,
    work: tuple[FloatArray, ...],
    result: LaneResults,
    central: LaneResults,
    report: LaneReport,
) -> None:
    """Solve the programs of the given tiles.

    Parameters
    ----------
    p, c
        Template and tensors, programs along the scenario axis of ``c``.
    weight : (B,)
        Factor on each program's costs.
    constant : (B,)
        Constant cost of each program.
    settings : Settings
    tiles : (count,)
        Tiles of this call.
    lanes : int
        Programs of a tile.
    code : (passes,)
        Addresses of the template's generated passes; zeros where they are interpreted.
    work : tuple of (1, entries, lanes)
        Working arrays of one tile.
    result, central, report
        Written at the programs' places; ``central`` only with smoothing.
    """
    p, c, work, code = borrowed(p), borrowed(c), borrowed(work), borrowed(code)
    result, central, report = borrowed(result), borrowed(central), borrowed(report)
    a = new_lanes(p, lanes)
    a.regularization[:] = settings.regularization
    w, y = _one_tile(p.num_recourse, lanes), _one_tile(p.num_equalities, lanes)
    z, s = _one_tile(p.num_inequalities, lanes), _one_tile(p.num_inequalities, lanes)
    for tile in tiles:
        start = tile * lanes
        d = pack_lanes(c, weight, start, lanes)
        block = new_block(d, w, y, z, s, work, a, code)
        _solve_tile(p, block, a, start, constant, settings, result, central, report)


@compiled
def _row_scale(t: Tile, scale: FloatArray) -> None:
    """One plus each lane's largest right-hand side."""
    scale[:] = 0.0
    for lane in range(scale.shape[0]):
        for r in range(t.h.shape[0]):
            scale[lane] = max(scale[lane], abs(t.h[r, 0 if t.h.shape[1] == 1 else lane]))
        for r in range(t.k.shape[0]):
            scale[lane] = max(scale[lane], abs(t.k[r, 0 if t.k.shape[1] == 1 else lane]))
        scale[lane] += 1.0


@compiled
def _inner_start(t: Tile, rows: int) -> None:
    """After the start's step: w, y there, slacks pushed inside, unit multipliers."""
    t.w[:] = t.dw
    t.y[:] = t.dy
    for lane in range(t.w.shape[1]):
        total = 0.0
        for r in range(rows):
            t.s[r, lane] += t.work_s[r, lane]
            total += abs(t.s[r, lane])
        mean = max(total / max(rows, 1), 1e-3)
        for r in range(rows):
            t.s[r, lane] = max(t.s[r, lane], mean)
            t.z[r, lane] = 1.0


@compiled
def _store(t: Tile, lane: int, member: int, out: LaneResults) -> None:
    for i in range(t.w.shape[0]):
        out.w[member, i] = t.w[i, lane]
    for i in range(t.y.shape[0]):
        out.y[member, i] = t.y[i, lane]
    for i in range(t.z.shape[0]):
        out.z[member, i] = t.z[i, lane]
        out.s[member, i] = t.s[i, lane]


@compiled
def _solve_tile(
    p: Pattern,
    block: Block,
    a: Lanes,
    start: int,
    constant: FloatArray,
    settings: Settings,
    result: LaneResults,
    central: LaneResults,
    report: LaneReport,
) -> None:
    # Their owner is the caller.
    block, a = borrowed(block), borrowed(a)
    t = borrowed(tile_of(block.d, block.w, block.y, block.z, block.s, block.work, 0))
    lanes, rows = t.w.shape[1], p.num_inequalities
    used = min(lanes, result.w.shape[0] - start)
    smoothing = settings.smoothing * t.weight[0]
    t.w[:], t.y[:], t.z[:], t.s[:] = 0.0, 0.0, 1.0, 1.0
    # A step that is applied with length zero must be a number.
    t.dw[:], t.dy[:], t.work_z[:], t.work_s[:] = 0.0, 0.0, 0.0, 0.0
    a.floor[:], a.length[:], a.barrier[:], a.second_share[:], a.ratio[:] = 0.0, 0.0, 0.0, 0.0, 0.0
    scale, costs = np.empty(lanes), block.work[9][0, 0]
    _row_scale(t, scale)
    finished = np.zeros(lanes, np.bool_)
    finished[used:] = True
    stalled, waiting = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    best, unit = np.full(lanes, np.inf), np.ones(lanes)
    # Iteration -1 makes the starting point: unit slacks and multipliers, and the affine step from there.
    for iteration in range(-1, settings.max_iterations + 1):
        clear_sums(a)
        begin_all(p, block, a, iteration > 0)
        if iteration == -1:
            finish_all(p, block, a)
            _inner_start(t, rows)
            a.floor[:], a.second_share[:] = smoothing, 1.0
            continue
        costs_all(p, block, a)
        open_lanes = 0
        for lane in range(used):
            if finished[lane]:
                continue
            member = start + lane
            primal, dual, product = a.primal[lane] / scale[lane], a.dual[lane] / 2.0, a.product[lane]
            violation = max(primal, dual)
            feasible = violation <= settings.tolerance
            central_point = a.off_center[lane] <= CENTRAL * a.floor[lane]
            if a.floor[lane] > 0.0 and central_point and violation <= min(settings.tolerance, 1e-6):
                _store(t, lane, member, central)
                report.central_found[member] = True
                # The right-hand side is linear in the floor: take its share out again.
                for j in range(p.num_nodes):
                    t.affine[j, lane] -= a.floor[lane] * t.centering[j, lane]
                a.floor[lane] = 0.0
            if violation < 0.9 * best[lane] or feasible:
                best[lane], waiting[lane] = min(best[lane], violation), 0
            else:
                waiting[lane] += 1
            hopeless = stalled[lane] >= 6 or waiting[lane] >= 15 or not np.isfinite(violation + product)
            value = abs(t.weight[0, lane] * (costs[lane] + constant[member]))
            gap = product / (t.weight[0, lane] + value)
            unit[lane] = min(t.weight[0, lane], 1.0) + value
            close = product <= settings.tolerance * unit[lane]
            done = feasible and a.floor[lane] == 0.0 and close
            if done or hopeless or iteration == settings.max_iterations:
                _store(t, lane, member, result)
                report.primal[member], report.dual[member], report.gap[member] = primal, dual, gap
                report.converged[member], report.iterations[member] = done, iteration
                finished[lane] = True
            else:
                open_lanes += 1
        if open_lanes == 0:
            return
        a.ratio[:], a.second[:] = 0.0, 0.0
        # A lane that only centers (share zero) ignores the second-order terms.
        predict_all(p, block, a)
        for lane in range(lanes):
            product, count = a.product[lane], max(rows, 1)
            reach = min(1.0, 1.0 / a.ratio[lane]) if a.ratio[lane] > 0.0 else 1.0
            after = product + reach * (a.floor[lane] * count - product) + reach * reach * a.second[lane]
            fraction = min(max(after / product, 0.0), 1.0)
            least = max(a.floor[lane], GAP_SHARE * settings.tolerance * unit[lane] / count)
            share = min(fraction**3, MOST_CENTERING) if a.second_share[lane] > 0.0 else 1.0
            a.barrier[lane] = max(product / count * share, least) - a.floor[lane]
            a.ratio[lane] = 0.0
        finish_all(p, block, a)
        for lane in range(lanes):
            ratio = a.ratio[lane]
            length = 1.0 if ratio * 1.000001 < 1.0 else STEP_FRACTION / ratio
            a.length[lane] = 0.0 if finished[lane] else length
            a.second_share[lane] = 0.0 if length < 0.1 and a.second_share[lane] > 0.0 else 1.0
            stalled[lane] = stalled[lane] + 1 if length < 1e-5 else 0


@compiled
def adjoint_lanes(
    p: Pattern,
    c: Coefficients,
    weight: FloatArray,
    regularization: float,
    tiles: IntArray,
    lanes: int,
    code: IntArray,
    work: tuple[FloatArray, ...],
    point: LaneResults,
    gradient: FloatArray,
    step: LaneResults,
) -> None:
    """Adjoints at given points: ``step`` holds -M^-1 (gradient, 0) by program.

    Parameters
    ----------
    gradient : (B, m)
        Of the loss in w.
    step : LaneResults
        Written: changes of w, y and z; ``s`` is not used.
    """
    p, c, work, code = borrowed(p), borrowed(c), borrowed(work), borrowed(code)
    point, step = borrowed(point), borrowed(step)
    a = new_lanes(p, lanes)
    a.regularization[:] = regularization
    w, y = _one_tile(p.num_recourse, lanes), _one_tile(p.num_equalities, lanes)
    z, s = _one_tile(p.num_inequalities, lanes), _one_tile(p.num_inequalities, lanes)
    total = point.w.shape[0]
    for tile in tiles:
        start = tile * lanes
        d = pack_lanes(c, weight, start, lanes)
        block = new_block(d, w, y, z, s, work, a, code)
        t = tile_of(d, w, y, z, s, work, 0)
        # Nothing is to be moved: the last tile's adjoint must not be taken for a step.
        t.dw[:], t.dy[:], t.work_z[:], t.work_s[:] = 0.0, 0.0, 0.0, 0.0
        for lane in range(lanes):
            member = min(start + lane, total - 1)
            t.w[:, lane], t.y[:, lane] = point.w[member], point.y[member]
            t.z[:, lane], t.s[:, lane] = point.z[member], point.s[member]
        clear_sums(a)
        begin_all(p, block, a, False)
        t.affine[:] = 0.0
        for lane in range(lanes):
            member = min(start + lane, total - 1)
            for col in range(p.num_recourse):
                t.affine[p.position[col], lane] = -gradient[member, col]
        adjoint_forward_all(p, block, a)
        adjoint_backward_all(p, block, a)
        for lane in range(min(lanes, total - start)):
            member = start + lane
            for col in range(p.num_recourse):
                step.w[member, col] = t.dw[col, lane]
            for row in range(p.num_equalities):
                step.y[member, row] = t.dy[row, lane]
            for row in range(p.num_inequalities):
                step.z[member, row] = t.work_z[row, lane]
