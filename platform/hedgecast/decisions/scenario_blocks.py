"""Symbolic analysis of one scenario's block: which entries its elimination touches, found once per template.

After the slacks are eliminated, scenario s adds to the Newton system the quasi-definite matrix

        w                  y      x                 mu
    w [ l Q + V'D V + eps  W'   | l R + V'D U       grad_w c ]
    y [ W                 -dlt  | T                 0        ]
      [ ------------------------+--------------------------- ]
    x [                         | l O + U'D U       grad_x c ]
    mu[                         | (symmetric)      -theta    ]

with D = z/s and l the scenario's cost weight; the column mu, the multiplier of the risk measure's
epigraph row, exists only for a risk-averse solve. Eliminating w and y leaves a small matrix in x (and
mu). A quasi-definite matrix has an L D L' factorization for every symmetric ordering, so the pattern
of L is fixed by the template: the ordering (minimum degree), the fill and the list of multiply-adds are
computed here, once, and replayed for every context, scenario and iteration. Columns that do not depend
on each other share a level: a template whose blocks are diagonal has one level and no multiply-adds
but those into x.

Source: Vanderbei (1995), https://doi.org/10.1137/0805005 (quasi-definite factorization).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hedgecast.programs.blocks import BlockProblem

IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Products:
    """Terms ``left[a] * right[b] * weight[row]`` to be added at ``target``."""

    target: IntArray
    row: IntArray
    left: IntArray
    right: IntArray


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """Columns eliminated together, and the multiply-adds they cause."""

    columns: IntArray
    """Nodes, in elimination order."""
    entries: IntArray
    """Factor positions of the columns' entries below the diagonal."""
    entry_column: IntArray
    """Node of each entry."""
    entry_row: IntArray
    """Node, or trailing index beyond the nodes, of each entry."""
    target: IntArray
    """Factor positions that lose ``raw[left] * scaled[right]``."""
    left: IntArray
    right: IntArray
    """Position within ``entries``."""


@dataclasses.dataclass(frozen=True, slots=True)
class BlockStructure:
    """The elimination of one template's scenario block.

    Factor positions: first the diagonal of the nodes (in elimination order), then their entries below
    the diagonal column by column, then the trailing entries (x with x, mu with x, mu with mu).
    Indices of right-hand sides: nodes in elimination order, then x, then mu.
    """

    num_first: int
    num_recourse: int
    num_equalities: int
    num_inequalities: int
    has_risk: bool
    position: IntArray
    """Node of each (w, y) index."""
    num_entries: int
    """Entries of L below the diagonal."""
    column_start: IntArray
    """(nodes + 1,) first entry of each node, counted from zero."""
    entry_row: IntArray
    """Row of each entry, in the order of right-hand sides."""
    trailing_rows: IntArray
    """x index of each trailing entry; num_first stands for mu."""
    trailing_cols: IntArray
    levels: tuple[Level, ...]
    hessian_target: IntArray
    """Factor positions of the lower entries of Q among the nodes."""
    hessian_source: IntArray
    coupling_target: IntArray
    """Factor positions of R."""
    equality_target: IntArray
    """Factor positions of W."""
    equality_coupling_target: IntArray
    """Factor positions of T."""
    inner: Products
    """V'D V among the nodes."""
    cross: Products
    """V'D U between nodes and x."""
    outer: Products
    """U'D U among x; targets are row * num_first + column, both triangles."""
    gradient_target: IntArray
    """Factor positions of grad_w c; empty without risk."""
    mu_target: IntArray
    """Factor positions of (mu, x), then (mu, mu); empty without risk."""

    @property
    def num_nodes(self) -> int:
        """Columns eliminated per scenario: recourse columns and equality multipliers."""
        return self.num_recourse + self.num_equalities

    @property
    def num_trailing(self) -> int:
        """Entries of the matrix that is left in x and mu."""
        return int(self.trailing_rows.size)

    @property
    def factor_size(self) -> int:
        """Numbers per scenario in the factor."""
        return self.num_nodes + self.num_entries + self.num_trailing

    @property
    def num_multiply_adds(self) -> int:
        """Multiply-adds of one numeric factorization of one scenario."""
        return sum(int(level.target.size) for level in self.levels)


Pattern = tuple[IntArray, IntArray]


def analyze_blocks(problem: BlockProblem, *, has_risk: bool) -> BlockStructure:
    """The elimination of a problem's scenario blocks.

    Parameters
    ----------
    problem : BlockProblem
        Only its patterns and sizes are read.
    has_risk : bool
        Whether each scenario has an epigraph row.
    """
    pattern = {name: _coordinates(problem, name) for name in ("Q", "R", "W", "T", "V", "U")}
    sizes = (
        problem.num_first,
        problem.num_recourse,
        problem.W.shape[0],
        problem.V.shape[0],
    )
    return _analyze(pattern, sizes, has_risk)


