"""Compiled interior-point loop of one context after another: scenarios in tiles, one first stage.

A thread takes some contexts and keeps the working arrays of one context at a time in its cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hedgecast.decisions.kernels_first import (
    FirstStage,
    Point,
    add_rows_transposed,
    costs_in_x,
    expected_costs,
    factor_first,
    own,
    rows_times,
    solve_first,
)
from hedgecast.decisions.kernels_pattern import Coefficients, Pattern, Values
from hedgecast.decisions.kernels_tile import (
    OPTIONS,
    Lanes,
    Tile,
    begin,
    clear_sums,
    finish,
    predict,
    recourse_costs,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CENTRAL = 1e-7
STEP_FRACTION = 0.995
GAP_SHARE = 0.05


class Settings(NamedTuple):
    """Limits of the loop."""

    tolerance: float
    max_iterations: int
    smoothing: float
    """Barrier in the units of the costs; zero: none."""
    regularization: float


class Results(NamedTuple):
    """Where each context's solution goes; tile arrays are (B, tiles, entries, lanes)."""

    x: FloatArray
    equality: FloatArray
    multiplier: FloatArray
    slack: FloatArray
    w: FloatArray
    y: FloatArray
    z: FloatArray
    s: FloatArray


class Report(NamedTuple):
    """What the loop says about each context."""

    costs: FloatArray
    """(B, S)."""
    primal: FloatArray
    dual: FloatArray
    gap: FloatArray
    converged: npt.NDArray[np.bool_]
    central_found: npt.NDArray[np.bool_]
    iterations: IntArray


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


@njit(**OPTIONS)
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


@njit(**OPTIONS)
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


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def _at(values: FloatArray, tile: int) -> FloatArray:
    return values[tile if values.shape[0] > 1 else 0]


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def new_lanes(p: Pattern, lanes: int) -> Lanes:
    """Sums and scratch of one thread."""
    n = p.num_first
    return Lanes(
        np.zeros((n, lanes)), np.zeros((n, lanes)), np.zeros((p.hessian_row.shape[0], lanes)),
        np.zeros((n, lanes)), np.zeros((n, lanes)), np.zeros((n, lanes)), np.zeros((n, lanes)),
        np.zeros(lanes), np.zeros(lanes), np.zeros(lanes), np.ones(lanes), np.zeros(lanes),
        np.zeros(lanes), np.zeros(lanes), np.zeros(lanes), np.zeros(lanes), np.zeros(lanes),
        np.zeros((p.num_nodes, lanes)), np.zeros((p.num_recourse, lanes)), np.zeros((4, lanes)),
    )  # fmt: skip


@njit(**OPTIONS)
def new_work(p: Pattern, tiles: int, lanes: int) -> tuple[FloatArray, ...]:
    """Working arrays of one context's tiles, in the order of `tile_of`."""
    rows = p.num_inequalities
    return (
        np.zeros((tiles, p.num_recourse, lanes)), np.zeros((tiles, p.num_equalities, lanes)),
        np.zeros((tiles, rows, lanes)), np.zeros((tiles, rows, lanes)), np.zeros((tiles, rows, lanes)),
        np.zeros((tiles, p.num_equalities, lanes)),
        np.zeros((tiles, p.num_nodes + p.num_entries, lanes)),
        np.zeros((tiles, p.num_nodes, lanes)), np.zeros((tiles, p.num_nodes, lanes)),
    )  # fmt: skip


@njit(**OPTIONS)
def spread(values: FloatArray, out: FloatArray) -> None:
    """Copy (n,) into every lane of (n, lanes)."""
    for i in range(values.shape[0]):
        out[i, :] = values[i]


@njit(**OPTIONS)
def add_lanes(values: FloatArray, out: FloatArray) -> None:
    """``out += values`` summed over lanes."""
    for i in range(out.shape[0]):
        total = 0.0
        for lane in range(values.shape[1]):
            total += values[i, lane]
        out[i] += total


@njit(**OPTIONS)
def largest(values: FloatArray) -> float:
    """Largest absolute value; NaN if any is."""
    out = 0.0
    for value in values.flat:
        out = max(out, abs(value))
        if np.isnan(value):
            return value
    return out


@njit(**OPTIONS)
def largest_of(values: Values, member: int) -> float:
    """Largest absolute entry of one context's tensor."""
    if values.varies:
        return largest(values.varying[member if values.varying.shape[0] > 1 else 0])
    return largest(own(values.shared, member))


