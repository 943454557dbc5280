"""One program's block form with its parameters left open; made once, instantiated per batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hedgecast.programs.affine_rows import Affine, Reduced, Row
from hedgecast.programs.arrays import AffineArray, QuadraticNumber
from hedgecast.programs.blocks import BlockProblem, SparseMatrix
from hedgecast.programs.canonical import FloatArray, Stage
from hedgecast.programs.presolve import merge_rows, reduce_stage


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """A sparse matrix of one pattern whose values are affine in the parameters."""

    rows: np.ndarray
    cols: np.ndarray
    shape: tuple[int, int]
    values: AffineArray

    @classmethod
    def of(
        cls, entries: dict[tuple[int, int], Affine], shape: tuple[int, int], sizes: tuple[int, int]
    ) -> Pattern:
        """The matrix with ``entries``, sorted by row, then column."""
        keys = sorted(entries)
        where = np.array(keys, dtype=np.int64).reshape(-1, 2)
        values = AffineArray.of([entries[key] for key in keys], *sizes)
        return cls(where[:, 0].copy(), where[:, 1].copy(), shape, values)

    def __call__(self, uncertain: Tensor, given: Tensor) -> SparseMatrix:
        """The numbers for uncertain (B, S, D) and given (1 or B, K)."""
        return SparseMatrix(
            torch.as_tensor(self.rows, device=given.device),
            torch.as_tensor(self.cols, device=given.device),
            self.shape,
            self.values(uncertain, given),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ScenarioBlock:
    """Costs and rows of one scenario: the terms Q, R, O, o, c, e, T, W, h, U, V, k of the block form."""

    Q: Pattern
    R: Pattern
    O: Pattern  # noqa: E741
    o: AffineArray
    c: AffineArray
    e: QuadraticNumber
    T: Pattern
    W: Pattern
    h: AffineArray
    U: Pattern
    V: Pattern
    k: AffineArray
    source: FloatArray
    """(rows of T then U, rows of the canonical stage): multipliers that make each row; NaN where none do."""

    @property
    def num_columns(self) -> int:
        """Columns of one scenario, m."""
        return self.Q.shape[0]

    @property
    def num_rows(self) -> int:
        """Equality and inequality rows of one scenario."""
        return self.T.shape[0] + self.U.shape[0]

    def instantiate(self, uncertain: Tensor, given: Tensor) -> BlockProblem:
        """The numbers for uncertain (B, S, D) and given (1 or B, K), with free first-stage columns."""
        n, new = self.R.shape[1], given.new_zeros
        return BlockProblem(
            num_contexts=int(uncertain.shape[0]),
            num_scenarios=int(uncertain.shape[1]),
            P=SparseMatrix.empty(n, n, given),
            q=new(1, n),
            d=new(1),
            A=SparseMatrix.empty(0, n, given),
            a=new(1, 0),
            G=SparseMatrix.empty(0, n, given),
            g=new(1, 0),
            Q=self.Q(uncertain, given),
            R=self.R(uncertain, given),
            O=self.O(uncertain, given),
            o=self.o(uncertain, given),
            c=self.c(uncertain, given),
            e=self.e(uncertain, given),
            T=self.T(uncertain, given),
            W=self.W(uncertain, given),
            h=self.h(uncertain, given),
            U=self.U(uncertain, given),
            V=self.V(uncertain, given),
            k=self.k(uncertain, given),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """The block form of a quadratic or linear two-stage program."""

    P: Pattern
    q: AffineArray
    d: QuadraticNumber
    A: Pattern
    a: AffineArray
    G: Pattern
    g: AffineArray
    scenario: ScenarioBlock

    @property
    def num_first(self) -> int:
        """First-stage columns, n: the decision, then what is left of the auxiliary columns."""
        return self.P.shape[0]

    def instantiate(self, uncertain: Tensor, given: Tensor) -> BlockProblem:
        """The numbers for a batch, differentiable in both arguments.

        Parameters
        ----------
        uncertain : Tensor
            (B, S, D).
        given : Tensor
            (1 or B, K), of the same dtype and device.
        """
        return dataclasses.replace(
            self.scenario.instantiate(uncertain, given),
            P=self.P(uncertain, given),
            q=self.q(uncertain, given)[:, 0],
            d=self.d(uncertain, given)[:, 0],
            A=self.A(uncertain, given),
            a=self.a(uncertain, given)[:, 0],
            G=self.G(uncertain, given),
            g=self.g(uncertain, given)[:, 0],
        )


def make_template(first: Stage, recourse: Stage, num_uncertain: int, num_given: int) -> Template:
    """The block form of a program from its two canonical stages.

    Parameters
    ----------
    first, recourse : Stage
        With linear cones only.
    num_uncertain, num_given : int
        D and K.
    """
    sizes = (num_uncertain, num_given)
    one, many = reduce_stage(first), reduce_stage(recourse)
    # A recourse row without recourse columns that no scenario changes binds the decision alone.
    for name in ("equalities", "inequalities"):
        rows: list[Row] = getattr(many, name)
        moved = [row for row in rows if _concerns_decision_only(row, many.num_decision, num_uncertain)]
        getattr(one, name).extend(moved)
        setattr(many, name, [row for row in rows if not any(row is other for other in moved)])
    merge_rows(one)
    columns = _numbering(one)
    num_first = len(columns)
    quadratic = {
        (columns[r], columns[c]): entry
        for r, entries in one.quadratic.items()
        for c, entry in entries.items()
    }
    A, a = _row_patterns(one.equalities, columns, num_first, sizes)
    G, g = _row_patterns(one.inequalities, columns, num_first, sizes)
    return Template(
        P=Pattern.of(quadratic, (num_first, num_first), sizes),
        q=AffineArray.of(_spread(one.linear, columns, num_first), *sizes),
        d=QuadraticNumber.of(one.constant, *sizes),
        A=A,
        a=a,
        G=G,
        g=g,
        scenario=make_block(many, num_first, recourse.num_rows, sizes),
    )


def make_block(reduced: Reduced, num_first: int, num_raw_rows: int, sizes: tuple[int, int]) -> ScenarioBlock:
    """The scenario terms of a reduced stage.

    Parameters
    ----------
    reduced : Reduced
        Its decision columns become the first of ``num_first`` first-stage columns.
    num_first, num_raw_rows : int
        First-stage columns, and rows of the canonical stage.
    sizes : tuple of int
        D and K.
    """
    decision = {column: column for column in range(reduced.num_decision)}
    own = {column: position for position, column in enumerate(reduced.columns)}
    num_own = len(own)
    Q, R, O = {}, {}, {}  # noqa: E741
    for r, entries in reduced.quadratic.items():
        for c, entry in entries.items():
            if r in own and c in own:
                Q[own[r], own[c]] = entry
            elif r in own:
                R[own[r], c] = entry
            elif c not in own:
                O[r, c] = entry
    T, h = _row_patterns(reduced.equalities, decision, num_first, sizes)
    W, _ = _row_patterns(reduced.equalities, own, num_own, sizes)
    U, k = _row_patterns(reduced.inequalities, decision, num_first, sizes)
    V, _ = _row_patterns(reduced.inequalities, own, num_own, sizes)
    rows = reduced.equalities + reduced.inequalities
    source = np.zeros((len(rows), num_raw_rows))
    for position, row in enumerate(rows):
        for raw, factor in row.source.items():
            source[position, raw] += factor
    return ScenarioBlock(
        Q=Pattern.of(Q, (num_own, num_own), sizes),
        R=Pattern.of(R, (num_own, num_first), sizes),
        O=Pattern.of(O, (num_first, num_first), sizes),
        o=AffineArray.of(_spread(reduced.linear, decision, num_first), *sizes),
        c=AffineArray.of(_spread(reduced.linear, own, num_own), *sizes),
        e=QuadraticNumber.of(reduced.constant, *sizes),
        T=T,
        W=W,
        h=h,
        U=U,
        V=V,
        k=k,
        source=source,
    )


def _concerns_decision_only(row: Row, num_decision: int, num_uncertain: int) -> bool:
    entries = [row.rhs, *row.coefficients.values()]
    changes = any(0 <= index < num_uncertain for entry in entries for index in entry)
    return bool(row.coefficients) and not changes and all(c < num_decision for c in row.coefficients)


def _numbering(reduced: Reduced) -> dict[int, int]:
    kept = [*range(reduced.num_decision), *reduced.columns]
    return {column: position for position, column in enumerate(kept)}


def _spread(entries: dict[int, Affine], columns: dict[int, int], size: int) -> list[Affine]:
    out: list[Affine] = [{} for _ in range(size)]
    for column, entry in entries.items():
        if column in columns:
            out[columns[column]] = entry
    return out


def _row_patterns(
    rows: Sequence[Row], columns: dict[int, int], width: int, sizes: tuple[int, int]
) -> tuple[Pattern, AffineArray]:
    entries = {
        (position, columns[column]): entry
        for position, row in enumerate(rows)
        for column, entry in row.coefficients.items()
        if column in columns
    }
    matrix = Pattern.of(entries, (len(rows), width), sizes)
    return matrix, AffineArray.of([row.rhs for row in rows], *sizes)
