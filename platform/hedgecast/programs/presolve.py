"""Fewer columns and rows for one stage, before any number is known.

CVXPY's canonical form names every subexpression: t = z - y, u >= t, u >= 0. Written that way the
scenario blocks of a simple program are dense where they could be diagonal. Three exact reductions,
each with constant multipliers only, so that every remaining number stays affine in the parameters:

1. an auxiliary column that one equality row defines is substituted out, in the quadratic cost too;
2. an auxiliary column without cost that stands only in inequality rows is eliminated between them
   (Fourier-Motzkin), where that leaves no more rows than before;
3. a repeated row goes; rows with constant sides keep only the tightest; two that meet from both sides are
   one equality, and an inequality that an equality implies goes: an interior-point method needs an interior.

The decision's columns always stay. `Row.source` keeps the multipliers: row = sum source * raw rows,
so that a certificate found on the reduced rows is one on CVXPY's rows; NaN where there is no such sum.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hedgecast.programs.affine_rows import (
    CANCELLED,
    Affine,
    Reduced,
    Row,
    add,
    add_product,
    add_row,
    constant_of,
    is_constant,
    rows_of,
    scaled,
    scaled_row,
)
from hedgecast.programs.canonical import Stage

# An equality pivot smaller than this share of its row would magnify rounding.
_PIVOT_SHARE = 1e-3


def reduce_stage(stage: Stage) -> Reduced:
    """``stage`` after the three reductions.

    Parameters
    ----------
    stage : Stage
        With zero and nonnegative rows only.
    """
    reduced = rows_of(stage)
    merge_rows(reduced)
    _substitute_all(reduced)
    _eliminate_all(reduced)
    merge_rows(reduced)
    present = _present_columns(reduced)
    reduced.columns = [column for column in reduced.columns if column in present]
    return reduced


# ---- 1. columns defined by an equality row ----


class _Index:
    """Which rows hold a column; kept up to date while rows change."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows: dict[int, dict[int, Row]] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Note the columns of ``row``; harmless where they are noted already."""
        for column in row.coefficients:
            self._rows.setdefault(column, {})[id(row)] = row

    def drop(self, row: Row) -> None:
        """Forget ``row``."""
        for column in row.coefficients:
            self._rows.get(column, {}).pop(id(row), None)

    def holding(self, column: int) -> list[Row]:
        """The rows with a coefficient on ``column``."""
        return [row for row in self._rows.get(column, {}).values() if column in row.coefficients]

    def columns(self) -> set[int]:
        """Columns that some row holds."""
        return {column for column in self._rows if self.holding(column)}


def _substitute_all(reduced: Reduced) -> None:
    index = _Index(reduced.equalities + reduced.inequalities)
    progress = True
    while progress:
        progress = False
        for row in list(reduced.equalities):
            pivot = _pivot(reduced, row, index)
            if pivot is not None:
                reduced.equalities = [other for other in reduced.equalities if other is not row]
                index.drop(row)
                _substitute(reduced, row, pivot, index)
                progress = True


def _pivot(reduced: Reduced, row: Row, index: _Index) -> int | None:
    """The column to substitute with ``row``, or None where none keeps everything affine and sparse."""
    largest = max((abs(constant_of(entry)) for entry in row.coefficients.values()), default=0.0)
    best, best_fill = None, math.inf
    for column, entry in row.coefficients.items():
        if column < reduced.num_decision or not is_constant(entry):
            continue
        if abs(constant_of(entry)) < _PIVOT_SHARE * largest:
            continue
        others = [other for other in index.holding(column) if other is not row]
        if not _stays_affine(reduced, row, column, others):
            continue
        width = len(row.coefficients) - 1
        fill = width * len(others) - (width + 1 + len(others))
        if fill < best_fill:
            best, best_fill = column, fill
    return best if best_fill <= 0 else None


