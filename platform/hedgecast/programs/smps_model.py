"""A two-stage linear program by names as a `TwoStageProgram`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from hedgecast.core.errors import DataError
from hedgecast.programs.mps import Core
from hedgecast.programs.program import TwoStageProgram


@dataclasses.dataclass(frozen=True, slots=True)
class Element:
    """An entry of the core file: a column, or the right-hand side's name, in a row."""

    column: str
    row: str

    def __str__(self) -> str:
        return f"entry ({self.column}, {self.row})"


@dataclasses.dataclass(frozen=True, slots=True)
class Stages:
    """Which columns and rows belong to which of the two stages, in file order."""

    periods: tuple[str, str]
    columns: tuple[list[str], list[str]]
    rows: tuple[list[str], list[str]]


def core_value(core: Core, element: Element) -> float:
    """The entry's value in the core file, zero where it is not listed."""
    if element.column in core.columns:
        return core.columns[element.column].get(element.row, 0.0)
    return core.rhs.get(element.row, 0.0)


def build_program(core: Core, stages: Stages, elements: Sequence[Element], name: str) -> TwoStageProgram:
    """The program with decision ``x``, uncertain ``random`` and recourse ``y``.

    Raises
    ------
    DataError
        A first-stage row has a second-stage column.
    """
    _check_first_stage(core, stages)
    x = cp.Variable(len(stages.columns[0]), name="x")
    y = cp.Variable(len(stages.columns[1]), name="y") if stages.columns[1] else None
    random = cp.Parameter(len(elements), name="random")
    sign = -1.0 if core.maximize else 1.0
    first_body = _matrix(core, stages.rows[0], stages.columns[0], set()) @ x if stages.rows[0] else None
    recourse = _Recourse(core, stages, elements, x, y, random)
    constant = -core.rhs.get(core.objective, 0.0)
    if Element(core.rhs_name, core.objective) in elements:
        constant = 0.0
    return TwoStageProgram(
        name=name,
        decision=x,
        uncertain=random,
        constraints=[
            *_row_constraints(core, stages.rows[0], first_body, _rhs(core, stages.rows[0], set())),
            *_bounds(core, stages.columns[0], x),
        ],
        cost=sign * (_costs(core, stages.columns[0], recourse.random) @ x + constant),
        recourse_cost=sign * recourse.cost(),
        recourse_constraints=[
            *_row_constraints(core, stages.rows[1], recourse.body(), recourse.rhs()),
            *(_bounds(core, stages.columns[1], y) if y is not None else []),
        ],
    )


class _Recourse:
    """The expressions of one scenario."""

    def __init__(
        self, core: Core, stages: Stages, elements: Sequence[Element], x: Any, y: Any, random: Any
    ) -> None:
        self.core, self.stages, self.elements = core, stages, elements
        self.parameter = random
        self.random = set(elements)
        self.variables = [(stages.columns[0], x), *([(stages.columns[1], y)] if y is not None else [])]

    def cost(self) -> Any:
        """Second-stage cost and the random part of the first-stage cost."""
        core, total = self.core, cp.Constant(0.0)
        for columns, variable in self.variables:
            if columns is self.stages.columns[1]:
                total += _costs(core, columns, self.random) @ variable
            picked = [
                (k, columns.index(e.column))
                for k, e in enumerate(self.elements)
                if e.row == core.objective and e.column in core.columns and e.column in set(columns)
            ]
            if picked:
                positions, entries = map(list, zip(*picked, strict=True))
                total += self.parameter[positions] @ variable[entries]
        constant = Element(core.rhs_name, core.objective)
        if constant in self.random:
            total -= self.parameter[list(self.elements).index(constant)]
        return total

    def body(self) -> Any:
        """(rows,) left-hand sides."""
        core, rows = self.core, self.stages.rows[1]
        total = None
        for columns, variable in self.variables:
            part = _matrix(core, rows, columns, self.random) @ variable
            position = {column: i for i, column in enumerate(columns)}
            picked = [
                (k, position[e.column], rows.index(e.row))
                for k, e in enumerate(self.elements)
                if e.column in position and e.row != core.objective
            ]
            if picked:
                ks, entries, targets = map(list, zip(*picked, strict=True))
                place = sp.csr_array(
                    (np.ones(len(ks)), (targets, range(len(ks)))), shape=(len(rows), len(ks))
                )
                part += place @ cp.multiply(self.parameter[ks], variable[entries])
            total = part if total is None else total + part
        return total

    def rhs(self) -> Any:
        """(rows,) right-hand sides."""
        rows = self.stages.rows[1]
        fixed = _rhs(self.core, rows, self.random)
        picked = [
            (k, rows.index(e.row))
            for k, e in enumerate(self.elements)
            if e.column not in self.core.columns and e.row != self.core.objective
        ]
        if not picked:
            return fixed
        ks, targets = map(list, zip(*picked, strict=True))
        place = sp.csr_array((np.ones(len(ks)), (targets, range(len(ks)))), shape=(len(rows), len(ks)))
        return fixed + place @ self.parameter[ks]


