"""Compiled interior-point loop of one context after another: scenarios in tiles, one first stage.

A thread takes some contexts and keeps the working arrays of one context at a time in its cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.kernels_calls import BEGIN, FINISH, PREDICT, borrowed, run
from hedgecast.decisions.kernels_code import compiled
from hedgecast.decisions.kernels_first import (
    FirstStage,
    Point,
    Scratch,
    add_rows_transposed,
    costs_in_x,
    expected_costs,
    factor_first,
    first_point,
    first_rows,
    largest,
    new_scratch,
    own,
    rows_times,
    solve_first,
    symmetric_times,
)
from hedgecast.decisions.kernels_layout import Lanes
from hedgecast.decisions.kernels_passes import (
    Block,
    add_lanes,
    begin_all,
    costs_all,
    finish_all,
    new_block,
    new_lanes,
    pack_context,
    predict_all,
    spread,
)
from hedgecast.decisions.kernels_pattern import Coefficients, Pattern, Values

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CENTRAL = 1e-7
GAP_SHARE = 0.05
STEP_FRACTION = 0.995
# The barrier aimed at is at most this share of the present one (schedules of 50, 200 and 1,000 scenarios:
# 14.5, 18.3 and 23 iterations; 16.0, 22.2 and 28 without a limit).
MOST_CENTERING = 0.1
# After a very short step, one without second-order terms goes back toward the central path. Not sooner and
# not all the way: with 1,000 narrow scenarios of load most steps are short (lengths below 0.1 and a share of
# 1.0: 154 iterations and 5 of 16 unsolved; 0.03 and 0.3: 42 and none).
SHORT = 0.03
CENTERING_ONLY = 0.3


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


@compiled
def largest_of(values: Values, member: int) -> float:
    """Largest absolute entry of one context's tensor."""
    if values.varies:
        return largest(values.varying[member if values.varying.shape[0] > 1 else 0])
    return largest(own(values.shared, member))