def pattern_key(problem: BlockProblem, *, has_risk: bool) -> tuple[object, ...]:
    """A hashable name of the pattern, for caching."""
    parts: list[object] = [problem.num_first, problem.num_recourse, has_risk]
    for name in ("P", "A", "G", "Q", "R", "W", "T", "V", "U"):
        rows, cols = _coordinates(problem, name)
        parts += [getattr(problem, name).shape, rows.tobytes(), cols.tobytes()]
    return tuple(parts)


def _coordinates(problem: BlockProblem, name: str) -> Pattern:
    matrix = getattr(problem, name)
    return matrix.rows.cpu().numpy(), matrix.cols.cpu().numpy()


def _analyze(pattern: dict[str, Pattern], sizes: tuple[int, int, int, int], has_risk: bool) -> BlockStructure:
    n, m, num_equalities, num_inequalities = sizes
    num_nodes = m + num_equalities
    adjacency = _adjacency(pattern, sizes, has_risk)
    order, below = _minimum_degree(adjacency, num_nodes, m)
    position = np.empty(num_nodes, dtype=np.int64)
    position[order] = np.arange(num_nodes)

    # Below: original indices (nodes, then x at num_nodes.., mu at num_nodes + n) to elimination order.
    def place(index: int) -> int:
        return int(position[index]) if index < num_nodes else index

    structs = [sorted(place(i) for i in below[k]) for k in range(num_nodes)]
    starts = np.concatenate([[0], np.cumsum([len(s) for s in structs])]).astype(np.int64)
    entry_at = {
        (row, col): num_nodes + int(starts[col]) + offset
        for col, struct in enumerate(structs)
        for offset, row in enumerate(struct)
    }
    trailing = _trailing_pattern(structs, num_nodes, n, has_risk)
    base = num_nodes + int(starts[-1])
    trailing_at = {pair: base + i for i, pair in enumerate(trailing)}

    def locate(row: int, col: int) -> int:
        row, col = max(row, col), min(row, col)
        if row == col and row < num_nodes:
            return row
        return trailing_at[row, col] if col >= num_nodes else entry_at[row, col]

    def where(rows: Iterable[int], cols: Iterable[int]) -> IntArray:
        return np.array([locate(place(i), place(j)) for i, j in zip(rows, cols, strict=True)], dtype=np.int64)

    rows, cols = pattern["Q"]
    lower = np.flatnonzero(rows >= cols)
    coupling = pattern["R"]
    equality, equality_coupling = pattern["W"], pattern["T"]
    return BlockStructure(
        num_first=n,
        num_recourse=m,
        num_equalities=num_equalities,
        num_inequalities=num_inequalities,
        has_risk=has_risk,
        position=position,
        num_entries=int(starts[-1]),
        column_start=starts,
        entry_row=np.array([row for struct in structs for row in struct], dtype=np.int64),
        trailing_rows=np.array([row - num_nodes for row, _ in trailing], dtype=np.int64),
        trailing_cols=np.array([col - num_nodes for _, col in trailing], dtype=np.int64),
        levels=_levels(structs, starts, num_nodes, locate),
        hessian_target=where(rows[lower], cols[lower]),
        hessian_source=lower.astype(np.int64),
        coupling_target=where(coupling[1] + num_nodes, coupling[0]),
        equality_target=where(equality[0] + m, equality[1]),
        equality_coupling_target=where(equality_coupling[1] + num_nodes, equality_coupling[0] + m),
        inner=_products(pattern["V"], pattern["V"], lambda i, j: locate(place(i), place(j)), symmetric=True),
        cross=_products(
            pattern["V"], pattern["U"], lambda i, j: locate(place(i), num_nodes + j), symmetric=False
        ),
        outer=_products(pattern["U"], pattern["U"], lambda i, j: i * n + j, symmetric=False),
        gradient_target=where([num_nodes + n] * m, range(m)) if has_risk else np.empty(0, np.int64),
        mu_target=where([num_nodes + n] * (n + 1), range(num_nodes, num_nodes + n + 1))
        if has_risk
        else np.empty(0, np.int64),
    )


