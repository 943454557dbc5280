"""Numeric elimination of all scenario blocks at once, replaying a `BlockStructure` on torch tensors."""

from __future__ import annotations

import dataclasses
import threading

import torch
from torch import Tensor

from hedgecast.decisions.block_numbers import Numbers
from hedgecast.decisions.kernels_emit import Code
from hedgecast.decisions.kernels_pattern import Pattern
from hedgecast.decisions.scenario_blocks import BlockStructure
from hedgecast.programs.blocks import BlockProblem

# Numbers in one temporary of the multiply-add replay: 64 MiB in float64.
_CHUNK = 1 << 23
# Pivots below this many units of rounding of the terms that went into them hold no digit.
_ROUNDING = 16.0


@dataclasses.dataclass(frozen=True, slots=True)
class LevelIndex:
    """A level's index lists as tensors on the solve's device."""

    columns: Tensor
    entries: Tensor
    entry_column: Tensor
    entry_row: Tensor
    target: Tensor
    left: Tensor
    right: Tensor


class BlockIndex:
    """The index lists of a structure as tensors on one device."""

    def __init__(self, structure: BlockStructure, problem: BlockProblem) -> None:
        device = problem.device

        def tensor(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.int64, device=device)

        self.structure = structure
        self.compiled_pattern: Pattern | None = None
        self.generated: dict[tuple[bool, ...], Code | None] = {}
        self.lock = threading.Lock()
        self.first_stage = {
            name: (getattr(problem, name).rows, getattr(problem, name).cols) for name in ("P", "A", "G")
        }
        self.position = tensor(structure.position)
        self.is_recourse = torch.zeros(structure.num_nodes, dtype=torch.bool, device=device)
        self.is_recourse[self.position[: structure.num_recourse]] = True
        self.levels = [
            LevelIndex(*(tensor(getattr(level, field.name)) for field in dataclasses.fields(LevelIndex)))
            for level in structure.levels
        ]
        # Entries of each level whose row is a node too, and that node: they change its pivot.
        self.on_pivots = []
        for level in structure.levels:
            inner = (level.entry_row < structure.num_nodes).nonzero()[0]
            self.on_pivots.append((tensor(inner), tensor(level.entry_row[inner])))
        self.trailing_rows = tensor(structure.trailing_rows)
        self.trailing_cols = tensor(structure.trailing_cols)
        in_x = (structure.trailing_rows < structure.num_first) & (
            structure.trailing_cols < structure.num_first
        )
        base = structure.num_nodes + structure.num_entries
        self.schur_entries = tensor(base + in_x.nonzero()[0])
        self.schur_rows = tensor(structure.trailing_rows[in_x])
        self.schur_cols = tensor(structure.trailing_cols[in_x])
        self.targets = {
            name: tensor(getattr(structure, name))
            for name in (
                "hessian_target", "hessian_source", "coupling_target", "equality_target",
                "equality_coupling_target", "gradient_target", "mu_target",
            )
        }  # fmt: skip
        self.products = {
            name: tuple(
                tensor(getattr(getattr(structure, name), part)) for part in ("target", "row", "left", "right")
            )
            for name in ("inner", "cross", "outer")
        }


