"""What a reduction of scenarios costs: its error in units of the decision.

With rho the risk measure on the full scenarios (y_s, p_s), z the decision that is best for the reduced ones,

    error = rho(cost(z, y)) - min_x rho(cost(x, y))  >=  0

which is what one loses by solving the small program. The distance between the sets bounds it up to a constant
that nobody knows; this is the number itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hedgecast.core.errors import ShapeError
from hedgecast.programs.entries import Entries
from hedgecast.programs.measures import risk_value
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Decision, Verdict


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReductionError:
    """Costs of a batch of contexts, known cost included; NaN where a program has no optimum."""

    cost_full: Tensor
    """(B,) least cost on the full set."""
    cost_reduced: Tensor
    """(B,) cost on the full set of the reduced one's decision; +inf where a scenario has no recourse."""
    cost_believed: Tensor
    """(B,) cost of that decision on the reduced set itself."""

    @property
    def error(self) -> Tensor:
        """(B,) what the reduction costs; not negative but for the solver's tolerance."""
        return self.cost_reduced - self.cost_full

    @property
    def relative_error(self) -> Tensor:
        """(B,) ``error`` over the size of ``cost_full``; +inf or NaN where that is 0."""
        return self.error / self.cost_full.abs()

    @property
    def optimism(self) -> Tensor:
        """(B,) how much more the decision costs than the reduced set says; of either sign."""
        return self.cost_reduced - self.cost_believed


def reduction_error(
    program: TwoStageProgram,
    scenarios: Entries,
    reduced: Entries,
    given: Mapping[str, Any] | None = None,
    *,
    probabilities: Any = None,
    reduced_probabilities: Any = None,
    risk: Risk = EXPECTATION,
    backend: str | None = None,
    tolerance: float | None = None,
    optimum: Decision | None = None,
) -> ReductionError:
    """What deciding on ``reduced`` costs, judged on ``scenarios``.

    Parameters
    ----------
    program : TwoStageProgram
    scenarios, reduced : Tensor or ndarray (B, S, ...) and (B, K, ...), or mappings of names
        As `TwoStageProgram.inputs` takes them; ``ScenarioSet.values`` are such.
    given : mapping, optional
    probabilities, reduced_probabilities : Tensor or ndarray, optional
        (B, S) and (B, K); equal where left out.
    risk : Risk
        Of both programs.
    backend, tolerance
        Of every solve, see `TwoStageProgram.solve`.
    optimum : Decision, optional
        Of the full program, where it has been solved already with the same risk.

    Raises
    ------
    ShapeError
        The two have different contexts, or a shape is wrong.
    """
    options: dict[str, Any] = {"backend": backend, "tolerance": tolerance}
    with torch.no_grad():
        full = program.inputs(scenarios, probabilities, given)
        few = program.inputs(reduced, reduced_probabilities, given)
        contexts, other = int(full.uncertain.shape[0]), int(few.uncertain.shape[0])
        if contexts != other:
            raise ShapeError(f"{other} reduced contexts for {contexts} full ones: give one each")
        values = program.reader.given_of(full)
        if optimum is None:
            optimum = program.solve(full.uncertain, full.probabilities, values, risk=risk, **options)
        small = program.solve(few.uncertain, few.probabilities, values, risk=risk, **options)
        judged = torch.full_like(optimum.objective, torch.nan)
        solved = torch.nonzero(small.verdicts == Verdict.OPTIMAL)[:, 0]
        if solved.numel():
            part = full.select(solved)
            own = program.reader.given_of(part)
            costs = program.value(small.flat[solved], part.uncertain, own, **options)
            known = None
            if risk.on_regret:
                known = program.wait_and_see(part.uncertain, own, **options)
            judged[solved] = risk_value(risk, costs, part.probabilities, known)

    def where_optimal(decision: Decision) -> Tensor:
        return torch.where(decision.verdicts == Verdict.OPTIMAL, decision.objective, torch.nan)

    return ReductionError(
        cost_full=where_optimal(optimum), cost_reduced=judged, cost_believed=where_optimal(small)
    )
