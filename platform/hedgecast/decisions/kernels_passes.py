"""A context's numbers by tiles, the working arrays, and one pass over all tiles of a context.

Where a template has generated code, a pass is one call of it; elsewhere `kernels_tile` interprets the
template's lists tile by tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_calls import (
    BACKWARD,
    BEGIN,
    COSTS,
    FINISH,
    FORWARD,
    PREDICT,
    RIGHT_SIDE,
    run,
)
from hedgecast.decisions.kernels_code import compiled
from hedgecast.decisions.kernels_first import own
from hedgecast.decisions.kernels_layout import Lanes, Tile
from hedgecast.decisions.kernels_pattern import Coefficients, Pattern, Values
from hedgecast.decisions.kernels_tile import (
    adjoint_backward,
    adjoint_forward,
    adjoint_right_side,
    begin,
    finish,
    predict,
    recourse_costs,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Packed(NamedTuple):
    """Tile arrays (tiles, entries, lanes or 1) of one context's numbers."""

    V: FloatArray
    U: FloatArray
    W: FloatArray
    T: FloatArray
    Q: FloatArray
    R: FloatArray
    c: FloatArray
    h: FloatArray
    k: FloatArray
    weight: FloatArray
    measure: FloatArray


@compiled
def pack_values(values: Values, member: int, tiles: int, lanes: int) -> FloatArray:
    """One tensor of one context by tiles; lanes past the last scenario repeat it."""
    if not values.varies:
        shared = own(values.shared, member)
        out = np.empty((1, shared.shape[0], 1))
        out[0, :, 0] = shared
        return out
    block = values.varying[member if values.varying.shape[0] > 1 else 0]
    count = block.shape[0]
    out = np.empty((tiles, block.shape[1], lanes))
    for tile in range(tiles):
        for lane in range(lanes):
            s = min(tile * lanes + lane, count - 1)
            for e in range(block.shape[1]):
                out[tile, e, lane] = block[s, e]
    return out


@compiled
def pack_row(row: FloatArray, tiles: int, lanes: int, fill: bool) -> FloatArray:
    """(tiles, 1, lanes) of a per-scenario row; past its end the last value, or zero without ``fill``."""
    out = np.zeros((tiles, 1, lanes))
    for tile in range(tiles):
        for lane in range(lanes):
            s = tile * lanes + lane
            if s < row.shape[0]:
                out[tile, 0, lane] = row[s]
            elif fill:
                out[tile, 0, lane] = row[row.shape[0] - 1]
    return out


@compiled
def pack_context(
    c: Coefficients, member: int, weight: FloatArray, measure: FloatArray, tiles: int, lanes: int
) -> Packed:
    """All numbers of one context by tiles."""
    return Packed(
        pack_values(c.V, member, tiles, lanes),
        pack_values(c.U, member, tiles, lanes),
        pack_values(c.W, member, tiles, lanes),
        pack_values(c.T, member, tiles, lanes),
        pack_values(c.Q, member, tiles, lanes),
        pack_values(c.R, member, tiles, lanes),
        pack_values(c.c, member, tiles, lanes),
        pack_values(c.h, member, tiles, lanes),
        pack_values(c.k, member, tiles, lanes),
        pack_row(weight[member], tiles, lanes, True),
        pack_row(measure[member], tiles, lanes, False),
    )


@compiled
def _at(values: FloatArray, tile: int) -> FloatArray:
    return values[tile if values.shape[0] > 1 else 0]


@compiled
def tile_of(
    d: Packed,
    w: FloatArray,
    y: FloatArray,
    z: FloatArray,
    s: FloatArray,
    work: tuple[FloatArray, ...],
    i: int,
) -> Tile:
    """Views of tile ``i``."""
    return Tile(
        w[i], y[i], z[i], s[i],
        work[0][i], work[1][i], work[2][i], work[3][i], work[4][i], work[5][i], work[6][i], work[7][i],
        work[8][i],
        _at(d.V, i), _at(d.U, i), _at(d.W, i), _at(d.T, i), _at(d.Q, i), _at(d.R, i),
        _at(d.c, i), _at(d.h, i), _at(d.k, i),
        d.weight[i], d.measure[i],
    )  # fmt: skip


