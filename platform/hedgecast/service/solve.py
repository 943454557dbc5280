"""From samples to decisions with everything an answer says about them, for whoever waits together."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from hedgecast.core.errors import DeadlineError, HedgecastError, NotConvergedError
from hedgecast.programs.backend import backend
from hedgecast.programs.information import Information
from hedgecast.programs.prices import Prices
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.replications import replicated_gaps, tail_threshold
from hedgecast.programs.solution import Decision, Verdict
from hedgecast.registry.ladder import Rung
from hedgecast.service.answers import Solution, Statistics
from hedgecast.service.budget import Budget
from hedgecast.service.queries import DecideQuery
from hedgecast.service.sample import TOLERANCE, Sample, priced
from hedgecast.service.solution import gap_of, solution_of, statistics_of

SURROGATE = "surrogate"
"""The backend of learned maps."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A query with its scenarios."""

    query: DecideQuery
    """Already checked against the model."""
    sample: Sample
    """One context."""
    budget: Budget
    """Asked between stages."""

    @property
    def kind(self) -> Hashable:
        """Of those that can be solved together: one program, and one kind of query."""
        return id(self.sample.program), self.query.kind


def solve_queries(asked: Sequence[Asked]) -> list[Solution | HedgecastError]:
    """The decision for each context's scenarios with everything an answer says about it.

    Whoever is solved together with others gets the numbers that it gets alone, to the solver's tolerance, and
    the same error: a member that has none in company is solved by itself.

    Parameters
    ----------
    asked : sequence of Asked
        All of one kind.

    Returns
    -------
    list
        In order. SolveError: the program has no usable decision under these scenarios; DeadlineError: the
        budget ran out.
    """
    together = _Together(asked)
    try:
        return together.solutions()
    except _NobodyWaitsError:
        return list(together.late.values())
    except _ApartError as error:
        apart = error.members
    except HedgecastError as error:
        if len(asked) == 1:
            return [error]
        # Whose fault it is shows when each is alone.
        apart = range(len(asked))
    found = {member: solve_queries([asked[member]])[0] for member in apart}
    rest = [member for member in range(len(asked)) if member not in found]
    if rest:
        found |= zip(rest, solve_queries([asked[member] for member in rest]), strict=True)
    return [found[member] for member in range(len(asked))]


class _NobodyWaitsError(Exception):
    """All budgets ran out."""


class _ApartError(Exception):
    """Members that cannot be answered in company."""

    def __init__(self, members: Sequence[int]) -> None:
        super().__init__(members)
        self.members = members


