"""What information is worth, and how far a decision may be from optimal.

For a batch of contexts with scenarios y_s of probability p_s, all in expected cost:

    RP   = min_z E[cost(z, y)]                          the recourse problem, the stochastic program itself
    WS   = E[min_z cost(z, y)]                          wait and see: every scenario known ahead
    EEV  = E[cost(z_mean, y)]                           z_mean the decision of the one scenario E[y]
    EVPI = RP - WS  >= 0                                value of perfect information
    VSS  = EEV - RP >= 0                                value of the stochastic solution

Source: Birge and Louveaux (2011), Introduction to Stochastic Programming, sections 4.1 and 4.2; the gap's
interval: Mak, Morton and Wood (1999), section 3.2, https://doi.org/10.1016/S0167-6377(98)00054-6.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import t as student
from torch import Tensor

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.programs.backend import MAX_ITERATIONS, tolerance_or_default
from hedgecast.programs.entries import Entries
from hedgecast.programs.measures import expectation
from hedgecast.programs.replications import replicated_gaps
from hedgecast.programs.results import solved_apart
from hedgecast.programs.risk import EXPECTATION
from hedgecast.programs.solution import Decision, Verdict

if TYPE_CHECKING:
    from hedgecast.programs.program import TwoStageProgram


class Information:
    """What knowing more is worth to a batch of contexts; a problem is solved when first asked for, once.

    Parameters
    ----------
    program : TwoStageProgram
    scenarios, probabilities, given
        See `TwoStageProgram.inputs`; scenarios of probability zero count nowhere.
    backend, tolerance
        Of every solve, see `TwoStageProgram.solve`.
    optimum : Decision, optional
        The decision of least expected cost, where it has been solved for already.
    """

    def __init__(
        self,
        program: TwoStageProgram,
        scenarios: Entries,
        probabilities: Any = None,
        given: Mapping[str, Any] | None = None,
        *,
        backend: str | None = None,
        tolerance: float | None = None,
        optimum: Decision | None = None,
    ) -> None:
        self.program = program
        self.inputs = program.inputs(scenarios, probabilities, given)
        self._options: dict[str, Any] = {"backend": backend, "tolerance": tolerance}
        if optimum is not None:
            self.optimum = optimum

    @functools.cached_property
    def optimum(self) -> Decision:
        """The decisions of least expected cost."""
        inputs = self.inputs
        return self.program.solve(inputs.uncertain, inputs.probabilities, self._given, **self._options)

    @property
    def scenario_wait_and_see(self) -> Tensor:
        """(B, S) cost of every scenario had it been known; see `TwoStageProgram.wait_and_see`."""
        return self._ahead.costs

    @functools.cached_property
    def recourse_problem_cost(self) -> Tensor:
        """(B,) RP; NaN where there is no optimum."""
        cost = expectation(self.optimum.scenario_costs, self.inputs.probabilities)
        return torch.where(self.optimum.verdicts == Verdict.OPTIMAL, cost, torch.nan)

    @functools.cached_property
    def wait_and_see_cost(self) -> Tensor:
        """(B,) WS; not finite where it is not for some scenario of positive probability."""
        return expectation(self.scenario_wait_and_see, self.inputs.probabilities)

    @functools.cached_property
    def expected_value_problem_cost(self) -> Tensor:
        """(B,) EEV; +inf where z_mean has no recourse in some scenario, NaN where there is no z_mean."""
        inputs, mean_plan = self.inputs, self._ahead.mean_plan
        found = torch.full_like(mean_plan[:, 0], torch.nan)
        solved = torch.nonzero(torch.isfinite(mean_plan).all(dim=1))[:, 0]
        if solved.numel():
            part = inputs.select(solved)
            given = self.program.reader.given_of(part)
            with torch.no_grad():
                costs = self.program.value(mean_plan[solved], part.uncertain, given, **self._options)
            found[solved] = expectation(costs, part.probabilities)
        return found

    @functools.cached_property
    def value_of_perfect_information(self) -> Tensor:
        """(B,) EVPI."""
        return self.recourse_problem_cost - self.wait_and_see_cost

    @functools.cached_property
    def value_of_stochastic_solution(self) -> Tensor:
        """(B,) VSS; +inf and NaN as EEV."""
        return self.expected_value_problem_cost - self.recourse_problem_cost

    @property
    def _given(self) -> dict[str, Tensor]:
        return self.program.reader.given_of(self.inputs)

    @functools.cached_property
    def _ahead(self) -> _Ahead:
        """Every scenario known ahead and the mean scenario, which is one more of them: one solve."""
        inputs, program = self.inputs, self.program
        costs = torch.full_like(inputs.probabilities, torch.nan)
        mean_plan = costs.new_full((costs.shape[0], program.num_decision), torch.nan)
        usable = program.reader.usable(inputs)
        part = inputs.select(usable)
        mean = (part.probabilities[:, :, None] * part.uncertain).sum(dim=1, keepdim=True)
        weights = torch.nn.functional.pad(part.probabilities, (0, 1))
        everything = dataclasses.replace(
            part, uncertain=torch.cat([part.uncertain, mean], dim=1), probabilities=weights
        )
        solver = program.backend(self._options["backend"])
        tolerance = tolerance_or_default(self._options["tolerance"], inputs.uncertain)
        with torch.no_grad():
            found, verdicts, plans = solved_apart(program, solver, everything, tolerance, MAX_ITERATIONS)
        costs[usable] = found[:, :-1]
        solved = (verdicts[:, -1] == Verdict.OPTIMAL)[:, None]
        mean_plan[usable] = torch.where(solved, plans[:, -1], torch.nan)
        return _Ahead(costs, mean_plan)


@dataclasses.dataclass(frozen=True, slots=True)
class _Ahead:
    costs: Tensor
    """(B, S)."""
    mean_plan: Tensor
    """(B, N) z_mean; NaN where there is none."""


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
    flat = program.flatten(decision).detach()
    gaps = []
    for scenarios in batches:
        fresh = program.reader.uncertain.flatten(scenarios, ("contexts", "scenarios"))
        gaps.append(
            replicated_gaps(
                program, flat.to(fresh), fresh[:, None], given, risk=EXPECTATION, threshold=0.0,
                backend=backend, tolerance=tolerance,
            )
        )  # fmt: skip
    if not gaps:
        raise ShapeError("no replication: an interval needs at least two batches of scenarios")
    return interval_of(torch.cat(gaps, dim=1), confidence)


def interval_of(gaps: Tensor, confidence: float) -> GapInterval:
    """The interval that independent replications' gaps (B, R) make; see `gap_interval`.

    Raises
    ------
    ConfigError, ShapeError
        The confidence is out of range, or there are fewer than two replications.
    """
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence = {confidence}: must lie between 0 and 1", key="confidence")
    count = gaps.shape[1]
    if count < 2:
        raise ShapeError(f"{count} replications: an interval needs at least two batches of scenarios")
    error = gaps.std(dim=1) / math.sqrt(count)
    quantile = float(student.ppf(confidence, df=count - 1))
    mean = gaps.mean(dim=1)
    return GapInterval(
        gap=mean,
        standard_error=error,
        upper=(mean + quantile * error).clamp(min=0.0),
        confidence=confidence,
        replications=gaps,
    )