@compiled
def aligned(count: int) -> FloatArray:
    """Zeros that begin at a cache line: a vector that straddles two costs two reads."""
    buffer = np.zeros(count + 8)
    skip = (8 - (np.int64(buffer.ctypes.data) // 8) % 8) % 8
    return buffer[skip : skip + count]


@compiled
def _rows(count: int, lanes: int) -> FloatArray:
    return aligned(count * lanes).reshape(count, lanes)


@compiled
def new_lanes(p: Pattern, lanes: int) -> Lanes:
    """Sums and scratch of one thread."""
    n = p.num_first
    return Lanes(
        _rows(n, lanes), _rows(n, lanes), _rows(p.hessian_row.shape[0], lanes),
        _rows(n, lanes), _rows(n, lanes), _rows(n, lanes), _rows(n, lanes),
        aligned(lanes), aligned(lanes), aligned(lanes), aligned(lanes), aligned(lanes), aligned(lanes),
        aligned(lanes), aligned(lanes), aligned(lanes), aligned(lanes), aligned(lanes),
        _rows(p.num_nodes, lanes), _rows(p.num_recourse, lanes), _rows(p.num_nodes, lanes), _rows(4, lanes),
    )  # fmt: skip


@compiled
def spread(values: FloatArray, out: FloatArray) -> None:
    """Copy (n,) into every lane of (n, lanes)."""
    for i in range(values.shape[0]):
        out[i, :] = values[i]


@compiled
def add_lanes(values: FloatArray, out: FloatArray) -> None:
    """``out += values`` summed over lanes."""
    for i in range(out.shape[0]):
        total = 0.0
        for lane in range(values.shape[1]):
            total += values[i, lane]
        out[i] += total


@compiled
def address_table(
    d: Packed,
    w: FloatArray,
    y: FloatArray,
    z: FloatArray,
    s: FloatArray,
    work: tuple[FloatArray, ...],
    a: Lanes,
) -> IntArray:
    """Addresses of all arrays, in the order of `hedgecast.decisions.kernels_emit.ARRAYS`."""
    return np.array(
        [
            w.ctypes.data, y.ctypes.data, z.ctypes.data, s.ctypes.data,
            work[0].ctypes.data, work[1].ctypes.data, work[2].ctypes.data, work[3].ctypes.data,
            work[4].ctypes.data, work[6].ctypes.data, work[7].ctypes.data, work[8].ctypes.data,
            work[9].ctypes.data, d.weight.ctypes.data, d.measure.ctypes.data, work[10].ctypes.data,
            d.V.ctypes.data, d.U.ctypes.data, d.W.ctypes.data, d.T.ctypes.data, d.Q.ctypes.data,
            d.R.ctypes.data, d.c.ctypes.data, d.h.ctypes.data, d.k.ctypes.data,
            a.x.ctypes.data, a.dx.ctypes.data, a.hessian.ctypes.data, a.dual_x.ctypes.data,
            a.affine_x.ctypes.data, a.centering_x.ctypes.data, a.second_x.ctypes.data,
            a.length.ctypes.data, a.floor.ctypes.data, a.barrier.ctypes.data, a.second_share.ctypes.data,
            a.primal.ctypes.data, a.dual.ctypes.data, a.product.ctypes.data, a.second.ctypes.data,
            a.ratio.ctypes.data, a.off_center.ctypes.data, a.regularization.ctypes.data,
            a.nodes.ctypes.data, a.gradient.ctypes.data, a.second_nodes.ctypes.data,
        ]
    ).astype(np.int64)  # fmt: skip


class Block(NamedTuple):
    """One context's tiles: numbers, variables, working arrays, and the code of the passes."""

    d: Packed
    w: FloatArray
    y: FloatArray
    z: FloatArray
    s: FloatArray
    work: tuple[FloatArray, ...]
    code: IntArray
    table: IntArray


@compiled
def new_block(
    d: Packed,
    w: FloatArray,
    y: FloatArray,
    z: FloatArray,
    s: FloatArray,
    work: tuple[FloatArray, ...],
    a: Lanes,
    code: IntArray,
) -> Block:
    """The tiles of one context; ``code`` holds zeros where its passes are interpreted."""
    return Block(d, w, y, z, s, work, code, address_table(d, w, y, z, s, work, a))


@compiled
def _generated(b: Block, which: int) -> bool:
    """Run generated code on all tiles, where there is any."""
    if b.code[which] == 0:
        return False
    run(b.code[which], np.int64(b.table.ctypes.data), 0, b.w.shape[0])
    return True


@compiled
def begin_all(p: Pattern, b: Block, a: Lanes, moving: bool) -> None:
    """First pass of an iteration; with ``moving`` the last step is applied first, else ``length`` is zero."""
    if not _generated(b, BEGIN):
        for i in range(b.w.shape[0]):
            t = tile_of(b.d, b.w, b.y, b.z, b.s, b.work, i)
            begin(p, t, a, a.regularization[0], moving)


@compiled
def predict_all(p: Pattern, b: Block, a: Lanes) -> None:
    """Second pass: the affine step."""
    if not _generated(b, PREDICT):
        for i in range(b.w.shape[0]):
            predict(p, tile_of(b.d, b.w, b.y, b.z, b.s, b.work, i), a)


@compiled
def finish_all(p: Pattern, b: Block, a: Lanes) -> None:
    """Third pass: the corrected step."""
    if not _generated(b, FINISH):
        for i in range(b.w.shape[0]):
            finish(p, tile_of(b.d, b.w, b.y, b.z, b.s, b.work, i), a)


@compiled
def costs_all(p: Pattern, b: Block, a: Lanes) -> None:
    """The recourse costs of all scenarios, into ``work[9]``."""
    b.work[9][:] = 0.0
    if not _generated(b, COSTS):
        for i in range(b.w.shape[0]):
            recourse_costs(p, tile_of(b.d, b.w, b.y, b.z, b.s, b.work, i), a, b.work[9][i, 0])


@compiled
def adjoint_right_side_all(p: Pattern, b: Block, a: Lanes) -> None:
    """Right-hand side of the adjoint from ``work[10]``, the costs' gradient over the measure."""
    if not _generated(b, RIGHT_SIDE):
        for i in range(b.w.shape[0]):
            t = tile_of(b.d, b.w, b.y, b.z, b.s, b.work, i)
            adjoint_right_side(p, t, a, b.work[10][i, 0])


@compiled
def adjoint_forward_all(p: Pattern, b: Block, a: Lanes) -> None:
    """Forward elimination of the adjoint's right-hand side in ``affine``."""
    if not _generated(b, FORWARD):
        for i in range(b.w.shape[0]):
            adjoint_forward(p, tile_of(b.d, b.w, b.y, b.z, b.s, b.work, i), a)


@compiled
def adjoint_backward_all(p: Pattern, b: Block, a: Lanes) -> None:
    """The adjoint of w, y and the inequality rows, into ``work[0]``, ``work[1]`` and ``work[2]``."""
    if not _generated(b, BACKWARD):
        for i in range(b.w.shape[0]):
            adjoint_backward(p, tile_of(b.d, b.w, b.y, b.z, b.s, b.work, i), a)
