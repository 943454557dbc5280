"""Compiled arithmetic of one context's first stage: sparse rows, envelope factorization."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_code import compiled
from hedgecast.decisions.kernels_pattern import Pattern

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class FirstStage(NamedTuple):
    """Sparse first-stage tensors of a batch, values (1 or B, entries), costs unscaled."""

    p_row: IntArray
    p_col: IntArray
    P: FloatArray
    q: FloatArray
    a_ptr: IntArray
    a_col: IntArray
    A: FloatArray
    a: FloatArray
    g_ptr: IntArray
    g_col: IntArray
    G: FloatArray
    g: FloatArray
    o_row: IntArray
    o_col: IntArray
    O_varies: bool
    O_shared: FloatArray
    O_varying: FloatArray
    o_varies: bool
    o_shared: FloatArray
    o_varying: FloatArray
    e: FloatArray
    """(1 or B, 1 or S)."""
    cost_scale: FloatArray
    cost_hessian: FloatArray
    """(B, n, n) scaled, in place of P and O; empty where these count."""
    cost_gradient: FloatArray
    """(B, n) scaled, in place of q and o."""


class Point(NamedTuple):
    """First-stage variables of one context."""

    x: FloatArray
    equality: FloatArray
    multiplier: FloatArray
    slack: FloatArray


@compiled
def own(values: FloatArray, member: int) -> FloatArray:
    """A member's row of (1 or B, entries)."""
    return values[member if values.shape[0] > 1 else 0]


@compiled
def rows_times(ptr: IntArray, col: IntArray, values: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """``out = M x`` for a matrix by rows."""
    for r in range(ptr.shape[0] - 1):
        total = 0.0
        for e in range(ptr[r], ptr[r + 1]):
            total += values[e] * x[col[e]]
        out[r] = total


@compiled
def add_rows_transposed(
    ptr: IntArray, col: IntArray, values: FloatArray, y: FloatArray, sign: float, out: FloatArray
) -> None:
    """``out += sign * M' y``."""
    for r in range(ptr.shape[0] - 1):
        for e in range(ptr[r], ptr[r + 1]):
            out[col[e]] += sign * values[e] * y[r]


@compiled
def expected_costs(
    f: FirstStage, member: int, weighted: FloatArray, hessian: FloatArray, gradient: FloatArray
) -> None:
    """Scaled first-stage costs plus the scenarios' costs in x alone: constant over the iterations.

    ``weighted`` (S,) is each scenario's cost weight times its measure; results go to ``hessian`` (n, n)
    and ``gradient`` (n,).
    """
    if f.cost_hessian.shape[0] > 0:
        hessian[:], gradient[:] = f.cost_hessian[member], f.cost_gradient[member]
        return
    hessian[:] = 0.0
    scale = f.cost_scale[member]
    values = own(f.P, member)
    for e in range(f.p_row.shape[0]):
        hessian[f.p_row[e], f.p_col[e]] += scale * values[e]
    total = weighted.sum()
    gradient[:] = scale * own(f.q, member)
    if f.o_varies:
        block = f.o_varying[member if f.o_varying.shape[0] > 1 else 0]
        for s in range(weighted.shape[0]):
            for j in range(gradient.shape[0]):
                gradient[j] += weighted[s] * block[s, j]
    else:
        gradient += total * own(f.o_shared, member)
    if f.O_varies:
        block = f.O_varying[member if f.O_varying.shape[0] > 1 else 0]
        for s in range(weighted.shape[0]):
            for e in range(f.o_row.shape[0]):
                hessian[f.o_row[e], f.o_col[e]] += weighted[s] * block[s, e]
    else:
        values = own(f.O_shared, member)
        for e in range(f.o_row.shape[0]):
            hessian[f.o_row[e], f.o_col[e]] += total * values[e]


@compiled
def costs_in_x(f: FirstStage, member: int, x: FloatArray, out: FloatArray) -> None:
    """The part of each scenario's cost (S,) that has no w in it, unscaled."""
    for s in range(out.shape[0]):
        e = own(f.e, member)
        value = e[s if e.shape[0] > 1 else 0]
        if f.o_varies:
            row = f.o_varying[member if f.o_varying.shape[0] > 1 else 0, s]
        else:
            row = own(f.o_shared, member)
        for j in range(x.shape[0]):
            value += row[j] * x[j]
        if f.O_varies:
            entries = f.O_varying[member if f.O_varying.shape[0] > 1 else 0, s]
        else:
            entries = own(f.O_shared, member)
        for i in range(f.o_row.shape[0]):
            value += 0.5 * entries[i] * x[f.o_row[i]] * x[f.o_col[i]]
        out[s] = value


@compiled
def factor_first(
    envelope: IntArray,
    hessian_row: IntArray,
    hessian_col: IntArray,
    g_ptr: IntArray,
    g_col: IntArray,
    G: FloatArray,
    a_ptr: IntArray,
    a_col: IntArray,
    A: FloatArray,
    constant: FloatArray,
    accumulated: FloatArray,
    ratio: FloatArray,
    regularization: float,
    factor: FloatArray,
) -> float:
    """L D L' of [[H + rho A'A, A'], [A, -delta]] in ``factor``; D on its diagonal. Returns rho.

    ``constant`` is the (n, n) cost matrix, ``accumulated`` what the scenarios add at the pattern's lower
    entries, ``ratio`` multiplier over slack of the rows of G.
    """
    n, size = constant.shape[0], envelope.shape[0]
    for i in range(size):
        for j in range(envelope[i], i + 1):
            factor[i, j] = constant[i, j] if i < n else 0.0
    for e in range(accumulated.shape[0]):
        factor[hessian_row[e], hessian_col[e]] += accumulated[e]
    for r in range(g_ptr.shape[0] - 1):
        for e in range(g_ptr[r], g_ptr[r + 1]):
            for k in range(g_ptr[r], e + 1):
                factor[g_col[e], g_col[k]] += G[e] * G[k] * ratio[r]
    rho = 0.0
    if size > n:
        trace, norm = 0.0, 1e-30
        for i in range(n):
            trace += factor[i, i]
        for e in range(A.shape[0]):
            norm += A[e] * A[e]
        rho = min(max(trace / norm, 1e-3), 1e8)
        for r in range(size - n):
            for e in range(a_ptr[r], a_ptr[r + 1]):
                factor[n + r, a_col[e]] = A[e]
                for k in range(a_ptr[r], e + 1):
                    factor[a_col[e], a_col[k]] += rho * A[e] * A[k]
            factor[n + r, n + r] = -regularization
    for i in range(n):
        factor[i, i] += regularization
    _envelope_ldl(envelope, n, regularization, factor)
    return rho


@compiled
def _envelope_ldl(first: IntArray, n: int, regularization: float, factor: FloatArray) -> None:
    for i in range(first.shape[0]):
        for j in range(first[i], i):
            value = factor[i, j]
            for k in range(max(first[i], first[j]), j):
                value -= factor[i, k] * factor[j, k]
            # Holds L_ij D_j until the row is complete.
            factor[i, j] = value
        pivot = factor[i, i]
        for j in range(first[i], i):
            value = factor[i, j]
            factor[i, j] = value / factor[j, j]
            pivot -= value * factor[i, j]
        if i < n and pivot < regularization:
            pivot = regularization
        elif i >= n and pivot > -regularization:
            pivot = -regularization
        factor[i, i] = pivot


@compiled
def solve_first(first: IntArray, factor: FloatArray, rhs: FloatArray) -> None:
    """Solution in place of ``rhs``."""
    size = first.shape[0]
    for i in range(size):
        value = rhs[i]
        for j in range(first[i], i):
            value -= factor[i, j] * rhs[j]
        rhs[i] = value
    for i in range(size):
        rhs[i] /= factor[i, i]
    for i in range(size - 1, -1, -1):
        value = rhs[i]
        for j in range(first[i], i):
            rhs[j] -= factor[i, j] * value


class Scratch(NamedTuple):
    """First-stage arrays of one thread."""

    hessian: FloatArray
    """(n, n): the costs' part, constant over the iterations."""
    gradient: FloatArray
    factor: FloatArray
    """(n + rows of A, n + rows of A)."""
    accumulated: FloatArray
    """(accumulators,): what the scenarios add to the matrix."""
    dual_x: FloatArray
    affine: FloatArray
    """(n + rows of A,): right-hand sides, affine, centering and of second order."""
    centering: FloatArray
    second: FloatArray
    step: FloatArray
    residual_a: FloatArray
    residual_g: FloatArray
    """(rows of G,), as all that follow."""
    ds: FloatArray
    dz: FloatArray
    terms: FloatArray
    ratio: FloatArray
    inverse_slack: FloatArray
    no_terms: FloatArray


@compiled
def new_scratch(p: Pattern, rows: int) -> Scratch:
    """Room for a template with ``rows`` rows of G."""
    n, size = p.num_first, p.envelope.shape[0]
    return Scratch(
        np.empty((n, n)), np.empty(n), np.empty((size, size)), np.empty(p.hessian_row.shape[0]), np.empty(n),
        np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size - n), np.empty(rows),
        np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows),
    )  # fmt: skip


