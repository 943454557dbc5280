"""A stage row by row: sparse rows and costs whose numbers are affine in the parameters, and their sums."""

from __future__ import annotations

import dataclasses

from hedgecast.programs.canonical import AffineMap, Stage

CONSTANT = -1
Affine = dict[int, float]
"""Index of a parameter entry (uncertain, then given; -1: the constant) to its coefficient."""

# Sums below this share of their terms are rounding of an exact cancellation.
CANCELLED = 1e-13


@dataclasses.dataclass(slots=True)
class Row:
    """coefficients' v = rhs, or <= rhs."""

    coefficients: dict[int, Affine]
    rhs: Affine
    source: dict[int, float]


@dataclasses.dataclass(slots=True)
class Reduced:
    """A stage in row form; columns keep their canonical numbers, eliminated ones occur nowhere."""

    num_decision: int
    columns: list[int]
    """Auxiliary columns left, ascending."""
    quadratic: dict[int, dict[int, Affine]]
    """Symmetric, both triangles."""
    linear: dict[int, Affine]
    constant: dict[tuple[int, int], float]
    """Quadratic form over parameter entries: (i, j), i <= j, to coefficient of their product."""
    equalities: list[Row]
    inequalities: list[Row]


def is_constant(affine: Affine) -> bool:
    """Whether no parameter stands in ``affine``."""
    return all(index == CONSTANT for index in affine)


def rows_of(stage: Stage) -> Reduced:
    """The stage as CVXPY wrote it; inequality rows A v + b >= 0 become -A v <= b."""
    entries = _affines(stage.A.values)
    offsets = _affines(stage.b)
    rows = [Row({}, scaled(offset, -1.0), {i: 1.0}) for i, offset in enumerate(offsets)]
    for row, col, entry in zip(stage.A.rows, stage.A.cols, entries, strict=True):
        if entry:
            rows[row].coefficients[int(col)] = entry
    inequalities = rows[stage.cones.zero :]
    for i, row in enumerate(inequalities):
        inequalities[i] = scaled_row(row, -1.0)
    quadratic: dict[int, dict[int, Affine]] = {}
    for r, c, entry in zip(stage.P.rows, stage.P.cols, _affines(stage.P.values), strict=True):
        if entry:
            quadratic.setdefault(int(r), {})[int(c)] = entry
    constant = _affines(stage.d)[0]
    return Reduced(
        num_decision=stage.num_decision,
        columns=list(range(stage.num_decision, stage.num_columns)),
        quadratic=quadratic,
        linear={column: entry for column, entry in enumerate(_affines(stage.q)) if entry},
        constant={(CONSTANT, index): value for index, value in constant.items()},
        equalities=rows[: stage.cones.zero],
        inequalities=inequalities,
    )


def _affines(values: AffineMap) -> list[Affine]:
    """One dictionary a row."""
    out: list[Affine] = [{CONSTANT: float(value)} if value else {} for value in values.constant]
    shift = values.uncertain.shape[1]
    for matrix, offset in ((values.uncertain, 0), (values.given, shift)):
        coo = matrix.tocoo()
        for row, col, value in zip(coo.row, coo.col, coo.data, strict=True):
            if value:
                add(out[row], {int(col) + offset: float(value)}, 1.0)
    return out


def add(target: Affine, other: Affine, factor: float) -> None:
    """Add ``factor * other`` to ``target``, in place; what cancels goes."""
    for index, value in other.items():
        before, step = target.get(index, 0.0), factor * value
        after = before + step
        if abs(after) <= CANCELLED * max(abs(before), abs(step)):
            target.pop(index, None)
        else:
            target[index] = after


def scaled(affine: Affine, factor: float) -> Affine:
    """``factor * affine``."""
    return {index: factor * value for index, value in affine.items()}


def scaled_row(row: Row, factor: float) -> Row:
    """``factor * row``."""
    return Row(
        {column: scaled(entry, factor) for column, entry in row.coefficients.items()},
        scaled(row.rhs, factor),
        {index: factor * value for index, value in row.source.items()},
    )


def add_row(target: Row, other: Row, factor: float) -> None:
    """Add ``factor * other`` to ``target``, in place."""
    for column, entry in other.coefficients.items():
        mine = target.coefficients.setdefault(column, {})
        add(mine, entry, factor)
        if not mine:
            del target.coefficients[column]
    add(target.rhs, other.rhs, factor)
    for index, value in other.source.items():
        target.source[index] = target.source.get(index, 0.0) + factor * value


def constant_of(affine: Affine) -> float:
    """The constant part of ``affine``."""
    return affine.get(CONSTANT, 0.0)


def add_product(target: dict[tuple[int, int], float], left: Affine, right: Affine, factor: float) -> None:
    """Add ``factor * left * right`` to a quadratic form over parameter entries, in place."""
    for i, a in left.items():
        for j, b in right.items():
            key = (min(i, j), max(i, j))
            target[key] = target.get(key, 0.0) + factor * a * b
