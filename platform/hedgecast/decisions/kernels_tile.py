"""Compiled passes of the interior-point method over one tile: some tens of scenarios, side by side.

Every array of a tile is (entries, lanes) with the lanes contiguous, so that each loop over lanes is one
run of vector instructions and the template's index lists are read once per tile. A lane is one scenario;
all sums over lanes are kept per lane (the callers add them up), so the same passes serve a context whose
scenarios share x and a batch of deterministic programs in which each lane is a program of its own.

The equations are those of `hedgecast.decisions.interior_point` without risk. One iteration is three passes:

- `begin`: apply the last step, residuals, factor, forward elimination of the affine right-hand side and
  of the derivative in the barrier;
- `predict`: affine step, its length, second-order terms and their forward elimination;
- `finish`: the corrected step and its length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_code import compiled
from hedgecast.decisions.kernels_layout import Lanes, Tile
from hedgecast.decisions.kernels_pattern import Pattern

FloatArray = npt.NDArray[np.float64]


@compiled
def begin(p: Pattern, t: Tile, a: Lanes, regularization: float, moving: bool) -> None:
    """First pass of an iteration; with ``moving`` the last step is applied first."""
    if moving:
        _move(t, a)
    lanes = t.w.shape[1]
    t.factor[:] = 0.0
    t.affine[:] = 0.0
    t.centering[:] = 0.0
    _cost_terms(p, t, a)
    _inequality_rows(p, t, a)
    _equality_rows(p, t, a)
    for col in range(p.num_recourse):
        node = p.position[col]
        for lane in range(lanes):
            t.affine[node, lane] -= a.gradient[col, lane]
            t.factor[node, lane] += regularization
            a.dual[lane] = max(a.dual[lane], abs(a.gradient[col, lane]))
    for row in range(p.num_equalities):
        node = p.position[p.num_recourse + row]
        for lane in range(lanes):
            t.affine[node, lane] = -t.residual_y[row, lane]
            t.factor[node, lane] -= regularization
    _eliminate(p, t, a)


@compiled
def _move(t: Tile, a: Lanes) -> None:
    lanes = t.w.shape[1]
    for i in range(t.w.shape[0]):
        for lane in range(lanes):
            t.w[i, lane] += a.length[lane] * t.dw[i, lane]
    for i in range(t.y.shape[0]):
        for lane in range(lanes):
            t.y[i, lane] += a.length[lane] * t.dy[i, lane]
    for i in range(t.z.shape[0]):
        for lane in range(lanes):
            t.z[i, lane] += a.length[lane] * t.work_z[i, lane]
        for lane in range(lanes):
            t.s[i, lane] += a.length[lane] * t.work_s[i, lane]


@compiled
def _cost_terms(p: Pattern, t: Tile, a: Lanes) -> None:
    """Gradient of the weighted costs in w into ``gradient``, their couplings into factor and dual_x."""
    lanes = t.w.shape[1]
    if t.c.shape[1] == 1:
        for col in range(p.num_recourse):
            for lane in range(lanes):
                a.gradient[col, lane] = t.c[col, 0]
    else:
        a.gradient[:] = t.c
    for e in range(p.q_row.shape[0]):
        row, col = p.q_row[e], p.q_col[e]
        shared = t.Q.shape[1] == 1
        for lane in range(lanes):
            a.gradient[row, lane] += t.Q[e, 0 if shared else lane] * t.w[col, lane]
    for e in range(p.r_row.shape[0]):
        row, col, target = p.r_row[e], p.r_col[e], p.r_target[e]
        shared = t.R.shape[1] == 1
        for lane in range(lanes):
            value = t.R[e, 0 if shared else lane]
            a.gradient[row, lane] += value * a.x[col, lane]
            value *= t.weight[0, lane]
            t.factor[target, lane] += value
            a.dual_x[col, lane] += value * t.w[row, lane] * t.measure[0, lane]
    for col in range(p.num_recourse):
        for lane in range(lanes):
            a.gradient[col, lane] *= t.weight[0, lane]
    for i in range(p.q_target.shape[0]):
        target, e = p.q_target[i], p.q_source[i]
        shared = t.Q.shape[1] == 1
        for lane in range(lanes):
            t.factor[target, lane] += t.Q[e, 0 if shared else lane] * t.weight[0, lane]


@compiled
def _inequality_rows(p: Pattern, t: Tile, a: Lanes) -> None:
    lanes = t.w.shape[1]
    v_shared, u_shared, k_shared = t.V.shape[1] == 1, t.U.shape[1] == 1, t.k.shape[1] == 1
    for r in range(p.num_inequalities):
        if k_shared:
            for lane in range(lanes):
                t.work_z[r, lane] = t.s[r, lane] - t.k[r, 0]
        else:
            for lane in range(lanes):
                t.work_z[r, lane] = t.s[r, lane] - t.k[r, lane]
        for e in range(p.v_ptr[r], p.v_ptr[r + 1]):
            col = p.v_col[e]
            if v_shared:
                value = t.V[e, 0]
                for lane in range(lanes):
                    t.work_z[r, lane] += value * t.w[col, lane]
            else:
                for lane in range(lanes):
                    t.work_z[r, lane] += t.V[e, lane] * t.w[col, lane]
        for e in range(p.u_ptr[r], p.u_ptr[r + 1]):
            col = p.u_col[e]
            if u_shared:
                value = t.U[e, 0]
                for lane in range(lanes):
                    t.work_z[r, lane] += value * a.x[col, lane]
            else:
                for lane in range(lanes):
                    t.work_z[r, lane] += t.U[e, lane] * a.x[col, lane]
        # row[0]: multiplier over slack; row[1]: what the affine step aims the multiplier at.
        for lane in range(lanes):
            one = 1.0 / t.s[r, lane]
            d = t.z[r, lane] * one
            t.inverse_s[r, lane] = one
            a.row[0, lane] = d
            a.row[1, lane] = d * t.work_z[r, lane] - t.z[r, lane] + a.floor[lane] * one
        for lane in range(lanes):
            product = t.s[r, lane] * t.z[r, lane]
            a.primal[lane] = max(a.primal[lane], abs(t.work_z[r, lane]))
            a.product[lane] += product * t.measure[0, lane]
            a.off_center[lane] = max(a.off_center[lane], abs(product - a.floor[lane]))
        for e in range(p.v_ptr[r], p.v_ptr[r + 1]):
            col = p.v_col[e]
            node = p.position[col]
            if v_shared:
                value = t.V[e, 0]
                for lane in range(lanes):
                    a.gradient[col, lane] += value * t.z[r, lane]
                    t.affine[node, lane] -= value * a.row[1, lane]
                    t.centering[node, lane] -= value * t.inverse_s[r, lane]
            else:
                for lane in range(lanes):
                    a.gradient[col, lane] += t.V[e, lane] * t.z[r, lane]
                    t.affine[node, lane] -= t.V[e, lane] * a.row[1, lane]
                    t.centering[node, lane] -= t.V[e, lane] * t.inverse_s[r, lane]
        for e in range(p.u_ptr[r], p.u_ptr[r + 1]):
            col = p.u_col[e]
            if u_shared:
                value = t.U[e, 0]
                for lane in range(lanes):
                    measured = value * t.measure[0, lane]
                    a.dual_x[col, lane] += measured * t.z[r, lane]
                    a.affine_x[col, lane] -= measured * a.row[1, lane]
                    a.centering_x[col, lane] -= measured * t.inverse_s[r, lane]
            else:
                for lane in range(lanes):
                    measured = t.U[e, lane] * t.measure[0, lane]
                    a.dual_x[col, lane] += measured * t.z[r, lane]
                    a.affine_x[col, lane] -= measured * a.row[1, lane]
                    a.centering_x[col, lane] -= measured * t.inverse_s[r, lane]
        # Terms of V'D V, V'D U and U'D U.
        for i in range(p.inner_ptr[r], p.inner_ptr[r + 1]):
            target, left, right = p.inner[i, 0], p.inner[i, 1], p.inner[i, 2]
            if v_shared:
                value = t.V[left, 0] * t.V[right, 0]
                for lane in range(lanes):
                    t.factor[target, lane] += value * a.row[0, lane]
            else:
                for lane in range(lanes):
                    t.factor[target, lane] += t.V[left, lane] * t.V[right, lane] * a.row[0, lane]
        for i in range(p.cross_ptr[r], p.cross_ptr[r + 1]):
            target, left, right = p.cross[i, 0], p.cross[i, 1], p.cross[i, 2]
            if v_shared and u_shared:
                value = t.V[left, 0] * t.U[right, 0]
                for lane in range(lanes):
                    t.factor[target, lane] += value * a.row[0, lane]
            else:
                for lane in range(lanes):
                    value = t.V[left, 0 if v_shared else lane] * t.U[right, 0 if u_shared else lane]
                    t.factor[target, lane] += value * a.row[0, lane]
        for i in range(p.outer_ptr[r], p.outer_ptr[r + 1]):
            target, left, right = p.outer[i, 0], p.outer[i, 1], p.outer[i, 2]
            if u_shared:
                value = t.U[left, 0] * t.U[right, 0]
                for lane in range(lanes):
                    a.hessian[target, lane] += value * a.row[0, lane] * t.measure[0, lane]
            else:
                for lane in range(lanes):
                    value = t.U[left, lane] * t.U[right, lane]
                    a.hessian[target, lane] += value * a.row[0, lane] * t.measure[0, lane]


@compiled
def _equality_rows(p: Pattern, t: Tile, a: Lanes) -> None:
    lanes = t.w.shape[1]
    w_shared, t_shared, h_shared = t.W.shape[1] == 1, t.T.shape[1] == 1, t.h.shape[1] == 1
    for r in range(p.num_equalities):
        for lane in range(lanes):
            t.residual_y[r, lane] = -t.h[r, 0 if h_shared else lane]
        for e in range(p.w_ptr[r], p.w_ptr[r + 1]):
            col, target = p.w_col[e], p.w_target[e]
            if w_shared:
                value = t.W[e, 0]
                for lane in range(lanes):
                    t.residual_y[r, lane] += value * t.w[col, lane]
                    a.gradient[col, lane] += value * t.y[r, lane]
                    t.factor[target, lane] += value
            else:
                for lane in range(lanes):
                    t.residual_y[r, lane] += t.W[e, lane] * t.w[col, lane]
                    a.gradient[col, lane] += t.W[e, lane] * t.y[r, lane]
                    t.factor[target, lane] += t.W[e, lane]
        for e in range(p.t_ptr[r], p.t_ptr[r + 1]):
            col, target = p.t_col[e], p.t_target[e]
            for lane in range(lanes):
                value = t.T[e, 0 if t_shared else lane]
                t.residual_y[r, lane] += value * a.x[col, lane]
                t.factor[target, lane] += value
                a.dual_x[col, lane] += value * t.y[r, lane] * t.measure[0, lane]
        for lane in range(lanes):
            a.primal[lane] = max(a.primal[lane], abs(t.residual_y[r, lane]))


@compiled
def _eliminate(p: Pattern, t: Tile, a: Lanes) -> None:
    """Factor in place, and forward elimination of the two right-hand sides."""
    lanes = t.w.shape[1]
    count = p.num_nodes
    size = count + p.num_entries
    for j in range(count):
        for lane in range(lanes):
            t.factor[j, lane] = 1.0 / t.factor[j, lane]
        start = p.column_start[j]
        at = p.pair_ptr[j]
        for i in range(start, p.column_start[j + 1]):
            raw, row = count + i, p.entry_row[i]
            # Columns before this one are already scaled, this and later ones are raw.
            for k in range(start, i):
                target, scaled = p.pair_target[at], count + k
                at += 1
                if target < size:
                    for lane in range(lanes):
                        t.factor[target, lane] -= t.factor[raw, lane] * t.factor[scaled, lane]
                else:
                    target -= size
                    for lane in range(lanes):
                        product = t.factor[raw, lane] * t.factor[scaled, lane]
                        a.hessian[target, lane] -= product * t.measure[0, lane]
            target = p.pair_target[at]
            at += 1
            if row < count:
                for lane in range(lanes):
                    scaled_value = t.factor[raw, lane] * t.factor[j, lane]
                    t.factor[target, lane] -= t.factor[raw, lane] * scaled_value
                    t.factor[raw, lane] = scaled_value
                for lane in range(lanes):
                    t.affine[row, lane] -= t.factor[raw, lane] * t.affine[j, lane]
                    t.centering[row, lane] -= t.factor[raw, lane] * t.centering[j, lane]
            else:
                target -= size
                row -= count
                for lane in range(lanes):
                    scaled_value = t.factor[raw, lane] * t.factor[j, lane]
                    a.hessian[target, lane] -= t.factor[raw, lane] * scaled_value * t.measure[0, lane]
                    t.factor[raw, lane] = scaled_value
                for lane in range(lanes):
                    measured = t.factor[raw, lane] * t.measure[0, lane]
                    a.affine_x[row, lane] -= measured * t.affine[j, lane]
                    a.centering_x[row, lane] -= measured * t.centering[j, lane]


@compiled
def back_substitute(p: Pattern, t: Tile, a: Lanes) -> None:
    """Solve for the nodes in ``a.nodes``, forward-eliminated already, with ``a.dx`` known."""
    lanes = t.w.shape[1]
    count = p.num_nodes
    for j in range(count - 1, -1, -1):
        for lane in range(lanes):
            a.nodes[j, lane] *= t.factor[j, lane]
        for i in range(p.column_start[j], p.column_start[j + 1]):
            row = p.entry_row[i]
            if row < count:
                for lane in range(lanes):
                    a.nodes[j, lane] -= t.factor[count + i, lane] * a.nodes[row, lane]
            else:
                row -= count
                for lane in range(lanes):
                    a.nodes[j, lane] -= t.factor[count + i, lane] * a.dx[row, lane]


@compiled
def forward_second(p: Pattern, t: Tile, a: Lanes) -> None:
    """Forward elimination of ``a.nodes``; what reaches x is added to ``a.second_x``."""
    lanes = t.w.shape[1]
    count = p.num_nodes
    for j in range(count):
        for i in range(p.column_start[j], p.column_start[j + 1]):
            row = p.entry_row[i]
            if row < count:
                for lane in range(lanes):
                    a.nodes[row, lane] -= t.factor[count + i, lane] * a.nodes[j, lane]
            else:
                row -= count
                for lane in range(lanes):
                    measured = t.factor[count + i, lane] * t.measure[0, lane]
                    a.second_x[row, lane] -= measured * a.nodes[j, lane]


@compiled
def row_changes(p: Pattern, t: Tile, a: Lanes, r: int) -> None:
    """Change of a row's left side under (nodes, dx), into ``a.row[0]``."""
    lanes = t.w.shape[1]
    v_shared, u_shared = t.V.shape[1] == 1, t.U.shape[1] == 1
    for lane in range(lanes):
        a.row[0, lane] = 0.0
    for e in range(p.v_ptr[r], p.v_ptr[r + 1]):
        node = p.position[p.v_col[e]]
        if v_shared:
            value = t.V[e, 0]
            for lane in range(lanes):
                a.row[0, lane] += value * a.nodes[node, lane]
        else:
            for lane in range(lanes):
                a.row[0, lane] += t.V[e, lane] * a.nodes[node, lane]
    for e in range(p.u_ptr[r], p.u_ptr[r + 1]):
        col = p.u_col[e]
        if u_shared:
            value = t.U[e, 0]
            for lane in range(lanes):
                a.row[0, lane] += value * a.dx[col, lane]
        else:
            for lane in range(lanes):
                a.row[0, lane] += t.U[e, lane] * a.dx[col, lane]