@njit(**OPTIONS)
def solve_contexts(
    p: Pattern,
    c: Coefficients,
    f: FirstStage,
    weight: FloatArray,
    measure: FloatArray,
    settings: Settings,
    members: IntArray,
    lanes: int,
    result: Results,
    central: Results,
    report: Report,
) -> None:
    """Solve the given contexts one after another.

    Parameters
    ----------
    p, c, f
        Template, scenario tensors and first-stage tensors.
    weight, measure : (B, S)
        Scaled cost weight of each scenario in its own units, and its measure.
    settings : Settings
    members : (count,)
        Contexts of this call.
    lanes : int
        Scenarios side by side.
    result, central, report
        Written at the contexts' places; ``central`` only with smoothing.
    """
    tiles = result.w.shape[1]
    a = new_lanes(p, lanes)
    work = new_work(p, tiles, lanes)
    for member in members:
        d = pack_context(c, member, weight, measure, tiles, lanes)
        _solve_context(p, c, f, d, weight, measure, settings, member, a, work, result, central, report)


@njit(**OPTIONS)
def _first_point(p: Pattern, f: FirstStage, member: int, step: FloatArray, point: Point) -> float:
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


@njit(**OPTIONS)
def _push_inside(d: Packed, s: FloatArray, total: float, count: float, point: Point) -> None:
    """Slacks no smaller than their mean size."""
    for i in range(s.shape[0]):
        for r in range(s.shape[1]):
            for lane in range(s.shape[2]):
                total += abs(s[i, r, lane]) * d.measure[i, 0, lane]
    mean = max(total / count, 1e-3)
    np.maximum(s, mean, s)
    np.maximum(point.slack, mean, point.slack)


@njit(**OPTIONS)
def _add_equalities(
    p: Pattern, f: FirstStage, member: int, values: FloatArray, rho: float, rhs: FloatArray
) -> None:
    """The equality rows' part of a right-hand side: b below, rho A'b above."""
    n = p.num_first
    if p.envelope.shape[0] > n:
        add_rows_transposed(f.a_ptr, f.a_col, own(f.A, member), values, rho, rhs)
        rhs[n:] = values