@compiled
def largest(values: FloatArray) -> float:
    """Largest absolute value; NaN if any is."""
    out = 0.0
    for value in values.flat:
        out = max(out, abs(value))
        if np.isnan(value):
            return value
    return out


@compiled
def symmetric_times(matrix: FloatArray, x: FloatArray, plus: FloatArray, out: FloatArray) -> None:
    """``out = matrix x + plus`` for a symmetric matrix."""
    out[:] = plus
    for i in range(x.shape[0]):
        for j in range(x.shape[0]):
            out[j] += matrix[i, j] * x[i]


@compiled
def first_rows(
    g_ptr: IntArray,
    g_col: IntArray,
    G: FloatArray,
    step: FloatArray,
    residual: FloatArray,
    multiplier: FloatArray,
    inverse_slack: FloatArray,
    target: float,
    second: FloatArray,
    ds: FloatArray,
    dz: FloatArray,
) -> tuple[float, float]:
    """Steps of the slacks and multipliers of G; one over the longest step, and sum of ds dz."""
    ratio, products = 0.0, 0.0
    rows_times(g_ptr, g_col, G, step, ds)
    for r in range(ds.shape[0]):
        ds[r] = -residual[r] - ds[r]
        relative = ds[r] * inverse_slack[r]
        dz[r] = target * inverse_slack[r] - second[r] - multiplier[r] * (1.0 + relative)
        ratio = max(ratio, max(-relative, -dz[r] / multiplier[r]))
        products += ds[r] * dz[r]
    return ratio, products


@compiled
def first_point(p: Pattern, f: FirstStage, member: int, step: FloatArray, point: Point) -> float:
    """First-stage variables at the starting system's solution; the sum of its absolute slacks."""
    n, rows = p.num_first, point.slack.shape[0]
    point.x[:] = step[:n]
    point.equality[:] = step[n:]
    point.multiplier[:] = 1.0
    g = own(f.g, member)
    rows_times(f.g_ptr, f.g_col, own(f.G, member), point.x, point.slack)
    total = 0.0
    for r in range(rows):
        point.slack[r] = g[r] - point.slack[r]
        total += abs(point.slack[r])
    return total