@compiled
def predict(p: Pattern, t: Tile, a: Lanes) -> None:
    """Second pass: the affine step's length and products, and their forward elimination."""
    lanes = t.w.shape[1]
    v_shared, u_shared = t.V.shape[1] == 1, t.U.shape[1] == 1
    a.nodes[:] = t.affine
    back_substitute(p, t, a)
    for r in range(p.num_inequalities):
        row_changes(p, t, a, r)
        for lane in range(lanes):
            relative = -(t.work_z[r, lane] + a.row[0, lane]) * t.inverse_s[r, lane]
            # dz = floor / s - z - z ds / s
            dz = a.floor[lane] * t.inverse_s[r, lane] - t.z[r, lane] * (1.0 + relative)
            second = relative * dz
            t.work_s[r, lane] = second
            a.row[1, lane] = max(-relative, -dz / t.z[r, lane])
            a.second[lane] += second * t.s[r, lane] * t.measure[0, lane]
        for lane in range(lanes):
            a.ratio[lane] = max(a.ratio[lane], a.row[1, lane])
    # The affine step is spent: ``nodes`` takes the second-order right-hand side.
    a.nodes[:] = 0.0
    for r in range(p.num_inequalities):
        for e in range(p.v_ptr[r], p.v_ptr[r + 1]):
            node = p.position[p.v_col[e]]
            if v_shared:
                value = t.V[e, 0]
                for lane in range(lanes):
                    a.nodes[node, lane] += value * t.work_s[r, lane]
            else:
                for lane in range(lanes):
                    a.nodes[node, lane] += t.V[e, lane] * t.work_s[r, lane]
        for e in range(p.u_ptr[r], p.u_ptr[r + 1]):
            col = p.u_col[e]
            for lane in range(lanes):
                measured = t.U[e, 0 if u_shared else lane] * t.measure[0, lane]
                a.second_x[col, lane] += measured * t.work_s[r, lane]
    forward_second(p, t, a)
    for j in range(p.num_nodes):
        for lane in range(lanes):
            t.affine[j, lane] += a.nodes[j, lane] * a.second_share[lane]