def _stays_affine(reduced: Reduced, row: Row, column: int, others: list[Row]) -> bool:
    if any(not is_constant(other.coefficients[column]) for other in others):
        return False
    rest = [entry for other, entry in row.coefficients.items() if other != column]
    constant_row = all(is_constant(entry) for entry in rest)
    curvature = reduced.quadratic.get(column, {})
    if curvature:
        if not constant_row or any(not is_constant(entry) for entry in curvature.values()):
            return False
        # Fill in the scenario's curvature would cost its sparsity: at most one auxiliary column.
        auxiliary = [c for c in row.coefficients if c >= reduced.num_decision and c != column]
        if len(auxiliary) > 1:
            return False
    return constant_row or is_constant(reduced.linear.get(column, {}))


def _substitute(reduced: Reduced, row: Row, column: int, index: _Index) -> None:
    """Put v_column = alpha + sum_i beta_i v_i, from ``row``, everywhere."""
    pivot = constant_of(row.coefficients[column])
    alpha = scaled(row.rhs, 1.0 / pivot)
    beta = {
        other: scaled(entry, -1.0 / pivot) for other, entry in row.coefficients.items() if other != column
    }
    for concerned in index.holding(column):
        add_row(concerned, row, -constant_of(concerned.coefficients[column]) / pivot)
        concerned.coefficients.pop(column, None)
        index.add(concerned)
    curvature = reduced.quadratic.pop(column, {})
    own = constant_of(curvature.pop(column, {}))
    for other in curvature:
        del reduced.quadratic[other][column]
    slope = reduced.linear.pop(column, {})
    # 1/2 own v^2 + sum_i curvature_i v v_i + slope v  with v = alpha + beta'v_other.
    for i, b_i in beta.items():
        for k, b_k in beta.items():
            if own:
                _add_curvature(reduced, i, k, scaled(b_i, own * constant_of(b_k)))
        for k, entry in curvature.items():
            product = scaled(b_i, constant_of(entry))
            _add_curvature(reduced, i, k, product)
            _add_curvature(reduced, k, i, product)
        if own:
            _add_slope(reduced, i, scaled(alpha, own * constant_of(b_i)))
        if slope:
            constant = is_constant(slope)
            _add_slope(
                reduced, i, scaled(b_i, constant_of(slope)) if constant else scaled(slope, constant_of(b_i))
            )
    for k, entry in curvature.items():
        _add_slope(reduced, k, scaled(alpha, constant_of(entry)))
    add_product(reduced.constant, alpha, alpha, 0.5 * own)
    add_product(reduced.constant, slope, alpha, 1.0)
    reduced.columns.remove(column)


def _add_curvature(reduced: Reduced, i: int, k: int, affine: Affine) -> None:
    entries = reduced.quadratic.setdefault(i, {})
    entry = entries.setdefault(k, {})
    add(entry, affine, 1.0)
    if not entry:
        del entries[k]


def _add_slope(reduced: Reduced, column: int, affine: Affine) -> None:
    entry = reduced.linear.setdefault(column, {})
    add(entry, affine, 1.0)
    if not entry:
        del reduced.linear[column]


# ---- 2. columns without cost, between inequalities ----


def _eliminate_all(reduced: Reduced) -> None:
    index = _Index(reduced.inequalities)
    defined = _Index(reduced.equalities).columns()
    progress = True
    while progress:
        progress = False
        for column in list(reduced.columns):
            if column in defined or reduced.linear.get(column) or reduced.quadratic.get(column):
                continue
            rows = index.holding(column)
            if not all(is_constant(row.coefficients[column]) for row in rows):
                continue
            upper = [row for row in rows if constant_of(row.coefficients[column]) > 0]
            lower = [row for row in rows if constant_of(row.coefficients[column]) < 0]
            if len(upper) * len(lower) <= len(upper) + len(lower):
                _eliminate(reduced, column, upper, lower, index)
                progress = True


