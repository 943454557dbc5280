"""The numbers of a two-stage program in block form: what a program hands to a solver.

With x the first-stage columns (the decision, then auxiliary columns of CVXPY's canonical form) and
w_s the columns of scenario s, for each context b of the batch:

    min   1/2 x'P x + q'x + d
        + sum_s p_s (1/2 w_s'Q w_s + w_s'R x + 1/2 x'O x + o_s'x + c_s'w_s + e_s)
    s.t.  A x  = a          G x        <= g
          T x + W w_s = h_s         U x + V w_s <= k_s          for every s

Axes: n first-stage columns, m scenario columns, B contexts, S scenarios. Every tensor may have size
1 on an axis along which it does not change (so a deterministic matrix is stored once); a solver
must not expand it needlessly. All tensors share dtype and device, and are differentiable functions
of the scenarios and the given parameters when those require gradients.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class SparseMatrix:
    """A batch of sparse matrices with one pattern, coordinates sorted by row, then column, unique."""

    rows: Tensor
    """(nnz,) int64."""
    cols: Tensor
    """(nnz,) int64."""
    shape: tuple[int, int]
    values: Tensor
    """(1 or B, 1 or S, nnz): axis 1 is 1 for first-stage matrices."""

    @classmethod
    def empty(cls, rows: int, cols: int, like: Tensor) -> SparseMatrix:
        """A matrix without entries, in the dtype and on the device of ``like``."""
        none = torch.zeros(0, dtype=torch.int64, device=like.device)
        return cls(none, none, (rows, cols), like.new_zeros(1, 1, 0))

    @property
    def num_nonzeros(self) -> int:
        """Entries in the pattern."""
        return int(self.rows.numel())

    def times(self, vector: Tensor) -> Tensor:
        """(B, S, rows) products with vectors (1 or B, 1 or S, cols); size 1 where nothing varies."""
        terms = self.values * vector[..., self.cols]
        return terms.new_zeros(*terms.shape[:2], self.shape[0]).index_add(2, self.rows, terms)

    def dense(self) -> Tensor:
        """(1 or B, 1 or S, rows, cols) dense copy, for tests and small templates."""
        out = self.values.new_zeros(*self.values.shape[:2], *self.shape)
        out[:, :, self.rows, self.cols] = self.values
        return out


@dataclasses.dataclass(frozen=True, slots=True)
class BlockProblem:
    """A batch of two-stage quadratic or linear programs; see the module's formula."""

    num_contexts: int
    num_scenarios: int
    # first stage
    P: SparseMatrix
    """(n, n) symmetric, both triangles stored."""
    q: Tensor
    """(1 or B, n)."""
    d: Tensor
    """(1 or B,) constant."""
    A: SparseMatrix
    a: Tensor
    """(1 or B, rows of A)."""
    G: SparseMatrix
    g: Tensor
    # scenarios
    Q: SparseMatrix
    """(m, m) symmetric, both triangles stored."""
    R: SparseMatrix
    """(m, n)."""
    O: SparseMatrix  # noqa: E741
    """(n, n) symmetric, both triangles stored: the recourse cost's own curvature in x."""
    o: Tensor
    """(1 or B, 1 or S, n)."""
    c: Tensor
    """(1 or B, 1 or S, m)."""
    e: Tensor
    """(1 or B, 1 or S)."""
    T: SparseMatrix
    W: SparseMatrix
    h: Tensor
    """(1 or B, 1 or S, rows of T)."""
    U: SparseMatrix
    V: SparseMatrix
    k: Tensor
    """(1 or B, 1 or S, rows of U)."""

    @classmethod
    def of_block(
        cls,
        num_contexts: int,
        *,
        Q: SparseMatrix,
        c: Tensor,
        e: Tensor,
        W: SparseMatrix,
        h: Tensor,
        V: SparseMatrix,
        k: Tensor,
        d: Tensor | None = None,
    ) -> BlockProblem:
        """Deterministic programs: one scenario block each, nothing in the first stage but the constant d."""

        def empty(rows: int) -> SparseMatrix:
            return SparseMatrix.empty(rows, 0, c)

        new = c.new_zeros
        return cls(
            num_contexts=num_contexts, num_scenarios=1,
            P=empty(0), q=new(1, 0), d=new(1) if d is None else d,
            A=empty(0), a=new(1, 0), G=empty(0), g=new(1, 0),
            Q=Q, R=empty(Q.shape[0]), O=empty(0), o=new(1, 1, 0), c=c, e=e,
            T=empty(W.shape[0]), W=W, h=h, U=empty(V.shape[0]), V=V, k=k,
        )  # fmt: skip

    @property
    def num_first(self) -> int:
        """Columns of the first stage, n."""
        return self.P.shape[0]

    @property
    def num_recourse(self) -> int:
        """Columns of one scenario, m."""
        return self.Q.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of every tensor."""
        return self.q.dtype

    @property
    def device(self) -> torch.device:
        """Of every tensor."""
        return self.q.device


def recourse_alone(problem: BlockProblem, x: Tensor) -> BlockProblem:
    """B * S deterministic programs in w: every scenario's recourse with the first stage fixed at x (B, n).

    Differentiable in every tensor and in x.
    """
    B, S = problem.num_contexts, problem.num_scenarios
    column = x[:, None]

    def apart(values: Tensor) -> Tensor:
        if values.shape[:2] == (1, 1):
            return values
        return values.expand(B, S, *values.shape[2:]).reshape(B * S, 1, *values.shape[2:])

    def spread(matrix: SparseMatrix) -> SparseMatrix:
        return dataclasses.replace(matrix, values=apart(matrix.values))

    in_x = 0.5 * problem.O.times(column) + problem.o
    return BlockProblem.of_block(
        B * S,
        Q=spread(problem.Q),
        c=apart(problem.c + problem.R.times(column)),
        e=apart(problem.e + (in_x * column).sum(dim=2)),
        W=spread(problem.W),
        h=apart(problem.h - problem.T.times(column)),
        V=spread(problem.V),
        k=apart(problem.k - problem.U.times(column)),
    )