@compiled
def finish(p: Pattern, t: Tile, a: Lanes) -> None:
    """Third pass: the corrected step and its length."""
    lanes = t.w.shape[1]
    for j in range(p.num_nodes):
        for lane in range(lanes):
            a.nodes[j, lane] = t.affine[j, lane] + a.barrier[lane] * t.centering[j, lane]
    back_substitute(p, t, a)
    for col in range(p.num_recourse):
        node = p.position[col]
        for lane in range(lanes):
            t.dw[col, lane] = a.nodes[node, lane]
    for row in range(p.num_equalities):
        node = p.position[p.num_recourse + row]
        for lane in range(lanes):
            t.dy[row, lane] = a.nodes[node, lane]
    for r in range(p.num_inequalities):
        row_changes(p, t, a, r)
        for lane in range(lanes):
            inverse = t.inverse_s[r, lane]
            ds = -t.work_z[r, lane] - a.row[0, lane]
            relative = ds * inverse
            aim = (a.floor[lane] + a.barrier[lane]) * inverse - a.second_share[lane] * t.work_s[r, lane]
            dz = aim - t.z[r, lane] * (1.0 + relative)
            t.work_z[r, lane] = dz
            t.work_s[r, lane] = ds
            a.row[1, lane] = max(-relative, -dz / t.z[r, lane])
        for lane in range(lanes):
            a.ratio[lane] = max(a.ratio[lane], a.row[1, lane])