def _eliminate(reduced: Reduced, column: int, upper: list[Row], lower: list[Row], index: _Index) -> None:
    gone = {id(row) for row in upper + lower}
    kept = [row for row in reduced.inequalities if id(row) not in gone]
    for row in upper + lower:
        index.drop(row)
    for high in upper:
        for low in lower:
            row = scaled_row(high, 1.0 / constant_of(high.coefficients[column]))
            add_row(row, low, -1.0 / constant_of(low.coefficients[column]))
            row.coefficients.pop(column, None)
            index.add(row)
            kept.append(row)
    reduced.inequalities = kept
    reduced.columns.remove(column)


# ---- 3. repeated rows ----


def merge_rows(reduced: Reduced) -> None:
    """Drop repeated and implied rows, and make one equality of two inequalities that meet; in place."""
    inequalities = _without_repeats(reduced.inequalities, equality=False)
    limits: dict[object, dict[bool, float]] = {}
    for row in filter(_fixed, inequalities):
        scale, left = _normal(row)
        limits.setdefault(left, {})[scale > 0] = constant_of(row.rhs) / scale
    meeting = {left for left, sides in limits.items() if len(sides) == 2 and _same(*sides.values())}
    # A negative multiplier of such an equality belongs to the other row of the pair: no fixed sum of rows.
    pairs = [
        dataclasses.replace(row, source=dict.fromkeys(row.source, math.nan))
        for row in filter(_fixed, inequalities)
        if _normal(row)[1] in meeting
    ]
    reduced.equalities = _without_repeats([*reduced.equalities, *pairs], equality=True)
    values: dict[object, float] = {}
    for row in filter(_fixed, reduced.equalities):
        scale, left = _normal(row)
        values[left] = constant_of(row.rhs) / scale
    reduced.inequalities = [row for row in inequalities if not _implied(row, values)]


def _fixed(row: Row) -> bool:
    """Whether the row has columns and its right-hand side is a constant."""
    return bool(row.coefficients) and is_constant(row.rhs)


def _normal(row: Row) -> tuple[float, object]:
    """The factor that scales the row's left side to one and its first coefficient positive, and that side."""
    scale = _row_scale(row)
    first = row.coefficients[min(row.coefficients)] if row.coefficients else {}
    if first and first[min(first)] < 0:
        scale = -scale
    return scale, tuple(sorted((c, _key(entry, scale)) for c, entry in row.coefficients.items()))


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= CANCELLED * max(1.0, abs(one), abs(other))


def _implied(row: Row, values: dict[object, float]) -> bool:
    """Whether an equality implies the inequality; a contradiction stays, and is infeasible."""
    if not _fixed(row):
        return False
    scale, left = _normal(row)
    if left not in values:
        return False
    limit, value = constant_of(row.rhs) / scale, values[left]
    return _same(value, limit) or (value < limit if scale > 0 else value > limit)


def _without_repeats(rows: list[Row], *, equality: bool) -> list[Row]:
    """``rows`` without repeats, and without rows that hold whatever the columns are."""
    kept: dict[object, Row] = {}
    for row in rows:
        if not row.coefficients and is_constant(row.rhs) and _holds(constant_of(row.rhs), equality):
            continue
        scale, left = _normal(row)
        free = not equality and _fixed(row)
        key: object = (left, equality or scale > 0, None if free else _key(row.rhs, scale))
        other = kept.get(key)
        if other is None or (
            free and constant_of(row.rhs) / abs(scale) < constant_of(other.rhs) / _row_scale(other)
        ):
            kept[key] = row
    return list(kept.values())


def _holds(rhs: float, equality: bool) -> bool:
    return rhs == 0.0 if equality else rhs >= 0.0


def _row_scale(row: Row) -> float:
    return max((abs(v) for entry in row.coefficients.values() for v in entry.values()), default=1.0)


def _key(affine: Affine, scale: float) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((index, float(np.round(value / scale, 12))) for index, value in affine.items()))


def _present_columns(reduced: Reduced) -> set[int]:
    present = _Index(reduced.equalities + reduced.inequalities).columns()
    present |= {column for column, entry in reduced.linear.items() if entry}
    return present | {column for column, entries in reduced.quadratic.items() if entries}
