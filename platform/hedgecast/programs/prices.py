"""What a program's constraints and given parameters are worth at the optimum.

Every linear constraint `left <= right`, `left == right` becomes `left <= right + u`, `left == right + u`
with a given parameter u of its shape that is zero. The optimal value's derivative in u, with its sign
turned, is the constraint's shadow price: what one unit more on the right would save. So whatever CVXPY and
the presolve make of a constraint, its price is in the units of the constraint as it was written. One of the
recourse has one price for all scenarios: what relaxing it in each of them would save in the asked measure.

Source: Boyd and Vandenberghe (2004), Convex Optimization, section 5.6.3.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import cvxpy as cp
import torch
from torch import Tensor

from hedgecast.programs.checks import show
from hedgecast.programs.entries import Entries
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Decision

# Prices below this share of the largest one, and of the cost's size by unit of the decision, are the solver's
# barrier.
_NEGLIGIBLE = 1e-6
_PREFIX = "hedgecast_shift_"


class Stage(enum.Enum):
    """Where a constraint stands."""

    DECISION = "decision"
    RECOURSE = "recourse"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What one constraint is worth."""

    constraint: str
    """As CVXPY writes it, shortened."""
    stage: Stage
    values: Tensor
    """(*shape) cost saved by one unit more on the right-hand side of each entry; zero: it does not bind. Of
    `<=` and `>=`, never negative beyond the solver's tolerance."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What constraints and given parameters of one context are worth."""

    constraints: tuple[Price, ...]
    """Those that bind: with an entry whose price is not negligible."""
    given: Mapping[str, Tensor]
    """Given parameter to (*shape) change of the objective per unit of it."""


class PricedProgram:
    """A program with a shift on the right-hand side of each of its linear constraints.

    Parameters
    ----------
    program : TwoStageProgram
        Constraints of other cones than linear ones, and what variables declare of themselves
        (``nonneg=True``), have no price.
    """

    def __init__(self, program: TwoStageProgram) -> None:
        self.plain = program
        self._shifts: list[tuple[Any, Stage, Any]] = []
        constraints = [self._shifted(c, Stage.DECISION) for c in program.constraints]
        recourse = [self._shifted(c, Stage.RECOURSE) for c in program.recourse_constraints]
        self.program = TwoStageProgram(
            name=program.name,
            decision=program.decision,
            uncertain=program.uncertain,
            given=[*program.given, *(shift for _, _, shift in self._shifts)],
            constraints=constraints,
            cost=program.cost,
            recourse_cost=program.recourse_cost,
            recourse_constraints=recourse,
        )

    def _shifted(self, constraint: Any, stage: Stage) -> Any:
        bounds = isinstance(constraint, cp.constraints.Inequality)
        if not constraint.size or not (bounds or isinstance(constraint, cp.constraints.Equality)):
            return constraint
        left, right = constraint.args
        shape = constraint.shape
        shift = cp.Parameter(shape, name=f"{_PREFIX}{len(self._shifts)}", value=_zeros(shape))
        self._shifts.append((constraint, stage, shift))
        return left <= right + shift if bounds else left == right + shift

    def solve(
        self,
        scenarios: Entries,
        probabilities: Any = None,
        given: Mapping[str, Any] | None = None,
        *,
        risk: Risk = EXPECTATION,
        tolerance: float | None = None,
    ) -> Decision:
        """The decisions of the program itself, with what `prices` needs; see `TwoStageProgram.solve`."""
        return self.program.solve(
            scenarios, probabilities, given, risk=risk, tolerance=tolerance, slopes=True
        )

    def prices(self, decision: Decision, member: int = 0) -> Prices | None:
        """What constraints and given parameters are worth to one member; None where the backend cannot tell.

        Parameters
        ----------
        decision : Decision
            From `solve`.
        member : int
            Of the batch.
        """
        if decision.slope_given is None:
            return None
        named = self.program.reader.given.unflatten(decision.slope_given[member : member + 1])
        slopes = {name: values[0] for name, values in named.items()}
        values = [-slopes[shift.name()] for _, _, shift in self._shifts]
        slope = (1.0 + abs(float(decision.objective[member]))) / (
            1.0 + float(decision.flat[member].abs().max())
        )
        largest = max([slope, *(float(value.abs().max()) for value in values)])
        found = []
        for (constraint, stage, _), value in zip(self._shifts, values, strict=True):
            kept = torch.where(value.abs() > _NEGLIGIBLE * largest, value, 0.0)
            if bool(kept.any()):
                found.append(Price(constraint=show(constraint), stage=stage, values=kept))
        return Prices(
            constraints=tuple(found),
            given={parameter.name(): slopes[parameter.name()] for parameter in self.plain.given},
        )


def _zeros(shape: tuple[int, ...]) -> Any:
    return torch.zeros(shape, dtype=torch.float64).numpy()