@compiled
def adjoint_right_side(p: Pattern, t: Tile, a: Lanes, upstream: FloatArray) -> None:
    """Minus the costs' gradient in w times ``upstream`` (lanes,), into ``affine``; R'w's part in x."""
    lanes = t.w.shape[1]
    c_shared, r_shared, q_shared = t.c.shape[1] == 1, t.R.shape[1] == 1, t.Q.shape[1] == 1
    t.affine[:] = 0.0
    for col in range(p.num_recourse):
        node = p.position[col]
        for lane in range(lanes):
            t.affine[node, lane] -= upstream[lane] * t.c[col, 0 if c_shared else lane]
    for e in range(p.q_row.shape[0]):
        node, col = p.position[p.q_row[e]], p.q_col[e]
        for lane in range(lanes):
            t.affine[node, lane] -= upstream[lane] * t.Q[e, 0 if q_shared else lane] * t.w[col, lane]
    for e in range(p.r_row.shape[0]):
        row, col = p.r_row[e], p.r_col[e]
        node = p.position[row]
        for lane in range(lanes):
            value = upstream[lane] * t.R[e, 0 if r_shared else lane]
            t.affine[node, lane] -= value * a.x[col, lane]
            a.second_x[col, lane] -= value * t.w[row, lane] * t.measure[0, lane]


