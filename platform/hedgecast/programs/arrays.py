"""Batched torch arrays that are affine in the uncertain and the given entries.

A column of numbers with a known dependence: what never changes is stored once, what depends on the
given parameters once per context, what depends on the uncertain ones once per scenario. Evaluation is
differentiable in both, in any float dtype and on any device.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from hedgecast.programs.affine_rows import CONSTANT, Affine

# A dense product beats the sparse one down to about this share of nonzeros.
_DENSE_SHARE = 0.2
# Up to so many entries a product with the dense matrix beats a gather (64 x 50 x 96 from 24: 0.17 against
# 0.43 ms, its gradient 0.1 against 1.6).
_DENSE_SIZE = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """entries @ matrix.T, without the zeros of ``matrix``."""

    matrix: sp.csr_array
    """(rows, entries)."""
    dense: np.ndarray | None = dataclasses.field(init=False, default=None)
    """The same with its zeros, where a dense product is the faster one."""

    def __post_init__(self) -> None:
        rows, size = self.matrix.shape
        few = size <= _DENSE_SIZE or rows * size <= 4096
        if few or self.matrix.nnz >= _DENSE_SHARE * rows * size:
            object.__setattr__(self, "dense", self.matrix.toarray())

    def add_to(self, base: Tensor, entries: Tensor) -> Tensor:
        """``base`` (..., rows) + (..., rows) product for entries (..., size)."""
        rows, size = self.matrix.shape
        if self.dense is not None:
            dense = torch.as_tensor(self.dense, dtype=entries.dtype, device=entries.device)
            if base.ndim == 3 and base.shape[:2] == (1, 1):
                return torch.nn.functional.linear(entries, dense, base[0, 0])
            return base + entries @ dense.T
        counts = np.diff(self.matrix.indptr)
        if counts.max(initial=0) <= 1:
            return self._add_selected(base, entries, counts)
        coo = self.matrix.tocoo()
        sparse = torch.sparse_coo_tensor(
            torch.as_tensor(np.stack([coo.row, coo.col]), dtype=torch.int64, device=entries.device),
            torch.as_tensor(coo.data, dtype=entries.dtype, device=entries.device),
            (rows, size),
            check_invariants=False,
        )
        product: Tensor = torch.sparse.mm(sparse, entries.reshape(-1, size).T)
        return base + product.T.reshape(*entries.shape[:-1], rows)

    def _add_selected(self, base: Tensor, entries: Tensor, counts: np.ndarray) -> Tensor:
        """The sum where every row of the matrix has one entry at most: a gather and one pass."""
        index, factor = np.zeros(counts.size, dtype=np.int64), np.zeros(counts.size)
        index[counts > 0], factor[counts > 0] = self.matrix.indices, self.matrix.data
        weights = torch.as_tensor(factor, dtype=entries.dtype, device=entries.device)
        return torch.addcmul(base, _picked(entries, index), weights)


@dataclasses.dataclass(frozen=True, slots=True)
class AffineArray:
    """A column of numbers: constant + uncertain part + given part."""

    constant: np.ndarray
    uncertain: Linear | None
    given: Linear | None

    @classmethod
    def of(cls, affines: list[Affine], num_uncertain: int, num_given: int) -> AffineArray:
        """The array whose entries are ``affines``."""
        constant = np.array([affine.get(CONSTANT, 0.0) for affine in affines])
        parts = []
        for start, count in ((0, num_uncertain), (num_uncertain, num_given)):
            rows, cols, data = [], [], []
            for row, affine in enumerate(affines):
                for index, value in affine.items():
                    if index != CONSTANT and start <= index < start + count:
                        rows.append(row)
                        cols.append(index - start)
                        data.append(value)
            matrix = sp.csr_array((data, (rows, cols)), shape=(len(affines), count)) if data else None
            parts.append(None if matrix is None else Linear(matrix))
        return cls(constant, parts[0], parts[1])

    def __call__(self, uncertain: Tensor, given: Tensor) -> Tensor:
        """(1 or B, 1 or S, rows) for uncertain (B, S, D) and given (1 or B, K)."""
        out = torch.as_tensor(self.constant, dtype=given.dtype, device=given.device)[None, None, :]
        if self.given is not None:
            out = self.given.add_to(out, given[:, None, :])
        if self.uncertain is not None:
            out = self.uncertain.add_to(out, uncertain)
        return out


@dataclasses.dataclass(frozen=True, slots=True)
class QuadraticNumber:
    """One number that is a quadratic form of (uncertain, given, 1): a cost's constant part."""

    affine: AffineArray
    left: np.ndarray
    """(terms,) entries of (uncertain, given)."""
    right: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, form: dict[tuple[int, int], float], num_uncertain: int, num_given: int) -> QuadraticNumber:
        """The number ``sum form[i, j] theta_i theta_j``; index -1 stands for 1."""
        affine: Affine = {}
        products = []
        for (i, j), value in form.items():
            if i == CONSTANT:
                affine[j] = affine.get(j, 0.0) + value
            elif value:
                products.append((i, j, value))
        table = np.array(products).reshape(-1, 3)
        return cls(
            AffineArray.of([affine], num_uncertain, num_given),
            table[:, 0].astype(np.int64),
            table[:, 1].astype(np.int64),
            table[:, 2],
        )

    def __call__(self, uncertain: Tensor, given: Tensor) -> Tensor:
        """(1 or B, 1 or S) for uncertain (B, S, D) and given (1 or B, K)."""
        out = self.affine(uncertain, given)[:, :, 0]
        num_uncertain = uncertain.shape[2]
        uses_uncertain = (self.left < num_uncertain) | (self.right < num_uncertain)
        for among, uncertain_part in ((~uses_uncertain, False), (uses_uncertain, True)):
            if among.any():
                out = out + self._products(among, uncertain, given, uncertain_part)
        return out

    def _products(self, among: np.ndarray, uncertain: Tensor, given: Tensor, both: bool) -> Tensor:
        left, right, factor = self.left[among], self.right[among], self.factor[among]
        shift, entries = 0, uncertain
        if not both:
            shift, entries = uncertain.shape[2], given[:, None, :]
        elif max(left.max(), right.max()) >= uncertain.shape[2]:
            spread = given[:, None, :].expand(uncertain.shape[0], uncertain.shape[1], given.shape[1])
            entries = torch.cat([uncertain, spread], dim=2)
        weights = torch.as_tensor(factor, dtype=given.dtype, device=given.device)
        first = _picked(entries, left - shift)
        second = first if np.array_equal(left, right) else _picked(entries, right - shift)
        return (first * second) @ weights


def _picked(entries: Tensor, index: np.ndarray) -> Tensor:
    """``entries[..., index]``, without a copy where that is all of them in order."""
    if index.size == entries.shape[-1] and np.array_equal(index, np.arange(index.size)):
        return entries
    return entries[..., torch.as_tensor(index, device=entries.device)]