def _check_first_stage(core: Core, stages: Stages) -> None:
    first_rows = set(stages.rows[0])
    for column in stages.columns[1]:
        for row, value in core.columns[column].items():
            if row in first_rows and value != 0.0:
                raise DataError(
                    f"{core.path}: first-stage row {row!r} has second-stage column {column!r}: order rows "
                    "and columns by stage, or correct the time file",
                    file=str(core.path),
                    row=row,
                    column=column,
                )


def _matrix(core: Core, rows: Sequence[str], columns: Sequence[str], left_out: set[Element]) -> Any:
    where = {row: i for i, row in enumerate(rows)}
    entries = [
        (where[row], j, value)
        for j, column in enumerate(columns)
        for row, value in core.columns[column].items()
        if row in where and Element(column, row) not in left_out
    ]
    i, j, values = (list(part) for part in zip(*entries, strict=True)) if entries else ([], [], [])
    return sp.csr_array((values, (i, j)), shape=(len(rows), len(columns)), dtype=np.float64)


def _costs(core: Core, columns: Sequence[str], left_out: set[Element]) -> np.ndarray:
    return np.array(
        [
            0.0 if Element(c, core.objective) in left_out else core.columns[c].get(core.objective, 0.0)
            for c in columns
        ]
    )


def _rhs(core: Core, rows: Sequence[str], left_out: set[Element]) -> np.ndarray:
    return np.array(
        [0.0 if Element(core.rhs_name, row) in left_out else core.rhs.get(row, 0.0) for row in rows]
    )


def _row_constraints(core: Core, rows: Sequence[str], body: Any, rhs: Any) -> list[Any]:
    """Constraints body in [rhs + low, rhs + high], grouped by kind."""
    spreads = [core.spread(row) for row in rows]
    equal = [i for i, (low, high) in enumerate(spreads) if low == high == 0.0]
    above = [i for i, (low, high) in enumerate(spreads) if math.isfinite(low) and low != high]
    below = [i for i, (low, high) in enumerate(spreads) if math.isfinite(high) and low != high]
    constraints = []
    if equal:
        constraints.append(body[equal] == rhs[equal])
    if above:
        constraints.append(body[above] >= rhs[above] + np.array([spreads[i][0] for i in above]))
    if below:
        constraints.append(body[below] <= rhs[below] + np.array([spreads[i][1] for i in below]))
    return constraints


def _bounds(core: Core, columns: Sequence[str], variable: Any) -> list[Any]:
    low = np.array([core.lower.get(column, 0.0) for column in columns])
    high = np.array([core.upper.get(column, math.inf) for column in columns])
    from_below = np.flatnonzero(np.isfinite(low)).tolist()
    from_above = np.flatnonzero(np.isfinite(high)).tolist()
    constraints = []
    if from_below:
        constraints.append(variable[from_below] >= low[from_below])
    if from_above:
        constraints.append(variable[from_above] <= high[from_above])
    return constraints