@njit(**OPTIONS)
def _solve_context(
    p: Pattern,
    c: Coefficients,
    f: FirstStage,
    d: Packed,
    weights: FloatArray,
    measures: FloatArray,
    settings: Settings,
    member: int,
    a: Lanes,
    work: tuple[FloatArray, ...],
    result: Results,
    central: Results,
    report: Report,
) -> None:
    n, size, tiles = p.num_first, p.envelope.shape[0], d.weight.shape[0]
    w, y, z, s = result.w[member], result.y[member], result.z[member], result.s[member]
    point = Point(result.x[member], result.equality[member], result.multiplier[member], result.slack[member])
    scale, value = f.cost_scale[member], 0.0
    total_measure = measures[member].sum()
    hessian, gradient, factor = np.empty((n, n)), np.empty(n), np.zeros((size, size))
    expected_costs(f, member, weights[member] * measures[member], hessian, gradient)
    regularization = settings.regularization
    A, G, b, g = own(f.A, member), own(f.G, member), own(f.a, member), own(f.g, member)
    rows = g.shape[0]
    count = max(rows + p.num_inequalities * total_measure, 1e-300)
    rhs_scale = 1.0 + max(max(largest(b), largest(g)), max(largest_of(c.h, member), largest_of(c.k, member)))
    accumulated = np.empty(p.hessian_row.shape[0])
    dual_x, affine, centering, second = np.empty(n), np.empty(size), np.empty(size), np.empty(size)
    residual_a, residual_g = np.empty(size - n), np.empty(rows)
    ds, dz, terms, ratio_g = np.zeros(rows), np.zeros(rows), np.zeros(rows), np.empty(rows)
    step = np.empty(size)
    length, centering_only, stalled, waiting, best, floor = 0.0, True, 0, 0, np.inf, 0.0
    w[:], y[:], z[:], s[:] = 0.0, 0.0, 1.0, 1.0
    for array in work:
        array[:] = 0.0
    point.x[:], point.equality[:], point.multiplier[:], point.slack[:] = 0.0, 0.0, 1.0, 1.0
    # Iteration -1 makes the starting point: unit slacks and multipliers, and the affine step from there.
    for iteration in range(-1, settings.max_iterations + 1):
        a.length[:], a.floor[:] = length, floor
        spread(point.x, a.x)
        clear_sums(a)
        for i in range(tiles):
            begin(p, tile_of(d, w, y, z, s, work, i), a, regularization, iteration > 0)
        # Residuals of the first stage.
        dual_x[:] = hessian @ point.x + gradient
        add_rows_transposed(f.a_ptr, f.a_col, A, point.equality, 1.0, dual_x)
        add_rows_transposed(f.g_ptr, f.g_col, G, point.multiplier, 1.0, dual_x)
        add_lanes(a.dual_x, dual_x)
        rows_times(f.a_ptr, f.a_col, A, point.x, residual_a)
        residual_a -= b
        rows_times(f.g_ptr, f.g_col, G, point.x, residual_g)
        residual_g += point.slack - g
        primal = max(max(largest(residual_a), largest(residual_g)), largest(a.primal)) / rhs_scale
        dual = max(largest(dual_x), largest(a.dual)) / 2.0
        product, off_center = a.product.sum(), largest(a.off_center)
        for r in range(rows):
            product += point.slack[r] * point.multiplier[r]
            off_center = max(off_center, abs(point.slack[r] * point.multiplier[r] - floor))
        barrier = product / count
        violation = max(primal, dual)
        feasible = violation <= settings.tolerance
        if iteration >= 0:
            # Who leaves, and when.
            if floor > 0.0 and violation <= min(settings.tolerance, 1e-6) and off_center <= CENTRAL * floor:
                _copy_member(result, central, member)
                report.central_found[member] = True
                # The right-hand side is linear in the floor: take its share out again.
                for i in range(tiles):
                    work[7][i] -= floor * work[8][i]
                a.affine_x[:] -= floor * a.centering_x
                floor = 0.0
                a.floor[:] = 0.0
            if violation < 0.9 * best or feasible:
                best, waiting = min(best, violation), 0
            else:
                waiting += 1
            last = iteration == settings.max_iterations
            hopeless = stalled >= 6 or waiting >= 15 or not np.isfinite(violation + product)
            if last or hopeless or (feasible and floor == 0.0):
                value = _report(p, f, d, member, a, work, result, point, report)
                report.primal[member], report.dual[member] = primal, dual
                report.gap[member] = product / (scale + value)
                report.iterations[member] = iteration
                close = product <= settings.tolerance * (min(scale, 1.0) + value)
                report.converged[member] = feasible and floor == 0.0 and close
                if last or hopeless or report.converged[member]:
                    return
        # Factor and the affine step.
        accumulated[:] = 0.0
        add_lanes(a.hessian, accumulated)
        for r in range(rows):
            ratio_g[r] = point.multiplier[r] / point.slack[r]
            terms[r] = ratio_g[r] * residual_g[r] - point.multiplier[r] + floor / point.slack[r]
        rho = factor_first(p, f, member, hessian, accumulated, ratio_g, regularization, factor)
        affine[:n], centering[:], second[:] = -dual_x, 0.0, 0.0
        add_lanes(a.affine_x, affine[:n])
        add_rows_transposed(f.g_ptr, f.g_col, G, terms, -1.0, affine)
        _add_equalities(p, f, member, -residual_a, rho, affine)
        add_lanes(a.centering_x, centering[:n])
        add_rows_transposed(f.g_ptr, f.g_col, G, 1.0 / point.slack, -1.0, centering)
        share = 0.0 if centering_only else 1.0
        target = floor if iteration == -1 else max(barrier, floor)
        if not centering_only:
            step[:] = affine
            solve_first(p.envelope, factor, step)
            ratio, products = _first_rows(f, G, step, residual_g, point, floor, 0.0, terms, ds, dz, False)
            for r in range(rows):
                terms[r] = ds[r] * dz[r] / point.slack[r]
            a.ratio[:], a.second[:], a.second_x[:], a.second_share[:] = 0.0, 0.0, 0.0, 1.0
            spread(step[:n], a.dx)
            for i in range(tiles):
                predict(p, tile_of(d, w, y, z, s, work, i), a)
            add_lanes(a.second_x, second[:n])
            add_rows_transposed(f.g_ptr, f.g_col, G, terms, 1.0, second)
            ratio = max(ratio, largest(a.ratio))
            products += a.second.sum()
            reach = min(1.0, 1.0 / ratio) if ratio > 0.0 else 1.0
            after = product + reach * (floor * count - product) + reach * reach * products
            fraction = min(max(after / product, 0.0), 1.0)
            least = GAP_SHARE * settings.tolerance * (min(scale, 1.0) + value) / count
            target = max(barrier * fraction**3, floor, least)
        # The corrected step.
        step[:] = affine + (target - floor) * centering + share * second
        if size > n:
            # Equality multipliers enter the right-hand side only through the affine part.
            step[n:] = affine[n:]
        solve_first(p.envelope, factor, step)
        a.second_share[:], a.barrier[:], a.ratio[:] = share, target - floor, 0.0
        ratio, products = _first_rows(
            f, G, step, residual_g, point, floor, target - floor, share * terms, ds, dz, True
        )
        spread(step[:n], a.dx)
        for i in range(tiles):
            finish(p, tile_of(d, w, y, z, s, work, i), a)
        ratio = max(ratio, largest(a.ratio))
        if iteration == -1:
            total = _first_point(p, f, member, step, point)
            w[:], y[:] = work[0], work[1]
            s += work[3]
            _push_inside(d, s, total, count, point)
            z[:] = 1.0
            centering_only, floor = False, scale * settings.smoothing
            continue
        length = 1.0 if ratio * 1.000001 < 1.0 else STEP_FRACTION / ratio
        centering_only = length < 0.1 and not centering_only
        stalled = stalled + 1 if length < 1e-5 else 0
        for j in range(n):
            point.x[j] += length * step[j]
        for j in range(size - n):
            point.equality[j] += length * step[n + j]
        for r in range(rows):
            point.slack[r] += length * ds[r]
            point.multiplier[r] += length * dz[r]


