"""Scenarios brought to their own central paths at a fixed decision, one tile after another.

With the decision held, scenarios have nothing in common: a tile is followed to its end while it lies in the
first-level cache, and all of them together cost about as much as two iterations that run through memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_calls import BEGIN, FINISH, PREDICT, borrowed, run
from hedgecast.decisions.kernels_code import compiled
from hedgecast.decisions.kernels_context import MOST_CENTERING, STEP_FRACTION, Results, largest_of
from hedgecast.decisions.kernels_layout import Lanes, clear_sums
from hedgecast.decisions.kernels_passes import Block, add_lanes, new_block, new_lanes, pack_context, spread
from hedgecast.decisions.kernels_pattern import Coefficients, Pattern

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Feasible, and products within a tenth of the barrier: from there each step squares the distance.
_FEASIBLE = 1e-7
_CENTERED = 0.1
# As many more bring them to rounding: differences of sums are taken.
_POLISHING = 2
_MOST_STEPS = 100
# What has not come there by then goes on without second-order terms, in steps that stay near the path.
_BOLD_STEPS = 20
_SAFE_CENTERING = 0.2


class Settled(NamedTuple):
    """What the scenarios bring to the first stage at their central points, in scaled costs."""

    gradient: FloatArray
    """(B, n): of the expected recourse cost in x."""
    hessian: FloatArray
    """(B, n, n): its second derivative."""
    unsettled: IntArray
    """(B,): tiles that did not come to their central points, as where a scenario has no recourse."""


@compiled
def settle_contexts(
    p: Pattern,
    c: Coefficients,
    weight: FloatArray,
    measure: FloatArray,
    regularization: float,
    barrier: FloatArray,
    members: IntArray,
    lanes: int,
    code: IntArray,
    work: tuple[FloatArray, ...],
    result: Results,
    settled: Settled,
) -> None:
    """Write recourse, multipliers and slacks of all scenarios near their central points at ``result.x``.

    Parameters
    ----------
    p, c, weight, measure, members, lanes, code, work
        See `hedgecast.decisions.kernels_context.solve_contexts`; the passes must be generated.
    barrier : (B,)
        Product of each slack and its multiplier, in scaled costs.
    result : Results
        ``x`` is read; w, y, z and s are written.
    settled : Settled
        Written.
    """
    p, c, code, work = borrowed(p), borrowed(c), borrowed(code), borrowed(work)
    result, settled = borrowed(result), borrowed(settled)
    tiles = result.w.shape[1]
    a = new_lanes(p, lanes)
    a.regularization[:] = regularization
    accumulated = np.empty(p.hessian_row.shape[0])
    for member in members:
        d = pack_context(c, member, weight, measure, tiles, lanes)
        w, y, z, s = result.w[member], result.y[member], result.z[member], result.s[member]
        block = new_block(d, w, y, z, s, work, a, code)
        scale = 1.0 + max(largest_of(c.h, member), largest_of(c.k, member))
        accumulated[:], settled.gradient[member] = 0.0, 0.0
        settled.unsettled[member] = _settle(
            block, a, result.x[member], barrier[member], scale, accumulated, settled.gradient[member]
        )
        settled.hessian[member] = 0.0
        for e in range(accumulated.shape[0]):
            row, col = p.hessian_row[e], p.hessian_col[e]
            settled.hessian[member, row, col] += accumulated[e]
            if row != col:
                settled.hessian[member, col, row] += accumulated[e]


@compiled
def _settle(
    block: Block,
    a: Lanes,
    x: FloatArray,
    barrier: float,
    scale: float,
    hessian: FloatArray,
    gradient: FloatArray,
) -> int:
    block, a = borrowed(block), borrowed(a)
    spread(x, a.x)
    a.dx[:] = 0.0
    unsettled = 0
    kept = (
        np.empty(block.w.shape[1:]), np.empty(block.y.shape[1:]),
        np.empty(block.z.shape[1:]), np.empty(block.s.shape[1:]),
    )  # fmt: skip
    for i in range(block.w.shape[0]):
        if not _settle_tile(block, a, i, barrier, scale, kept):
            unsettled += 1
        add_lanes(a.hessian, hessian)
        add_lanes(a.dual_x, gradient)
    return unsettled


@compiled
def _settle_tile(
    block: Block, a: Lanes, i: int, barrier: float, scale: float, kept: tuple[FloatArray, ...]
) -> bool:
    w, y, z, s, measure = block.w[i], block.y[i], block.z[i], block.s[i], block.d.measure[i, 0]
    dw, dy, work_z, work_s = block.work[0][i], block.work[1][i], block.work[2][i], block.work[3][i]
    begin, predict, finish = block.code[BEGIN], block.code[PREDICT], block.code[FINISH]
    table, lanes, rows = np.int64(block.table.ctypes.data), w.shape[1], z.shape[0]
    count = max(rows, 1)
    w[:], y[:], z[:], s[:], dw[:], dy[:], work_z[:], work_s[:] = 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0
    a.floor[:], a.length[:], a.barrier[:], a.second_share[:], a.ratio[:] = 0.0, 0.0, 0.0, 0.0, 0.0
    clear_sums(a)
    run(begin, table, i, i + 1)
    run(finish, table, i, i + 1)
    w[:], y[:] = dw, dy
    for lane in range(lanes):
        total = 0.0
        for r in range(rows):
            s[r, lane] += work_s[r, lane]
            total += abs(s[r, lane])
        mean = max(total / count, 1e-3)
        for r in range(rows):
            s[r, lane] = max(s[r, lane], mean)
            z[r, lane] = 1.0
    a.floor[:], a.second_share[:] = barrier, 1.0
    polished = np.zeros(lanes, np.int64)
    for step in range(_MOST_STEPS):
        clear_sums(a)
        run(begin, table, i, i + 1)
        for lane in range(lanes):
            violation = max(a.primal[lane] / scale, a.dual[lane])
            # Maxima pass over what is no number; sums do not.
            near = a.off_center[lane] <= _CENTERED * barrier and np.isfinite(a.product[lane])
            if violation <= _FEASIBLE and near:
                polished[lane] += 1
                if polished[lane] <= _POLISHING + 1:
                    kept[0][:, lane], kept[1][:, lane] = w[:, lane], y[:, lane]
                    kept[2][:, lane], kept[3][:, lane] = z[:, lane], s[:, lane]
        if polished.min() > _POLISHING:
            # Rounding may have carried away who came first.
            w[:], y[:], z[:], s[:] = kept
            dw[:], dy[:], work_z[:], work_s[:] = 0.0, 0.0, 0.0, 0.0
            clear_sums(a)
            run(begin, table, i, i + 1)
            return True
        a.ratio[:], a.second[:] = 0.0, 0.0
        run(predict, table, i, i + 1)
        for lane in range(lanes):
            # Sums carry the measure, which is zero past the last scenario: that lane repeats it.
            share = measure[lane] * count
            mean = a.product[lane] / share if share > 0.0 else barrier
            curved = a.second[lane] / share if share > 0.0 else 0.0
            reach = min(1.0, 1.0 / a.ratio[lane]) if a.ratio[lane] > 0.0 else 1.0
            after = mean + reach * (barrier - mean) + reach * reach * curved
            fraction = min(max(after / mean, 0.0), 1.0)
            most = min(fraction**3, MOST_CENTERING)
            if a.second_share[lane] == 0.0:
                most = 1.0 if step < _BOLD_STEPS or a.length[lane] < 0.5 else _SAFE_CENTERING
            a.barrier[lane] = max(mean * most, barrier) - barrier
            a.ratio[lane] = 0.0
        run(finish, table, i, i + 1)
        for lane in range(lanes):
            length = 1.0 if a.ratio[lane] * 1.000001 < 1.0 else STEP_FRACTION / a.ratio[lane]
            a.length[lane] = length
            bold = step < _BOLD_STEPS and not (length < 0.1 and a.second_share[lane] > 0.0)
            a.second_share[lane] = 1.0 if bold else 0.0
    return False
