"""What a fixed decision costs, scenario by scenario, with exact slopes.

Where the scenario's columns do not meet (no equality rows, one column a row, diagonal curvature), the
best recourse is a clamp and the cost a closed formula. Otherwise a backend solves the scenarios as
separate problems, and the envelope theorem gives the slopes: those of the Lagrangian at the solution.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hedgecast.programs.backend import StageValue
from hedgecast.programs.template import ScenarioBlock

# A bound crossed by less than this, relative to 1 + its size, is met.
FEASIBILITY = 1e-6


def decision_cost(block: ScenarioBlock, decision: Tensor, uncertain: Tensor, given: Tensor) -> Tensor:
    """(1 or B, 1 or S) part of a scenario's cost that no recourse changes: 1/2 x'O x + o'x + e.

    Parameters
    ----------
    block : ScenarioBlock
    decision : Tensor
        (B, n).
    uncertain, given : Tensor
        (B, S, D) and (1 or B, K).
    """
    x = decision[:, None, :]
    linear = (block.o(uncertain, given) * x).sum(dim=2)
    cost = block.e(uncertain, given) + linear
    if block.O.rows.size:
        cost = cost + 0.5 * (block.O(uncertain, given).times(x) * x).sum(dim=2)
    return cost


@dataclasses.dataclass(frozen=True, slots=True)
class Separable:
    """The closed form of a stage whose columns do not meet."""

    block: ScenarioBlock
    diagonal: np.ndarray
    """(m,) position of each column's entry in Q, -1 where it has none."""
    lower: np.ndarray
    """(m, rows at most) rows that bound each column from below, -1 for none."""
    upper: np.ndarray
    coefficient: np.ndarray
    """(rows,) the one coefficient of each row, 0 where it has no column."""

    @classmethod
    def of(cls, block: ScenarioBlock) -> Separable | None:
        """The closed form of ``block``, or None where it has none."""
        if block.T.shape[0] or np.any(block.Q.rows != block.Q.cols):
            return None
        num_rows, num_columns = block.V.shape
        counts = np.bincount(block.V.rows, minlength=num_rows)
        changes = block.V.values.uncertain is not None or block.V.values.given is not None
        if counts.max(initial=0) > 1 or changes:
            return None
        diagonal = np.full(num_columns, -1, dtype=np.int64)
        diagonal[block.Q.rows] = np.arange(block.Q.rows.size)
        coefficient = np.zeros(num_rows)
        coefficient[block.V.rows] = block.V.values.constant
        column_of = np.full(num_rows, -1, dtype=np.int64)
        column_of[block.V.rows] = block.V.cols
        lower, upper = (
            _padded([np.flatnonzero((column_of == j) & sign) for j in range(num_columns)])
            for sign in (coefficient < 0, coefficient > 0)
        )
        return cls(block, diagonal, lower, upper, coefficient)

    def __call__(self, decision: Tensor, uncertain: Tensor, given: Tensor) -> Tensor:
        """(B, S) costs, differentiable in every argument; +inf infeasible, -inf unbounded.

        Parameters
        ----------
        decision : Tensor
            (B, N).
        uncertain, given : Tensor
            (B, S, D) and (1 or B, K).
        """
        block = self.block
        x = decision[:, None, :]
        width = block.R.shape[1]
        if width > x.shape[2]:
            x = torch.nn.functional.pad(x, (0, width - x.shape[2]))
        slope = block.c(uncertain, given) + block.R(uncertain, given).times(x)
        slack = block.k(uncertain, given) - block.U(uncertain, given).times(x)
        cost = decision_cost(block, x[:, 0], uncertain, given)
        lone = torch.as_tensor(self.coefficient == 0, device=x.device)
        factor = torch.as_tensor(np.where(self.coefficient == 0, 1.0, self.coefficient)).to(x)
        bounds = slack / factor
        violated = (slack[..., lone] < -FEASIBILITY * (1 + slack[..., lone].abs())).any(dim=-1)
        if block.num_columns:
            lower = _extreme(bounds, self.lower, -torch.inf, torch.maximum)
            upper = _extreme(bounds, self.upper, torch.inf, torch.minimum)
            curvature = self._curvature(uncertain, given)
            columns = _best(curvature, slope, lower, upper)
            # A column without cost may be anything, one that pays without limit is infinite: 0 * inf is NaN.
            curved = curvature > 0
            bent = 0.5 * curvature * torch.where(curved, columns, 0.0) ** 2
            straight = slope * torch.where(curved | (slope != 0), columns, 0.0)
            cost = cost + (bent + straight).sum(dim=2)
            if upper.shape[:2] != (1, 1) or bool(torch.isfinite(upper).any()):
                crossed = lower - upper > FEASIBILITY * (1 + lower.abs())
                violated = violated | crossed.any(dim=-1)
        cost = torch.where(violated, torch.inf, cost)
        return cost.expand(uncertain.shape[:2])

    def _curvature(self, uncertain: Tensor, given: Tensor) -> Tensor:
        values = self.block.Q(uncertain, given).values
        padded = torch.nn.functional.pad(values, (0, 1))
        return padded[..., torch.as_tensor(self.diagonal, device=values.device)]


def _best(curvature: Tensor, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The minimizer of 1/2 curvature w^2 + slope w over [lower, upper]."""
    curved = curvature > 0
    inner = -slope / torch.where(curved, curvature, 1.0)
    toward = torch.where(slope > 0, -torch.inf, torch.where(slope < 0, torch.inf, 0.0))
    return torch.minimum(torch.maximum(torch.where(curved, inner, toward), lower), upper)


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    width = max((row.size for row in rows), default=0)
    out = np.full((len(rows), max(width, 1)), -1, dtype=np.int64)
    for position, row in enumerate(rows):
        out[position, : row.size] = row
    return out


def _extreme(
    bounds: Tensor, rows: np.ndarray, nothing: float, choose: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(1 or B, 1 or S, m) the tightest bound of each column, ``nothing`` where there is none."""
    if np.all(rows < 0):
        return bounds.new_full((1, 1, rows.shape[0]), nothing)
    if np.any(rows < 0):
        bounds = torch.nn.functional.pad(bounds, (0, 1), value=nothing)
    # One elementwise pass a layer: reducing over a last axis of two costs five times as much.
    layers = [bounds[..., torch.as_tensor(layer.copy(), device=bounds.device)] for layer in rows.T]
    return functools.reduce(choose, layers)


def with_slopes(value: StageValue, decision: Tensor, uncertain: Tensor, given: Tensor) -> Tensor:
    """(M,) the costs of ``value``, differentiable through its slopes."""
    out = value.cost
    for argument, slope in (
        (decision, value.slope_decision),
        (uncertain, value.slope_uncertain),
        (given, value.slope_given),
    ):
        if argument.requires_grad:
            out = out + ((argument - argument.detach()) * slope).sum(dim=-1)
    return out
