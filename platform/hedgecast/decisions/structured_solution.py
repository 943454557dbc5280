"""What the structured solver ends with: the solutions of a batch, differentiable, failed members as NaN."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hedgecast.decisions.block_numbers import Numbers
from hedgecast.decisions.iterates import Point
from hedgecast.programs.blocks import BlockProblem


class Spread:
    """Writes values of the valid members into a batch of NaN."""

    def __init__(self, problem: BlockProblem, valid: Tensor) -> None:
        self.num_contexts, self.valid = problem.num_contexts, valid

    def __call__(self, values: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, ...) with ``values`` (members, ...) of those to ``keep`` (members,), of all where left out."""
        if keep is None or bool(keep.all()):
            members = self.valid
        else:
            members, values = self.valid[keep], values[keep]
        if members.numel() == self.num_contexts:
            return values
        full = values.new_full((self.num_contexts, *values.shape[1:]), torch.nan)
        return full.index_copy_(0, members, values)


class Details:
    """Recourse and multipliers of a batch, built when asked for."""

    def __init__(self, point: Point, numbers: Numbers, spread: Spread, keep: Tensor) -> None:
        self.point, self.numbers, self.spread, self.keep = point, numbers, spread, keep

    def w(self) -> Tensor:
        """(B, S, m) recourse columns."""
        return self.spread(self.point.w.permute(1, 2, 0), self.keep)

    def equality(self) -> Tensor:
        """(B, rows of A) multipliers."""
        return self.spread(self.point.equality / self.numbers.cost_scale[:, None], self.keep)

    def inequality(self) -> Tensor:
        """(B, rows of G) multipliers."""
        return self.spread(self.point.multiplier / self.numbers.cost_scale[:, None], self.keep)

    def y(self) -> Tensor:
        """(B, S, rows of W) multipliers."""
        return self.spread((self.point.y * self._unit()).permute(1, 2, 0), self.keep)

    def z(self) -> Tensor:
        """(B, S, rows of V) multipliers."""
        return self.spread((self.point.z * self._unit()).permute(1, 2, 0), self.keep)

    def _unit(self) -> Tensor:
        """(B, S): from a scenario's own scaled units to plain multipliers."""
        return self.numbers.measure / self.numbers.cost_scale[:, None]


class MergedDetails:
    """The same of deterministic programs whose first stage is part of the one block."""

    def __init__(self, merged: StructuredSolution, problem: BlockProblem) -> None:
        self.merged, self.n = merged.details, problem.num_first
        self.rows = (problem.A.shape[0], problem.G.shape[0])

    def w(self) -> Tensor:
        """(B, S, m) recourse columns."""
        return self.merged.w()[:, :, self.n :]

    def equality(self) -> Tensor:
        """(B, rows of A) multipliers."""
        return self.merged.y()[:, 0, : self.rows[0]]

    def inequality(self) -> Tensor:
        """(B, rows of G) multipliers."""
        return self.merged.z()[:, 0, : self.rows[1]]

    def y(self) -> Tensor:
        """(B, S, rows of W) multipliers."""
        return self.merged.y()[:, :, self.rows[0] :]

    def z(self) -> Tensor:
        """(B, S, rows of V) multipliers."""
        return self.merged.z()[:, :, self.rows[1] :]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StructuredSolution:
    """Solutions of a batch; ``x``, the costs and the objective carry gradients.

    Members that are infeasible, unbounded or invalid hold NaN and give no gradient.
    """

    x: Tensor
    """(B, n) first-stage columns."""
    scenario_costs: Tensor
    """(B, S) recourse costs, without the first-stage cost."""
    first_cost: Tensor
    """(B,) cost of the first-stage columns."""
    objective: Tensor
    """(B,) first-stage cost plus risk measure."""
    verdicts: Tensor
    """(B,) int64 of `Verdict`."""
    primal_residual: Tensor
    dual_residual: Tensor
    gap: Tensor
    iterations: Tensor
    weights: Tensor
    """(B, S): how much each scenario's cost weighs at the optimum; the probabilities without risk."""
    infeasible_scenario: Tensor
    """(B,) int64: a scenario that has no recourse whatever the decision, -1 where none is known."""
    certificate: Tensor
    """(B, S, rows of W then of V): Farkas multipliers of infeasible members, zero elsewhere."""
    warm: Point | None
    """Start of the next solve of nearby numbers; None after compiled deterministic programs, which start
    cold."""
    details: Details | MergedDetails
    """What the properties below are read from."""

    @property
    def w(self) -> Tensor:
        """(B, S, m) recourse columns, without gradient."""
        return self.details.w()

    @property
    def equality_dual(self) -> Tensor:
        """(B, rows of A) multipliers."""
        return self.details.equality()

    @property
    def inequality_dual(self) -> Tensor:
        """(B, rows of G) multipliers, nonnegative."""
        return self.details.inequality()

    @property
    def recourse_equality_dual(self) -> Tensor:
        """(B, S, rows of W) multipliers of the expected cost: probabilities included."""
        return self.details.y()

    @property
    def recourse_inequality_dual(self) -> Tensor:
        """(B, S, rows of V) multipliers, nonnegative."""
        return self.details.z()
