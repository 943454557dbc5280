"""How scenarios lie in memory in the compiled loops: tiles of a few side by side, and sums by lane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_code import compiled

FloatArray = npt.NDArray[np.float64]


class Tile(NamedTuple):
    """State of one tile, (entries, lanes) each; all tiles of a context lie one after the other."""

    w: FloatArray
    y: FloatArray
    z: FloatArray
    s: FloatArray
    dw: FloatArray
    dy: FloatArray
    work_z: FloatArray
    """Row residual, then the multiplier's step."""
    work_s: FloatArray
    """Second-order term over the slack, then the slack's step."""
    inverse_s: FloatArray
    residual_y: FloatArray
    factor: FloatArray
    """(nodes + entries, lanes): inverse pivots, then L."""
    affine: FloatArray
    """(nodes, lanes): forward-eliminated right-hand side."""
    centering: FloatArray
    """(nodes, lanes): its derivative in the barrier."""
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
    """(1, lanes): cost weight in the scenario's own units."""
    measure: FloatArray
    """(1, lanes): zero in lanes that only pad."""


class Lanes(NamedTuple):
    """Per-lane sums and maxima over the rows and tiles, and the scratch of a tile."""

    x: FloatArray
    """(n, lanes): the first-stage point."""
    dx: FloatArray
    hessian: FloatArray
    """(accumulators, lanes)."""
    dual_x: FloatArray
    """(n, lanes): scenarios' part of the stationarity in x."""
    affine_x: FloatArray
    """(n, lanes): what the blocks add to the affine right-hand side in x."""
    centering_x: FloatArray
    second_x: FloatArray
    length: FloatArray
    """(lanes,): step just taken."""
    floor: FloatArray
    barrier: FloatArray
    """(lanes,): target of the corrected step less the floor."""
    second_share: FloatArray
    """(lanes,): one where the second-order terms are used, zero in a centering step."""
    primal: FloatArray
    """(lanes,): largest row residual."""
    dual: FloatArray
    product: FloatArray
    """(lanes,): sum of slack times multiplier, weighted."""
    second: FloatArray
    """(lanes,): sum of the affine steps' products, weighted."""
    ratio: FloatArray
    """(lanes,): one over the longest step."""
    off_center: FloatArray
    regularization: FloatArray
    """(lanes,): added to pivots."""
    nodes: FloatArray
    """(nodes, lanes) scratch."""
    gradient: FloatArray
    """(m, lanes) scratch: stationarity in w."""
    second_nodes: FloatArray
    """(nodes, lanes) scratch of generated code: right-hand side of the second-order terms."""
    row: FloatArray
    """(4, lanes) scratch."""


# The loops below index two-dimensional arrays directly and call nothing inside: a call that takes a row
# costs more than the row's arithmetic (1.34 against 0.19 ns per entry, compiler 0.68), because array
# views are counted and the loop behind the call is not vectorized with what surrounds it. Each loop is
# written twice, for a value shared by all lanes and for one that varies.


@compiled
def clear_sums(a: Lanes) -> None:
    """Zero everything that `begin` adds up."""
    a.hessian[:] = 0.0
    a.dual_x[:] = 0.0
    a.affine_x[:] = 0.0
    a.centering_x[:] = 0.0
    a.primal[:] = 0.0
    a.dual[:] = 0.0
    a.product[:] = 0.0
    a.off_center[:] = 0.0
