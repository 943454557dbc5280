"""The dense, batched system that is left in the first stage once the scenarios are eliminated."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class FirstStageFactor:
    """Cholesky factors of H + rho A'A and of its Schur complement in the equality rows.

    Adding rho A'A to H, and rho A'b to the right-hand side, leaves the solution as it is and makes the
    matrix definite wherever the equalities pin what H leaves free.
    """

    cholesky: Tensor
    """(B, nx, nx)."""
    equality: Tensor
    """(1 or B, rows, nx)."""
    penalty: Tensor
    """(B,) rho."""
    schur: Tensor | None
    """(B, rows, rows); None without equalities."""

    def solve(self, x: Tensor, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Solution of [[H, A'], [A, -delta]] for right-hand sides (B, nx) and (B, rows)."""
        if self.schur is None:
            return _cholesky_solve(x, self.cholesky), multiplier
        transposed = self.equality.transpose(1, 2)
        x = x + self.penalty[:, None] * (transposed @ multiplier[:, :, None])[:, :, 0]
        inner = _cholesky_solve(x, self.cholesky)
        residual = (self.equality @ inner[:, :, None])[:, :, 0] - multiplier
        dual = _cholesky_solve(residual, self.schur)
        return inner - _cholesky_solve((transposed @ dual[:, :, None])[:, :, 0], self.cholesky), dual


def factorize_first_stage(hessian: Tensor, equality: Tensor, regularization: Tensor) -> FirstStageFactor:
    """The factor of a batch of first-stage systems.

    Parameters
    ----------
    hessian : (B, nx, nx)
        Symmetric positive semidefinite.
    equality : (1 or B, rows, nx)
        Equality rows.
    regularization : (B,)
        Added to the diagonal, relative to nothing: the costs are scaled near one. A member whose
        factorization breaks down gets a hundred times more until it does not.
    """
    B, nx = hessian.shape[0], hessian.shape[1]
    penalty = hessian.new_ones(B)
    if equality.shape[1]:
        trace = hessian.diagonal(dim1=1, dim2=2).sum(dim=1)
        penalty = (trace / equality.square().sum(dim=(1, 2)).clamp(min=1e-30)).clamp(min=1e-3, max=1e8)
        hessian = hessian + penalty[:, None, None] * (equality.transpose(1, 2) @ equality)
    cholesky = _robust_cholesky(hessian, regularization)
    schur = None
    if equality.shape[1]:
        full = equality.expand(B, -1, -1)
        schur = _robust_cholesky(full @ torch.cholesky_solve(full.transpose(1, 2), cholesky), regularization)
    assert cholesky.shape == (B, nx, nx)
    return FirstStageFactor(cholesky, equality, penalty, schur)


def _robust_cholesky(matrix: Tensor, regularization: Tensor) -> Tensor:
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    if not matrix.shape[1]:
        return matrix
    shift = regularization
    # Rows of different magnitude: the shift is relative to each diagonal entry, and never below itself.
    diagonal = matrix.diagonal(dim1=1, dim2=2).abs()
    scale = 1.0 + diagonal * torch.finfo(matrix.dtype).eps / regularization[:, None]
    for _ in range(6):
        factor, info = torch.linalg.cholesky_ex(matrix + (shift[:, None] * scale)[:, :, None] * identity)
        broken = (info > 0) & torch.isfinite(matrix).all(dim=2).all(dim=1)
        if not bool(broken.any()):
            break
        shift = torch.where(broken, shift * 100.0, shift)
    result: Tensor = factor
    return result


def _cholesky_solve(rhs: Tensor, factor: Tensor) -> Tensor:
    if not rhs.shape[1]:
        return rhs
    return torch.cholesky_solve(rhs[:, :, None], factor)[:, :, 0]