class _Together:
    """Queries of one kind as one batch, member by member where that costs nothing."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.asked = asked
        self.late: dict[int, DeadlineError] = {}
        """Members that nobody waits for any more."""
        # What all have in common.
        self.query, self.program = asked[0].query, asked[0].sample.program
        self.values = torch.cat([one.sample.values for one in asked])
        self.weights = torch.cat([one.sample.weights for one in asked])
        self.given = _given([one.sample.given for one in asked])

    def solutions(self) -> list[Solution | HedgecastError]:
        """One a member; see `solve_queries`."""
        self._check("the solve")
        started = time.perf_counter()
        decision, prices = self._decided()
        solved = time.perf_counter()
        self._check("the statistics")
        known, regrets = self._appraised(decision)
        gaps = self._gaps(decision, regrets)
        statistics = statistics_of([one.query for one in self.asked], decision, known, regrets)
        found = [
            self.late.get(member)
            or self._solution(member, decision, prices[member], statistics[member], gaps)
            for member in range(len(self.asked))
        ]
        done = time.perf_counter()
        return [
            one
            if isinstance(one, HedgecastError)
            else dataclasses.replace(one, solve_seconds=solved - started, statistics_seconds=done - solved)
            for one in found
        ]

    def _solution(
        self,
        member: int,
        decision: Decision,
        prices: Prices | None,
        statistics: Statistics,
        gaps: Tensor | None,
    ) -> Solution:
        query, sample = self.asked[member].query, self.asked[member].sample
        gap = None if gaps is None else gap_of(query, gaps[member : member + 1])
        found = solution_of(query, sample, member, decision, prices, statistics, gap)
        return dataclasses.replace(found, batch_size=len(self.asked))

    def _check(self, stage: str) -> None:
        """Note who is not waited for any more; the batch goes on for the others."""
        for member, one in enumerate(self.asked):
            if member not in self.late:
                try:
                    one.budget.check(stage)
                except DeadlineError as error:
                    self.late[member] = error
        if len(self.late) == len(self.asked):
            self.late = dict(sorted(self.late.items()))
            raise _NobodyWaitsError

    def _decided(self) -> tuple[Decision, Sequence[Prices | None]]:
        arguments = (self.values, self.weights, self.given)
        risk, count = self.query.risk, len(self.asked)
        if mapped(self.query, self.program):
            # It has no multipliers, so there are no prices; what its gate refuses it solves.
            decision = self.program.solve(*arguments, risk=risk, tolerance=TOLERANCE, backend=SURROGATE)
            return self._optimal(decision), [None] * count
        if self.query.prices:
            program = priced(self.program)
            decision = program.solve(*arguments, risk=risk, tolerance=TOLERANCE)
            if bool((decision.verdicts == Verdict.OPTIMAL).all()):
                return decision, [program.prices(decision, member) for member in range(count)]
            if count > 1:
                self._optimal(decision)
        # Its messages name the constraints as they were written.
        decision = self.program.solve(*arguments, risk=risk, tolerance=TOLERANCE)
        return self._optimal(decision), [None] * count

    def _appraised(self, decision: Decision) -> tuple[Information, Tensor]:
        """What information is worth, once all that it takes is solved for, and the regrets (B, S)."""
        optimum = decision if self.query.risk.neutral else None
        arguments = (self.program, self.values, self.weights, self.given)
        known = Information(*arguments, tolerance=TOLERANCE, optimum=optimum)
        best = known.scenario_wait_and_see
        self._leave_out(~torch.isfinite(best).all(dim=1))
        best_costs(known)
        self._check("the plan without risk aversion")
        self._optimal(known.optimum)
        self._check("the plan for the mean scenario")
        return known, decision.scenario_costs - best

    def _gaps(self, decision: Decision, regrets: Tensor) -> Tensor | None:
        """(B, R) gaps of the replications; None where there are none."""
        query, count = self.query, self.query.gap_replications
        fresh = [one.sample.fresh.values.double() for one in self.asked if one.sample.fresh is not None]
        if not count or not fresh:
            return None
        tails = regrets if query.risk.on_regret else decision.scenario_costs
        thresholds = [
            tail_threshold(tail, weight, query.risk) for tail, weight in zip(tails, self.weights, strict=True)
        ]
        return replicated_gaps(
            self.program,
            decision.flat,
            torch.cat(fresh).reshape(len(fresh), count, query.scenario_count, -1),
            self.given,
            risk=query.risk,
            threshold=torch.tensor(thresholds, dtype=torch.float64),
            tolerance=TOLERANCE,
            check=lambda: self._check("the optimality gap's replications"),
        )

    def _optimal(self, decision: Decision) -> Decision:
        self._leave_out(decision.verdicts != Verdict.OPTIMAL)
        return decision.require_optimal()

    def _leave_out(self, bad: Tensor) -> None:
        """End this batch where it has others than the bad (B,) members."""
        members = torch.nonzero(bad)[:, 0].tolist()
        if members and len(self.asked) > 1:
            raise _ApartError(members)


def _given(members: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Given parameters of all members, which have the same names; once where they have the same values."""
    first = members[0]
    if all(torch.equal(one[name], first[name]) for one in members for name in first):
        return first
    return {name: torch.cat([one[name] for one in members]) for name in first}


def mapped(query: DecideQuery, program: TwoStageProgram) -> bool:
    """Whether a learned map is asked for and there is one for the program and the measure."""
    return Rung.SURROGATE_SOLVER in query.rungs and backend(SURROGATE).refusal(program, query.risk) is None


def best_costs(known: Information) -> Tensor:
    """(S,) least cost under each scenario.

    Raises
    ------
    NotConvergedError
        It was not found for a scenario.
    """
    best = known.scenario_wait_and_see[0]
    unsolved = torch.nonzero(~torch.isfinite(best))[:, 0]
    if unsolved.numel():
        raise NotConvergedError(
            f"the least cost under {unsolved.numel()} of {best.numel()} scenarios (the first is "
            f"{int(unsolved[0])}) was not found: regret cannot be stated; scale the program",
            scenario=int(unsolved[0]),
        )
    return best
