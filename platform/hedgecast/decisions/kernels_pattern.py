"""A template's elimination and coefficients as the flat arrays that the compiled loops read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hedgecast.decisions.scenario_blocks import BlockStructure, Products
from hedgecast.programs.blocks import BlockProblem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Pattern(NamedTuple):
    """Index lists of one template; ``_ptr`` arrays delimit the entries of each row or column.

    Accumulators of the first stage's matrix are numbered by (hessian_row, hessian_col), lower triangle.
    """

    num_first: int
    num_recourse: int
    num_equalities: int
    num_inequalities: int
    num_nodes: int
    num_entries: int
    position: IntArray
    v_ptr: IntArray
    v_col: IntArray
    u_ptr: IntArray
    u_col: IntArray
    w_ptr: IntArray
    w_col: IntArray
    w_target: IntArray
    t_ptr: IntArray
    t_col: IntArray
    t_target: IntArray
    q_row: IntArray
    q_col: IntArray
    q_target: IntArray
    q_source: IntArray
    r_row: IntArray
    r_col: IntArray
    r_target: IntArray
    inner_ptr: IntArray
    inner: IntArray
    """(terms, 3): target, left entry, right entry; sorted by row."""
    cross_ptr: IntArray
    cross: IntArray
    outer_ptr: IntArray
    outer: IntArray
    column_start: IntArray
    entry_row: IntArray
    pair_ptr: IntArray
    """(nodes + 1,) of each column's multiply-adds."""
    pair_target: IntArray
    """Factor position, or factor positions' count plus the accumulator's number."""
    hessian_row: IntArray
    hessian_col: IntArray
    envelope: IntArray
    """(n + rows of A,) first column of each row of the first-stage system's factor."""


class Values(NamedTuple):
    """One tensor: ``shared`` (1 or B, entries) where it does not vary over lanes, else ``varying``."""

    varies: bool
    shared: FloatArray
    varying: FloatArray
    """(1 or B, S, entries)."""


class Coefficients(NamedTuple):
    """All scenario tensors of a batch."""

    V: Values
    U: Values
    W: Values
    T: Values
    Q: Values
    R: Values
    c: Values
    h: Values
    k: Values


