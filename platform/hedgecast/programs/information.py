"""What information is worth, and how far a decision may be from optimal.

For a batch of contexts with expected-cost optimum z*, scenarios y_s of probability p_s:

    EVPI = E[cost(z*, y)] - E[wait-and-see cost(y)]                  value of perfect information, >= 0
    VSS  = E[cost(z_mean, y)] - E[cost(z*, y)]                       value of the stochastic solution, >= 0
           with z_mean the decision of the one scenario E[y]

Source: Birge and Louveaux (2011), Introduction to Stochastic Programming, sections 4.1 and 4.2; the gap's
interval: Mak, Morton and Wood (1999), section 3.2, https://doi.org/10.1016/S0167-6377(98)00054-6.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import t as student
from torch import Tensor

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.programs.entries import Entries
from hedgecast.programs.measures import expectation

if TYPE_CHECKING:
    from hedgecast.programs.program import TwoStageProgram


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GapInterval:
    """A one-sided confidence interval [0, upper] of the optimality gap, context by context."""

    gap: Tensor
    """(B,) mean of the replications' gaps."""
    standard_error: Tensor
    """(B,) of that mean."""
    upper: Tensor
    """(B,) bound that the gap stays below with probability ``confidence``, to first order."""
    confidence: float
    replications: Tensor
    """(B, R) gap of each replication, never negative but for the solver's tolerance."""


def expected_value_decision(
    program: TwoStageProgram,
    scenarios: Entries,
    probabilities: Any,
    given: Mapping[str, Any] | None,
    *,
    backend: str | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """(B, N) decisions of the one scenario that is the mean of ``scenarios``; NaN where there is none."""
    inputs = program.inputs(scenarios, probabilities, given)
    mean = (inputs.probabilities[:, :, None] * inputs.uncertain).sum(dim=1, keepdim=True)
    return program.solve(mean, None, given, backend=backend, tolerance=tolerance).flat


def value_of_perfect_information(
    program: TwoStageProgram,
    scenarios: Entries,
    probabilities: Any,
    given: Mapping[str, Any] | None,
    *,
    backend: str | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """(B,) EVPI of each context; NaN where it has no optimum."""
    inputs = program.inputs(scenarios, probabilities, given)
    decision = program.solve(scenarios, probabilities, given, backend=backend, tolerance=tolerance)
    known = expectation(
        program.wait_and_see(scenarios, given, backend=backend, tolerance=tolerance), inputs.probabilities
    )
    return decision.objective - known


def value_of_stochastic_solution(
    program: TwoStageProgram,
    scenarios: Entries,
    probabilities: Any,
    given: Mapping[str, Any] | None,
    *,
    backend: str | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """(B,) VSS of each context; +inf where the mean scenario's decision has no recourse in some scenario."""
    inputs = program.inputs(scenarios, probabilities, given)
    naive = expected_value_decision(
        program, scenarios, probabilities, given, backend=backend, tolerance=tolerance
    )
    decision = program.solve(scenarios, probabilities, given, backend=backend, tolerance=tolerance)
    found = torch.full_like(decision.objective, torch.nan)
    solved = torch.nonzero(torch.isfinite(naive).all(dim=1))[:, 0]
    if solved.numel():
        part = inputs.select(solved)
        with torch.no_grad():
            costs = program.value(
                naive[solved], part.uncertain, program.given_of(part), backend=backend, tolerance=tolerance
            )
        found[solved] = expectation(costs, part.probabilities)
    return found - decision.objective


def gap_interval(
    program: TwoStageProgram,
    decision: Entries,
    batches: Iterable[Entries],
    given: Mapping[str, Any] | None,
    *,
    confidence: float,
    backend: str | None = None,
    tolerance: float | None = None,
) -> GapInterval:
    """An interval of how much more a decision costs in expectation than the best one.

    Each replication r solves the program on fresh scenarios of its own and takes

        G_r = mean_s cost(decision, y_rs) - min_z mean_s cost(z, y_rs)  >=  0

    The mean of G_r is biased upwards (a sample's optimum is optimistic), so that
    [0, mean + t_(R-1, confidence) sd / sqrt(R)] covers the true gap.

    Parameters
    ----------
    program : TwoStageProgram
    decision : Tensor (B, N) or mapping of names
    batches : iterable of scenarios (B, S, ...)
        One replication each, drawn independently of each other and of the decision; at least two.
    given : mapping, optional
    confidence : float
        In (0, 1).
    backend, tolerance
        As in `TwoStageProgram.solve`.

    Raises
    ------
    ConfigError, ShapeError
        The confidence is out of range, or there are fewer than two replications.
    SolveError
        A replication has no optimum.
    """
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence = {confidence}: must lie between 0 and 1", key="confidence")
    flat = program.flatten(decision).detach()
    gaps = []
    for scenarios in batches:
        best = program.solve(scenarios, None, given, backend=backend, tolerance=tolerance).require_optimal()
        with torch.no_grad():
            costs = program.value(flat, scenarios, given, backend=backend, tolerance=tolerance)
        gaps.append(costs.mean(dim=1) - best.objective)
    if len(gaps) < 2:
        raise ShapeError(f"{len(gaps)} replications: an interval needs at least two batches of scenarios")
    table = torch.stack(gaps, dim=1)
    error = table.std(dim=1) / math.sqrt(len(gaps))
    quantile = float(student.ppf(confidence, df=len(gaps) - 1))
    mean = table.mean(dim=1)
    return GapInterval(
        gap=mean,
        standard_error=error,
        upper=(mean + quantile * error).clamp(min=0.0),
        confidence=confidence,
        replications=table,
    )