@njit(**OPTIONS)
def _first_rows(
    f: FirstStage,
    G: FloatArray,
    step: FloatArray,
    residual: FloatArray,
    point: Point,
    floor: float,
    barrier: float,
    second: FloatArray,
    ds: FloatArray,
    dz: FloatArray,
    use_second: bool,
) -> tuple[float, float]:
    """Steps of the slacks and multipliers of G; one over the longest step, and sum of ds dz."""
    ratio, products = 0.0, 0.0
    rows_times(f.g_ptr, f.g_col, G, step, ds)
    for r in range(ds.shape[0]):
        ds[r] = -residual[r] - ds[r]
        aim = (floor + barrier) / point.slack[r]
        if use_second:
            aim -= second[r]
        dz[r] = aim - point.multiplier[r] * (1.0 + ds[r] / point.slack[r])
        ratio = max(ratio, max(-ds[r] / point.slack[r], -dz[r] / point.multiplier[r]))
        products += ds[r] * dz[r]
    return ratio, products


@njit(**OPTIONS)
def _report(
    p: Pattern,
    f: FirstStage,
    d: Packed,
    member: int,
    a: Lanes,
    work: tuple[FloatArray, ...],
    result: Results,
    point: Point,
    report: Report,
) -> float:
    """Write the scenario costs; the absolute value of the scaled objective."""
    costs = report.costs[member]
    costs_in_x(f, member, point.x, costs)
    lanes = a.length.shape[0]
    out = np.empty(lanes)
    weighted = 0.0
    for i in range(d.weight.shape[0]):
        t = tile_of(d, result.w[member], result.y[member], result.z[member], result.s[member], work, i)
        recourse_costs(p, t, a, out)
        for lane in range(lanes):
            s = i * lanes + lane
            if s < costs.shape[0]:
                costs[s] += out[lane]
                weighted += d.weight[i, 0, lane] * d.measure[i, 0, lane] * costs[s]
    scale = f.cost_scale[member]
    values = own(f.P, member)
    first = 0.0
    for e in range(f.p_row.shape[0]):
        first += 0.5 * values[e] * point.x[f.p_row[e]] * point.x[f.p_col[e]]
    q = own(f.q, member)
    for j in range(point.x.shape[0]):
        first += q[j] * point.x[j]
    return abs(scale * first + weighted)


@njit(**OPTIONS)
def _copy_member(source: Results, target: Results, member: int) -> None:
    target.x[member] = source.x[member]
    target.equality[member] = source.equality[member]
    target.multiplier[member] = source.multiplier[member]
    target.slack[member] = source.slack[member]
    target.w[member] = source.w[member]
    target.y[member] = source.y[member]
    target.z[member] = source.z[member]
    target.s[member] = source.s[member]