def make_pattern(structure: BlockStructure, problem: BlockProblem) -> Pattern:
    """The flat arrays of a template without risk."""
    n, nodes = structure.num_first, structure.num_nodes
    coordinates = {
        name: (getattr(problem, name).rows.cpu().numpy(), getattr(problem, name).cols.cpu().numpy())
        for name in ("P", "A", "G", "O", "Q", "R", "T", "W", "U", "V")
    }
    hessian = _hessian_pattern(structure, coordinates, n)
    number = {pair: i for i, pair in enumerate(hessian)}
    base = nodes + structure.num_entries
    code = {}
    for i, (row, col) in enumerate(zip(structure.trailing_rows, structure.trailing_cols, strict=True)):
        code[base + i] = base + number[int(row), int(col)]
    targets = [code.get(int(target), int(target)) for target in _targets_by_column(structure)]
    counts = np.diff(structure.column_start)
    outer = structure.outer
    lower = outer.target // max(1, n) >= outer.target % max(1, n)
    outer_target = np.array([number[int(t) // n, int(t) % n] for t in outer.target[lower]], dtype=np.int64)
    rows = (structure.num_inequalities, structure.num_equalities)
    outer_ptr, outer_table = _by_row(
        Products(outer_target, outer.row[lower], outer.left[lower], outer.right[lower]), rows[0]
    )
    inner_ptr, inner_table = _by_row(structure.inner, rows[0])
    cross_ptr, cross_table = _by_row(structure.cross, rows[0])
    return Pattern(
        num_first=n,
        num_recourse=structure.num_recourse,
        num_equalities=structure.num_equalities,
        num_inequalities=structure.num_inequalities,
        num_nodes=nodes,
        num_entries=structure.num_entries,
        position=structure.position,
        v_ptr=_pointer(coordinates["V"][0], rows[0]),
        v_col=coordinates["V"][1],
        u_ptr=_pointer(coordinates["U"][0], rows[0]),
        u_col=coordinates["U"][1],
        w_ptr=_pointer(coordinates["W"][0], rows[1]),
        w_col=coordinates["W"][1],
        w_target=structure.equality_target,
        t_ptr=_pointer(coordinates["T"][0], rows[1]),
        t_col=coordinates["T"][1],
        t_target=structure.equality_coupling_target,
        q_row=coordinates["Q"][0],
        q_col=coordinates["Q"][1],
        q_target=structure.hessian_target,
        q_source=structure.hessian_source,
        r_row=coordinates["R"][0],
        r_col=coordinates["R"][1],
        r_target=structure.coupling_target,
        inner_ptr=inner_ptr,
        inner=inner_table,
        cross_ptr=cross_ptr,
        cross=cross_table,
        outer_ptr=outer_ptr,
        outer=outer_table,
        column_start=structure.column_start,
        entry_row=structure.entry_row,
        pair_ptr=np.concatenate([[0], np.cumsum(counts * (counts + 1) // 2)]).astype(np.int64),
        pair_target=np.array(targets, dtype=np.int64),
        hessian_row=np.array([i for i, _ in hessian], dtype=np.int64),
        hessian_col=np.array([j for _, j in hessian], dtype=np.int64),
        envelope=_envelope(hessian, coordinates, n, problem.A.shape[0]),
    )


def make_coefficients(problem: BlockProblem) -> Coefficients:
    """The scenario tensors of a CPU float64 batch, without copies where they are contiguous."""
    return Coefficients(
        **{name: _values(getattr(problem, name).values) for name in ("V", "U", "W", "T", "Q", "R")},
        **{name: _values(getattr(problem, name)) for name in ("c", "h", "k")},
    )


def _values(tensor: Any) -> Values:
    array = np.ascontiguousarray(tensor.detach().numpy())
    if array.shape[1] == 1:
        return Values(False, np.ascontiguousarray(array[:, 0]), np.zeros((1, 1, 1)))
    return Values(True, np.zeros((1, 1)), array)


def _pointer(rows: IntArray, num_rows: int) -> IntArray:
    return np.searchsorted(rows, np.arange(num_rows + 1)).astype(np.int64)


def _by_row(products: Products, num_rows: int) -> tuple[IntArray, IntArray]:
    order = np.argsort(products.row, kind="stable")
    table = np.stack([products.target, products.left, products.right], axis=1)[order]
    return _pointer(products.row[order], num_rows), np.ascontiguousarray(table)


def _targets_by_column(structure: BlockStructure) -> IntArray:
    """Targets of the multiply-adds, column by column in elimination order."""
    pieces: dict[int, IntArray] = {}
    for level in structure.levels:
        start = 0
        for column in level.columns:
            count = int(structure.column_start[column + 1] - structure.column_start[column])
            size = count * (count + 1) // 2
            pieces[int(column)] = level.target[start : start + size]
            start += size
    ordered = [pieces[column] for column in range(structure.num_nodes)]
    return np.concatenate([*ordered, np.empty(0, np.int64)]).astype(np.int64)


def _hessian_pattern(
    structure: BlockStructure, coordinates: dict[str, tuple[IntArray, IntArray]], n: int
) -> list[tuple[int, int]]:
    """Lower entries of the first-stage matrix that scenarios reach."""
    pairs = {
        (int(i), int(j))
        for i, j in zip(structure.trailing_rows, structure.trailing_cols, strict=True)
        if i < n and j < n
    }
    pairs |= {(int(t) // n, int(t) % n) for t in structure.outer.target if int(t) // n >= int(t) % n}
    pairs |= {(int(i), int(j)) for i, j in zip(*coordinates["O"], strict=True) if i >= j}
    return sorted(pairs)


def _envelope(
    hessian: list[tuple[int, int]],
    coordinates: dict[str, tuple[IntArray, IntArray]],
    n: int,
    num_equalities: int,
) -> IntArray:
    """First nonzero column of each row of [[H + rho A'A, .], [A, -delta]]."""
    first = np.arange(n + num_equalities, dtype=np.int64)

    def reach(row: int, col: int) -> None:
        first[max(row, col)] = min(first[max(row, col)], min(row, col))

    for i, j in hessian:
        reach(i, j)
    for i, j in zip(*coordinates["P"], strict=True):
        reach(int(i), int(j))
    for name in ("A", "G"):
        rows, cols = coordinates[name]
        for row in np.unique(rows):
            members = cols[rows == row]
            for col in members:
                reach(int(col), int(members.min()))
            if name == "A":
                reach(n + int(row), int(members.min()))
    return first