@compiled
def adjoint_forward(p: Pattern, t: Tile, a: Lanes) -> None:
    """Forward elimination of the right-hand side in ``affine``; x's part is added to ``second_x``."""
    a.nodes[:] = t.affine
    forward_second(p, t, a)
    t.affine[:] = a.nodes


@compiled
def adjoint_backward(p: Pattern, t: Tile, a: Lanes) -> None:
    """The adjoint of w and y in ``dw`` and ``dy``, of the inequality rows in ``work_z``; dx known."""
    a.nodes[:] = t.affine
    back_substitute(p, t, a)
    for col in range(p.num_recourse):
        t.dw[col, :] = a.nodes[p.position[col]]
    for row in range(p.num_equalities):
        t.dy[row, :] = a.nodes[p.position[p.num_recourse + row]]
    for r in range(p.num_inequalities):
        row_changes(p, t, a, r)
        for lane in range(t.w.shape[1]):
            t.work_z[r, lane] = t.z[r, lane] * t.inverse_s[r, lane] * a.row[0, lane]


@compiled
def recourse_costs(p: Pattern, t: Tile, a: Lanes, out: FloatArray) -> None:
    """The part of each lane's cost that has w in it, unweighted."""
    lanes = t.w.shape[1]
    c_shared, r_shared, q_shared = t.c.shape[1] == 1, t.R.shape[1] == 1, t.Q.shape[1] == 1
    out[:] = 0.0
    for col in range(p.num_recourse):
        for lane in range(lanes):
            out[lane] += t.c[col, 0 if c_shared else lane] * t.w[col, lane]
    for e in range(p.r_row.shape[0]):
        row, col = p.r_row[e], p.r_col[e]
        for lane in range(lanes):
            out[lane] += t.R[e, 0 if r_shared else lane] * t.w[row, lane] * a.x[col, lane]
    for e in range(p.q_row.shape[0]):
        row, col = p.q_row[e], p.q_col[e]
        for lane in range(lanes):
            out[lane] += 0.5 * t.Q[e, 0 if q_shared else lane] * t.w[row, lane] * t.w[col, lane]
