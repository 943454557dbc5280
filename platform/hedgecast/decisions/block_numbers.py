"""The numbers of a block problem, entry first: (entries, B, S), and the products that the solver needs.

A tensor of size 1 along contexts or scenarios stays so: a deterministic matrix is read once for all.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import torch
from torch import Tensor

from hedgecast.programs.blocks import BlockProblem, SparseMatrix

MATRICES = ("Q", "R", "O", "T", "W", "U", "V")
VECTORS = ("o", "c", "h", "k")


@dataclasses.dataclass(frozen=True, slots=True)
class Entries:
    """A sparse matrix with its entries on the first axis."""

    rows: Tensor
    cols: Tensor
    shape: tuple[int, int]
    values: Tensor
    """(nnz, 1 or B, 1 or S)."""

    def apply(self, vector: Tensor) -> Tensor:
        """Product with (cols, B, 1 or S); keeps size 1 where nothing varies."""
        return _scatter(self.values * vector[self.cols], self.rows, self.shape[0])

    def apply_transposed(self, vector: Tensor) -> Tensor:
        """Product of the transpose with (rows, B, 1 or S)."""
        return _scatter(self.values * vector[self.rows], self.cols, self.shape[1])

    def sum_transposed(self, vector: Tensor, weight: Tensor) -> Tensor:
        """(B, cols): sum over scenarios of weight times the transpose's product with ``vector``."""
        terms = vector * weight
        if self.values.shape[2] == 1:
            terms = terms.sum(dim=2, keepdim=True)
        return self.apply_transposed(terms).sum(dim=2).T

    def select(self, members: Tensor) -> Self:
        """The matrix of some members of the batch."""
        return dataclasses.replace(self, values=select_members(self.values, members))


def _scatter(terms: Tensor, target: Tensor, size: int) -> Tensor:
    return terms.new_zeros(size, *terms.shape[1:]).index_add_(0, target, terms)


def select_members(values: Tensor, members: Tensor, *, axis: int = 1) -> Tensor:
    """``values`` of some members; untouched where all members share them."""
    return values if values.shape[axis] == 1 else values.index_select(axis, members)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """One batch in the layout of the solver."""

    num_contexts: int
    num_scenarios: int
    P: Tensor
    """(1 or B, n, n) dense."""
    q: Tensor
    """(1 or B, n)."""
    A: Tensor
    a: Tensor
    G: Tensor
    g: Tensor
    Q: Entries
    R: Entries
    O: Entries  # noqa: E741
    T: Entries
    W: Entries
    U: Entries
    V: Entries
    o: Tensor
    """(n, 1 or B, 1 or S)."""
    c: Tensor
    e: Tensor
    """(1 or B, 1 or S)."""
    h: Tensor
    k: Tensor
    probability: Tensor
    """(B, S)."""
    measure: Tensor
    """(B, S): weight of each scenario in sums and in the barrier, the probability or a floor above zero."""
    benchmark: Tensor
    """(B, S): subtracted from the costs inside the risk measure."""
    cost_scale: Tensor
    """(B,): factor on all costs that brings their coefficients near one."""

    @property
    def num_first(self) -> int:
        """Columns of the first stage."""
        return int(self.q.shape[1])

    @property
    def relative(self) -> Tensor:
        """(B, S): scaled cost weight of a scenario in its own units."""
        return self.probability / self.measure * self.cost_scale[:, None]

    def select(self, members: Tensor) -> Numbers:
        """The numbers of some members of the batch."""
        changes: dict[str, object] = {"num_contexts": int(members.numel())}
        for name in ("P", "q", "A", "a", "G", "g", "e", "probability", "measure", "benchmark", "cost_scale"):
            value: Tensor = getattr(self, name)
            full = value.shape[0] == self.num_contexts and self.num_contexts > 1
            changes[name] = value.index_select(0, members) if full else value
        for name in MATRICES:
            changes[name] = getattr(self, name).select(members)
        for name in VECTORS:
            changes[name] = select_members(getattr(self, name), members)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def double(self) -> Numbers:
        """The numbers in double precision."""
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Entries):
                changes[field.name] = dataclasses.replace(value, values=value.values.double())
            elif isinstance(value, Tensor):
                changes[field.name] = value.double()
        return dataclasses.replace(self, **changes)

    def cost_gradient(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the scenario costs: in w (m, B, S) and in x (n, B, S or 1).

        ``x`` is (n, B, 1) and ``w`` (m, B, S).
        """
        in_w = self.Q.apply(w) + self.R.apply(x) + self.c
        in_x = self.R.apply_transposed(w) + self.O.apply(x) + self.o
        return in_w, in_x

    def costs(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, S) recourse costs."""
        in_w = 0.5 * self.Q.apply(w) + self.R.apply(x) + self.c
        in_x = 0.5 * self.O.apply(x) + self.o
        return (in_w * w).sum(dim=0) + (in_x * x).sum(dim=0) + self.e


def make_numbers(problem: BlockProblem, probability: Tensor, benchmark: Tensor) -> Numbers:
    """The numbers of a problem, detached, with the scales of its costs and scenarios.

    A scenario of probability zero keeps a small measure, so that its constraints still bind.
    """
    S = problem.num_scenarios
    measure = probability.clamp(min=0.01 / S)
    first = {name: getattr(problem, name).dense()[:, 0].detach() for name in ("P", "A", "G")}
    matrices: dict[str, Any] = {name: _entries(getattr(problem, name)) for name in MATRICES}
    vectors = {name: getattr(problem, name).detach().permute(2, 0, 1) for name in VECTORS}
    return Numbers(
        num_contexts=problem.num_contexts,
        num_scenarios=S,
        q=problem.q.detach(),
        a=problem.a.detach(),
        g=problem.g.detach(),
        e=problem.e.detach(),
        probability=probability.detach(),
        measure=measure.detach(),
        benchmark=benchmark.detach(),
        cost_scale=_cost_scale(problem),
        **first,
        **matrices,
        **vectors,
    )


def _entries(matrix: SparseMatrix) -> Entries:
    return Entries(matrix.rows, matrix.cols, matrix.shape, matrix.values.detach().permute(2, 0, 1))


def _cost_scale(problem: BlockProblem) -> Tensor:
    """One over the largest cost coefficient of each member, one where all are zero."""
    largest = problem.q.new_zeros(problem.num_contexts)
    for name in ("P", "Q", "R", "O"):
        largest = torch.maximum(largest, _largest(getattr(problem, name).values, (1, 2)))
    for name in ("o", "c"):
        largest = torch.maximum(largest, _largest(getattr(problem, name), (1, 2)))
    largest = torch.maximum(largest, _largest(problem.q, (1,)))
    return torch.where(largest > 0, 1.0 / largest, torch.ones_like(largest))


def _largest(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    values = values.detach()
    if values.numel() == 0:
        return values.new_zeros(1)
    largest: Tensor = torch.linalg.vector_norm(values, torch.inf, dim=axes)
    return largest