@compiled
def solve_contexts(
    p: Pattern,
    c: Coefficients,
    f: FirstStage,
    weight: FloatArray,
    measure: FloatArray,
    settings: Settings,
    members: IntArray,
    lanes: int,
    code: IntArray,
    work: tuple[FloatArray, ...],
    warm: bool,
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
    code : (passes,)
        Addresses of the template's generated passes; zeros where they are interpreted.
    work : tuple of (tiles, entries, lanes)
        Working arrays in the order of `tile_of`, then costs and upstream gradients.
    warm : bool
        Whether ``result`` holds interior points to start from.
    result, central, report
        Written at the contexts' places; ``central`` only with smoothing.
    """
    p, c, f, work, code = borrowed(p), borrowed(c), borrowed(f), borrowed(work), borrowed(code)
    weight, measure = borrowed(weight), borrowed(measure)
    result, central, report = borrowed(result), borrowed(central), borrowed(report)
    tiles = result.w.shape[1]
    a = new_lanes(p, lanes)
    a.regularization[:] = settings.regularization
    r = new_scratch(p, f.g.shape[1])
    for member in members:
        d = pack_context(c, member, weight, measure, tiles, lanes)
        w, y, z, s = result.w[member], result.y[member], result.z[member], result.s[member]
        block = new_block(d, w, y, z, s, work, a, code)
        _solve_context(p, c, f, block, weight, measure, settings, member, a, r, warm, result, central, report)


@compiled
def _push_inside(block: Block, total: float, count: float, point: Point) -> None:
    """Slacks no smaller than their mean size."""
    s, measure = block.s, block.d.measure
    for i in range(s.shape[0]):
        for r in range(s.shape[1]):
            for lane in range(s.shape[2]):
                total += abs(s[i, r, lane]) * measure[i, 0, lane]
    mean = max(total / count, 1e-3)
    np.maximum(s, mean, s)
    np.maximum(point.slack, mean, point.slack)


@compiled
def clear(
    hessian: FloatArray,
    dual_x: FloatArray,
    affine_x: FloatArray,
    centering_x: FloatArray,
    primal: FloatArray,
    dual: FloatArray,
    product: FloatArray,
    off_center: FloatArray,
) -> None:
    """Zero everything that `begin` adds up."""
    hessian[:], dual_x[:], affine_x[:], centering_x[:] = 0.0, 0.0, 0.0, 0.0
    primal[:], dual[:], product[:], off_center[:] = 0.0, 0.0, 0.0, 0.0


@compiled
def _solve_context(
    p: Pattern,
    c: Coefficients,
    f: FirstStage,
    block: Block,
    weights: FloatArray,
    measures: FloatArray,
    settings: Settings,
    member: int,
    a: Lanes,
    r: Scratch,
    warm: bool,
    result: Results,
    central: Results,
    report: Report,
) -> None:
    n, size = p.num_first, p.envelope.shape[0]
    # Their owner is the caller.
    block, a, r = borrowed(block), borrowed(a), borrowed(r)
    w, y, z, s = block.w, block.y, block.z, block.s
    work = block.work
    dw, dy, work_z, work_s = work[0], work[1], work[2], work[3]
    x, equality = result.x[member], result.equality[member]
    multiplier, slack = result.multiplier[member], result.slack[member]
    point = Point(x, equality, multiplier, slack)
    hessian, gradient, factor = r.hessian, r.gradient, r.factor
    accumulated, dual_x, step = r.accumulated, r.dual_x, r.step
    affine, centering, second = r.affine, r.centering, r.second
    residual_a, residual_g = r.residual_a, r.residual_g
    ds, dz, terms, ratio_g = r.ds, r.dz, r.terms, r.ratio
    inverse_slack, no_terms = r.inverse_slack, r.no_terms
    A, G = own(f.A, member), own(f.G, member)
    b, g = own(f.a, member), own(f.g, member)
    a_ptr, a_col, g_ptr, g_col = f.a_ptr, f.a_col, f.g_ptr, f.g_col
    envelope = p.envelope
    hessian_row, hessian_col = p.hessian_row, p.hessian_col
    a_x, a_dx, a_hessian, a_dual_x = a.x, a.dx, a.hessian, a.dual_x
    a_affine_x, a_centering_x = a.affine_x, a.centering_x
    a_length, a_floor, a_barrier = a.length, a.floor, a.barrier
    a_second_share, a_primal, a_dual = a.second_share, a.primal, a.dual
    a_product, a_off_center, a_ratio = a.product, a.off_center, a.ratio
    a_second, a_second_x = a.second, a.second_x
    scale, value = f.cost_scale[member], 0.0
    total_measure = measures[member].sum()
    expected_costs(f, member, weights[member] * measures[member], hessian, gradient)
    regularization = settings.regularization
    rows = g.shape[0]
    count = max(rows + p.num_inequalities * total_measure, 1e-300)
    rhs_scale = 1.0 + max(max(largest(b), largest(g)), max(largest_of(c.h, member), largest_of(c.k, member)))
    ds[:], dz[:], terms[:], no_terms[:], factor[:] = 0.0, 0.0, 0.0, 0.0, 0.0
    begin_at, predict_at, finish_at = block.code[BEGIN], block.code[PREDICT], block.code[FINISH]
    generated, table, tiles = begin_at != 0, np.int64(block.table.ctypes.data), w.shape[0]
    length, centering_only, stalled, waiting, best, floor = 0.0, True, 0, 0, np.inf, 0.0
    valued = False
    # A step that is applied with length zero must be a number.
    dw[:], dy[:], work_z[:], work_s[:] = 0.0, 0.0, 0.0, 0.0
    if warm:
        centering_only, floor = False, scale * settings.smoothing
    else:
        w[:], y[:], z[:], s[:] = 0.0, 0.0, 1.0, 1.0
        x[:], equality[:], multiplier[:], slack[:] = 0.0, 0.0, 1.0, 1.0
    # Iteration -1 makes the starting point: unit slacks and multipliers, and the affine step from there.
    for iteration in range(0 if warm else -1, settings.max_iterations + 1):
        a_length[:], a_floor[:] = length, floor
        spread(x, a_x)
        clear(a_hessian, a_dual_x, a_affine_x, a_centering_x, a_primal, a_dual, a_product, a_off_center)
        if generated:
            run(begin_at, table, 0, tiles)
        else:
            begin_all(p, block, a, iteration > 0)
        # Residuals of the first stage.
        symmetric_times(hessian, x, gradient, dual_x)
        add_rows_transposed(a_ptr, a_col, A, equality, 1.0, dual_x)
        add_rows_transposed(g_ptr, g_col, G, multiplier, 1.0, dual_x)
        add_lanes(a_dual_x, dual_x)
        rows_times(a_ptr, a_col, A, x, residual_a)
        rows_times(g_ptr, g_col, G, x, residual_g)
        for row in range(size - n):
            residual_a[row] -= b[row]
        for row in range(rows):
            residual_g[row] += slack[row] - g[row]
        primal = max(max(largest(residual_a), largest(residual_g)), largest(a_primal)) / rhs_scale
        dual = max(largest(dual_x), largest(a_dual)) / 2.0
        product, off_center = a_product.sum(), largest(a_off_center)
        for row in range(rows):
            product += slack[row] * multiplier[row]
            off_center = max(off_center, abs(slack[row] * multiplier[row] - floor))
        barrier = product / count
        violation = max(primal, dual)
        feasible = violation <= settings.tolerance
        if iteration >= 0:
            # Who leaves, and when.
            if floor > 0.0 and violation <= min(settings.tolerance, 1e-6) and off_center <= CENTRAL * floor:
                _copy_member(result, central, member)
                report.central_found[member] = True
                # The right-hand side is linear in the floor: take its share out again.
                work[7][:] -= floor * work[8]
                a_affine_x[:] -= floor * a_centering_x
                floor = 0.0
                a_floor[:] = 0.0
            if violation < 0.9 * best or feasible:
                best, waiting = min(best, violation), 0
            else:
                waiting += 1
            last = iteration == settings.max_iterations
            hopeless = stalled >= 6 or waiting >= 15 or not np.isfinite(violation + product)
            ending = feasible and floor == 0.0
            # The objective is read when the gap may be small enough: it hardly moves between the last steps.
            near = product <= 10.0 * settings.tolerance * (min(scale, 1.0) + value)
            if last or hopeless or (ending and (near or not valued)):
                value, valued = _report(p, f, block, member, a, point, report), True
                report.primal[member], report.dual[member] = primal, dual
                report.gap[member] = product / (scale + value)
                report.iterations[member] = iteration
                close = product <= settings.tolerance * (min(scale, 1.0) + value)
                report.converged[member] = ending and close
                if last or hopeless or report.converged[member]:
                    return
        # Factor and the affine step.
        accumulated[:] = 0.0
        add_lanes(a_hessian, accumulated)
        for row in range(rows):
            inverse_slack[row] = 1.0 / slack[row]
            ratio_g[row] = multiplier[row] * inverse_slack[row]
            terms[row] = ratio_g[row] * residual_g[row] - multiplier[row] + floor * inverse_slack[row]
        rho = factor_first(
            envelope, hessian_row, hessian_col, g_ptr, g_col, G, a_ptr, a_col, A, hessian, accumulated,
            ratio_g, regularization, factor,
        )  # fmt: skip
        for j in range(size):
            affine[j], centering[j], second[j] = -dual_x[j] if j < n else 0.0, 0.0, 0.0
        add_lanes(a_affine_x, affine[:n])
        add_rows_transposed(g_ptr, g_col, G, terms, -1.0, affine)
        if size > n:
            # The equality rows' part: b below, rho A'b above.
            add_rows_transposed(a_ptr, a_col, A, residual_a, -rho, affine)
            affine[n:] = -residual_a
        add_lanes(a_centering_x, centering[:n])
        add_rows_transposed(g_ptr, g_col, G, inverse_slack, -1.0, centering)
        share = 0.0 if centering_only else 1.0
        target = floor if iteration == -1 else max(CENTERING_ONLY * barrier, floor)
        if not centering_only:
            step[:] = affine
            solve_first(envelope, factor, step)
            ratio, products = first_rows(
                g_ptr, g_col, G, step, residual_g, multiplier, inverse_slack, floor, no_terms, ds, dz
            )
            for row in range(rows):
                terms[row] = ds[row] * dz[row] * inverse_slack[row]
            a_ratio[:], a_second[:], a_second_x[:], a_second_share[:] = 0.0, 0.0, 0.0, 1.0
            spread(step[:n], a_dx)
            if generated:
                run(predict_at, table, 0, tiles)
            else:
                predict_all(p, block, a)
            add_lanes(a_second_x, second[:n])
            add_rows_transposed(g_ptr, g_col, G, terms, 1.0, second)
            ratio = max(ratio, largest(a_ratio))
            products += a_second.sum()
            reach = min(1.0, 1.0 / ratio) if ratio > 0.0 else 1.0
            after = product + reach * (floor * count - product) + reach * reach * products
            fraction = min(max(after / product, 0.0), 1.0)
            least = GAP_SHARE * settings.tolerance * (min(scale, 1.0) + value) / count
            target = max(barrier * min(fraction**3, MOST_CENTERING), floor, least)
        # The corrected step; rows of A have their right-hand side in the affine part alone.
        for j in range(size):
            step[j] = affine[j] + (target - floor) * centering[j] + share * second[j]
        for row in range(rows):
            terms[row] *= share
        solve_first(envelope, factor, step)
        a_second_share[:], a_barrier[:], a_ratio[:] = share, target - floor, 0.0
        ratio, products = first_rows(
            g_ptr, g_col, G, step, residual_g, multiplier, inverse_slack, target, terms, ds, dz
        )
        spread(step[:n], a_dx)
        if generated:
            run(finish_at, table, 0, tiles)
        else:
            finish_all(p, block, a)
        ratio = max(ratio, largest(a_ratio))
        if iteration == -1:
            total = first_point(p, f, member, step, point)
            w[:], y[:] = dw, dy
            s += work_s
            _push_inside(block, total, count, point)
            z[:] = 1.0
            centering_only, floor = False, scale * settings.smoothing
            continue
        length = 1.0 if ratio * 1.000001 < 1.0 else STEP_FRACTION / ratio
        centering_only = length < SHORT and not centering_only
        stalled = stalled + 1 if length < 1e-5 else 0
        for j in range(n):
            x[j] += length * step[j]
        for j in range(size - n):
            equality[j] += length * step[n + j]
        for row in range(rows):
            slack[row] += length * ds[row]
            multiplier[row] += length * dz[row]


@compiled
def _report(
    p: Pattern,
    f: FirstStage,
    block: Block,
    member: int,
    a: Lanes,
    point: Point,
    report: Report,
) -> float:
    """Write the scenario costs; the absolute value of the scaled objective."""
    costs, d = report.costs[member], block.d
    costs_in_x(f, member, point.x, costs)
    lanes = a.length.shape[0]
    costs_all(p, block, a)
    weighted = 0.0
    for i in range(d.weight.shape[0]):
        for lane in range(lanes):
            s = i * lanes + lane
            if s < costs.shape[0]:
                costs[s] += block.work[9][i, 0, lane]
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


@compiled
def _copy_member(source: Results, target: Results, member: int) -> None:
    target.x[member] = source.x[member]
    target.equality[member] = source.equality[member]
    target.multiplier[member] = source.multiplier[member]
    target.slack[member] = source.slack[member]
    target.w[member] = source.w[member]
    target.y[member] = source.y[member]
    target.z[member] = source.z[member]
    target.s[member] = source.s[member]