@dataclasses.dataclass(frozen=True, slots=True)
class BlockFactor:
    """L and D of every scenario, and what the blocks leave in the first stage."""

    index: BlockIndex
    scaled: Tensor
    """(entries, B, S): L below the diagonal."""
    inverse_pivot: Tensor
    """(nodes, B, S)."""
    schur: Tensor
    """(B, nx, nx): sum over scenarios of what is left in x (and eta)."""
    border: Tensor | None
    """(nx, B, S): the epigraph row in x and eta after elimination; None without risk."""
    pivot: Tensor | None
    """(B, S): minus the epigraph row's pivot, positive."""
    measure: Tensor

    def solve_blocks(self, nodes: Tensor, epigraph: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forward elimination of right-hand sides.

        Returns the partly solved right-hand sides (nodes + x + mu, B, S) and their sum (B, nx) to be
        added to the first stage's.
        """
        structure = self.index.structure
        count, n = structure.num_nodes, structure.num_first
        shape = self.measure.shape
        rhs = nodes.new_zeros(count + n + 1, *shape)
        rhs.index_copy_(0, self.index.position, nodes.expand(count, *shape))
        for level in self.index.levels:
            if level.entries.numel():
                terms = self.scaled[level.entries - count] * rhs[level.entry_column]
                rhs.index_add_(0, level.entry_row, terms, alpha=-1)
        gathered = (rhs[count : count + n] * self.measure).sum(dim=2).T
        if self.border is not None:
            assert self.pivot is not None
            if epigraph is not None:
                rhs[-1] += epigraph
            weight = self.measure * rhs[-1] / self.pivot
            gathered = torch.cat([gathered, gathered.new_zeros(shape[0], 1)], dim=1)
            gathered = gathered + (self.border * weight).sum(dim=2).T
        return rhs, gathered

    def finish_blocks(self, rhs: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Back substitution once x (B, nx) is known: (nodes, B, S) in (w, y) order, and mu (B, S)."""
        structure = self.index.structure
        count, n = structure.num_nodes, structure.num_first
        column = x.T[:, :, None]
        mu = None
        if self.border is not None:
            assert self.pivot is not None
            mu = ((self.border * column).sum(dim=0) - rhs[-1]) / self.pivot
            rhs[-1] = mu
        rhs[count : count + n] = column[:n]
        rhs[:count] *= self.inverse_pivot
        for level in reversed(self.index.levels):
            if level.entries.numel():
                terms = self.scaled[level.entries - count] * rhs[level.entry_row]
                rhs.index_add_(0, level.entry_column, terms, alpha=-1)
        return rhs[self.index.position], mu


def factorize_blocks(
    index: BlockIndex,
    numbers: Numbers,
    *,
    weight: Tensor,
    ratio: Tensor,
    regularization: Tensor,
    gradients: tuple[Tensor, Tensor] | None = None,
    theta: Tensor | None = None,
    live: Tensor | None = None,
) -> BlockFactor:
    """The factor of every scenario block.

    Parameters
    ----------
    index : BlockIndex
        The template's elimination.
    numbers : Numbers
        The batch.
    weight : (B, S)
        Cost weight of each scenario in its own units.
    ratio : (rows, B, S)
        Multiplier over slack of each inequality row.
    regularization : (B,)
        Added to the diagonal of w, subtracted from that of the equality multipliers.
    gradients : (m, B, S) and (n, B, 1 or S)
        Of the scenario costs; with risk only.
    theta : (B, S)
        Minus the epigraph row's diagonal; with risk only.
    live : (B, S)
        One where the scenario has an epigraph row, zero where its probability is zero; with risk only.
    """
    structure = index.structure
    count, n = structure.num_nodes, structure.num_first
    factor = ratio.new_zeros(structure.factor_size, *weight.shape)
    _assemble(factor, index, numbers, weight, ratio, regularization)
    if gradients is not None:
        assert theta is not None
        shape = weight.shape
        factor.index_add_(0, index.targets["gradient_target"], gradients[0].expand(-1, *shape))
        mu = index.targets["mu_target"]
        factor.index_add_(0, mu[:-1], gradients[1].expand(-1, *shape))
        factor[mu[-1]] -= theta
    inverse = _eliminate(factor, index, regularization)
    schur = _first_stage_terms(index, numbers, weight, ratio, factor)
    border = pivot = None
    if gradients is not None:
        assert live is not None
        mu = index.targets["mu_target"]
        pivot = -factor[mu[-1]]
        border = torch.cat([factor[mu[:-1]], -live[None]])
        left = (border * (numbers.measure / pivot)).permute(1, 0, 2)
        full = left @ border.permute(1, 2, 0)
        full[:, :n, :n] += schur
        schur = full
    scaled = factor[count : count + structure.num_entries]
    return BlockFactor(index, scaled, inverse, schur, border, pivot, numbers.measure)


def _assemble(
    factor: Tensor, index: BlockIndex, numbers: Numbers, weight: Tensor, ratio: Tensor, regularization: Tensor
) -> None:
    structure, targets = index.structure, index.targets
    shape = weight.shape
    for name, left, right in (("inner", numbers.V, numbers.V), ("cross", numbers.V, numbers.U)):
        target, row, a, b = index.products[name]
        if target.numel():
            terms = (left.values[a] * right.values[b]) * ratio[row]
            factor.index_add_(0, target, terms)
    source = numbers.Q.values[targets["hessian_source"]]
    factor.index_add_(0, targets["hessian_target"], (source * weight).expand(-1, *shape))
    factor.index_add_(0, targets["coupling_target"], (numbers.R.values * weight).expand(-1, *shape))
    factor.index_add_(0, targets["equality_target"], numbers.W.values.expand(-1, *shape))
    factor.index_add_(0, targets["equality_coupling_target"], numbers.T.values.expand(-1, *shape))
    factor[index.position[: structure.num_recourse]] += regularization[:, None]
    factor[index.position[structure.num_recourse :]] -= regularization[:, None]


def _eliminate(factor: Tensor, index: BlockIndex, regularization: Tensor) -> Tensor:
    """Right-looking elimination by levels, in place; the inverse pivots.

    The pivots of a quasi-definite matrix have known signs and are no smaller than the regularization. Where
    cancellation leaves less, or nothing but rounding of all the terms that went into a pivot, it is set to
    the larger of both: a column without curvature in an equality row passes on one over the
    regularization, beside which an innocent diagonal entry says nothing. Where it leaves the wrong sign, what
    is left is the error that came with earlier pivots (3e-4 in one of 2e7 left of terms of 2.5e12), and the
    rows beside it carry as much: it gets its own size or that error, followed to first order, whichever is
    larger. Set to less, pivots grew to 1e80. Pivots that hold a digit are left alone, whatever they carry.
    """
    epsilon = torch.finfo(factor.dtype).eps
    count = index.structure.num_nodes
    size = factor[:count].abs()
    error = epsilon * size
    inverse = torch.empty_like(size)
    step = max(1, _CHUNK // max(1, factor[0].numel() if factor.shape[0] else 1))
    for level, (inner, nodes) in zip(index.levels, index.on_pivots, strict=True):
        recourse = index.is_recourse[level.columns][:, None, None]
        least = torch.maximum(_ROUNDING * epsilon * size[level.columns], regularization[:, None])
        pivots = torch.where(recourse, factor[level.columns], -factor[level.columns])
        instead = torch.maximum(torch.maximum(pivots.abs(), error[level.columns]), least)
        pivots = torch.where(pivots < least, instead, pivots)
        factor[level.columns] = torch.where(recourse, pivots, -pivots)
        inverse[level.columns] = 1.0 / factor[level.columns]
        scaled = factor[level.entries] * inverse[level.entry_column]
        if inner.numel():
            below, before = scaled[inner].abs(), error[level.entry_column[inner]]
            terms = factor[level.entries[inner]].abs() * below
            size.index_add_(0, nodes, terms)
            error.index_add_(0, nodes, below.square() * before + epsilon * terms)
        for start in range(0, level.target.numel(), step):
            part = slice(start, start + step)
            terms = factor[level.left[part]] * scaled[level.right[part]]
            factor.index_add_(0, level.target[part], terms, alpha=-1)
        factor[level.entries] = scaled
    return inverse


def _first_stage_terms(
    index: BlockIndex, numbers: Numbers, weight: Tensor, ratio: Tensor, factor: Tensor
) -> Tensor:
    """(B, n, n): sum of U'D U, of l O and of what the elimination left in x."""
    n = index.structure.num_first
    B = weight.shape[0]
    flat = weight.new_zeros(n * n, B)
    target, row, a, b = index.products["outer"]
    if target.numel():
        products = numbers.U.values[a] * numbers.U.values[b]
        scale = ratio * numbers.measure
        if products.shape[2] == 1:
            terms = products[:, :, 0] * scale.sum(dim=2)[row]
        else:
            terms = (products * scale[row]).sum(dim=2)
        flat.index_add_(0, target, terms)
    if numbers.O.values.numel():
        total = weight * numbers.measure
        if numbers.O.values.shape[2] == 1:
            terms = numbers.O.values[:, :, 0] * total.sum(dim=1)
        else:
            terms = (numbers.O.values * total).sum(dim=2)
        flat.index_add_(0, numbers.O.rows * n + numbers.O.cols, terms)
    left = (factor[index.schur_entries] * numbers.measure).sum(dim=2)
    flat.index_add_(0, index.schur_rows * n + index.schur_cols, left)
    off = index.schur_rows != index.schur_cols
    flat.index_add_(0, index.schur_cols[off] * n + index.schur_rows[off], left[off])
    return flat.T.reshape(B, n, n)