def _adjacency(
    pattern: dict[str, Pattern], sizes: tuple[int, int, int, int], has_risk: bool
) -> list[set[int]]:
    """Neighbors of every node among nodes, x and mu."""
    n, m, num_equalities, num_inequalities = sizes
    num_nodes = m + num_equalities
    adjacency: list[set[int]] = [set() for _ in range(num_nodes)]

    def join(i: int, j: int) -> None:
        if i != j:
            if i < num_nodes:
                adjacency[i].add(j)
            if j < num_nodes:
                adjacency[j].add(i)

    for i, j in zip(*pattern["Q"], strict=True):
        join(int(i), int(j))
    for i, j in zip(*pattern["R"], strict=True):
        join(int(i), num_nodes + int(j))
    for i, j in zip(*pattern["W"], strict=True):
        join(m + int(i), int(j))
    for i, j in zip(*pattern["T"], strict=True):
        join(m + int(i), num_nodes + int(j))
    members: list[list[int]] = [[] for _ in range(num_inequalities)]
    for i, j in zip(*pattern["V"], strict=True):
        members[i].append(int(j))
    for i, j in zip(*pattern["U"], strict=True):
        members[i].append(num_nodes + int(j))
    for row in members:
        for i in row:
            for j in row:
                join(i, j)
    if has_risk:
        for i in range(m):
            join(i, num_nodes + n)
    return adjacency


def _minimum_degree(
    adjacency: list[set[int]], num_nodes: int, num_recourse: int
) -> tuple[list[int], list[set[int]]]:
    """Elimination order of the nodes and, for each in that order, what is below its diagonal.

    An equality multiplier, whose own diagonal is only minus the regularization, waits until one of its
    neighbors is gone and has left it a pivot of the matrix's size.
    """
    graph = [set(neighbors) for neighbors in adjacency]
    waiting = {
        node for node in range(num_recourse, num_nodes) if any(other < num_recourse for other in graph[node])
    }
    degrees = {node: len(graph[node]) for node in range(num_nodes)}
    order: list[int] = []
    below: list[set[int]] = []
    while degrees:
        node = min((i for i in degrees if i not in waiting), key=lambda i: (degrees[i], i))
        del degrees[node]
        neighbors = graph[node]
        order.append(node)
        below.append(neighbors)
        for other in neighbors:
            if other < num_nodes:
                graph[other] |= neighbors
                graph[other] -= {other, node}
                degrees[other] = len(graph[other])
                waiting.discard(other)
    return order, below


def _trailing_pattern(
    structs: list[list[int]], num_nodes: int, n: int, has_risk: bool
) -> list[tuple[int, int]]:
    pairs = set()
    for struct in structs:
        outside = [row for row in struct if row >= num_nodes]
        pairs |= {(i, j) for i in outside for j in outside if i >= j}
    if has_risk:
        mu = num_nodes + n
        pairs |= {(mu, j) for j in range(num_nodes, mu + 1)}
    return sorted(pairs)


def _levels(structs: list[list[int]], starts: IntArray, num_nodes: int, locate: object) -> tuple[Level, ...]:
    assert callable(locate)
    depth = np.zeros(num_nodes, dtype=np.int64)
    for col, struct in enumerate(structs):
        for row in struct:
            if row < num_nodes:
                depth[row] = max(depth[row], depth[col] + 1)
    levels = []
    for level in range(int(depth.max()) + 1 if num_nodes else 0):
        columns = np.flatnonzero(depth == level)
        entries: list[int] = []
        entry_column: list[int] = []
        entry_row: list[int] = []
        target: list[int] = []
        left: list[int] = []
        right: list[int] = []
        for col in columns.tolist():
            first, local = num_nodes + int(starts[col]), len(entries)
            for a, row_a in enumerate(structs[col]):
                entries.append(first + a)
                entry_column.append(int(col))
                entry_row.append(row_a)
                for b in range(a + 1):
                    target.append(locate(row_a, structs[col][b]))
                    left.append(first + a)
                    right.append(local + b)
        levels.append(
            Level(
                columns,
                *(
                    np.array(x, dtype=np.int64)
                    for x in (entries, entry_column, entry_row, target, left, right)
                ),
            )
        )
    return tuple(levels)


def _products(left: Pattern, right: Pattern, locate: object, *, symmetric: bool) -> Products:
    """Pairs of entries in the same row; of a symmetric product only one of (a, b) and (b, a)."""
    assert callable(locate)
    by_row: dict[int, list[tuple[int, int]]] = {}
    for entry, (row, col) in enumerate(zip(*right, strict=True)):
        by_row.setdefault(int(row), []).append((entry, int(col)))
    terms = []
    for a, (row, col) in enumerate(zip(*left, strict=True)):
        for b, other in by_row.get(int(row), []):
            if not symmetric or b <= a:
                terms.append((locate(int(col), other), int(row), a, b))
    table = np.array(terms, dtype=np.int64).reshape(-1, 4)
    return Products(table[:, 0], table[:, 1], table[:, 2], table[:, 3])
