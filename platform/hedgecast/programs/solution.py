"""What a solve comes back with: decisions and one verdict per member of the batch."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from torch import Tensor

from hedgecast.core.errors import InfeasibleError, NotConvergedError, ProgramError, UnboundedError


class Verdict(enum.IntEnum):
    """How the solve of one batch member ended."""

    OPTIMAL = 0
    """Residuals and gap are within the tolerance."""
    NOT_CONVERGED = 1
    """The iteration limit came first; the decision is the best iterate."""
    INFEASIBLE = 2
    """No decision satisfies the constraints, or a scenario has no recourse."""
    UNBOUNDED = 3
    """The cost falls without limit."""
    INVALID = 4
    """Numbers that are not finite or break a declared sign, or probabilities that are no distribution."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Decisions of a batch of contexts; a bad member has NaN and its verdict, never spoils others."""

    values: Mapping[str, Tensor]
    """Decision variable name to (B, *shape)."""
    flat: Tensor
    """(B, N): all decision variables in declaration and C order."""
    objective: Tensor
    """(B,): the risk measure's value at the optimum, known cost included."""
    scenario_costs: Tensor
    """(B, S): cost of the decision under each scenario, known cost included."""
    verdicts: Tensor
    """(B,) int64 of `Verdict`."""
    primal_residual: Tensor
    """(B,): largest constraint violation, relative to 1 + the largest right-hand side."""
    dual_residual: Tensor
    """(B,): largest violation of stationarity, relative to 1 + the largest cost coefficient."""
    gap: Tensor
    """(B,): duality gap relative to 1 + |objective|."""
    iterations: Tensor
    """(B,) int64."""
    infeasible_scenario: Tensor
    """(B,) int64: index of a scenario without recourse, -1 where none is known."""
    certificate: Tensor | None = None
    """(B, rows): Farkas multipliers of that scenario's recourse constraints, where found: of the rows of
    ``program.recourse.stage``, CVXPY's canonical form A v + b in K, in its order."""
    blame: Mapping[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Member without a solution to the expressions behind it, as CVXPY writes them: constraints that cannot
    all hold, or the costs that fall without limit. Members for which none was found are left out."""
    slope_given: Tensor | None = None
    """(B, K) derivative of the objective at the optimum with respect to the given entries, where it was asked
    for and the backend can tell; NaN for members without an optimum."""
    seconds: float = 0.0
    """Wall time of the whole batch."""
    backend: str = ""

    @property
    def num_contexts(self) -> int:
        """Members of the batch."""
        return int(self.flat.shape[0])

    def verdict(self, member: int) -> Verdict:
        """The verdict of one member."""
        return Verdict(int(self.verdicts[member]))

    def require_optimal(self) -> Decision:
        """This decision, once every member is optimal.

        Raises
        ------
        InfeasibleError, UnboundedError, NotConvergedError, ProgramError
            For the first member that is not; the message has its index and residuals.
        """
        for member in range(self.num_contexts):
            verdict = self.verdict(member)
            if verdict is Verdict.OPTIMAL:
                continue
            self._raise(member, verdict)
        return self

    def _raise(self, member: int, verdict: Verdict) -> None:
        primal = float(self.primal_residual[member])
        facts = {
            "member": member,
            "primal_residual": primal,
            "dual_residual": float(self.dual_residual[member]),
            "iterations": int(self.iterations[member]),
        }
        scenario = int(self.infeasible_scenario[member])
        blamed = self.blame.get(member, ())
        if verdict is Verdict.INFEASIBLE:
            where = (
                f"scenario {scenario} has no feasible recourse"
                if scenario >= 0
                else "no decision is feasible"
            )
            why = f": {'; '.join(blamed)} cannot all hold" if blamed else ""
            raise InfeasibleError(
                f"context {member}: {where}{why}; relax a constraint or add a penalized slack",
                scenario=scenario,
                **facts,
            )
        if verdict is Verdict.UNBOUNDED:
            raise UnboundedError(
                f"context {member}: the cost {' plus '.join(blamed)} falls without limit; "
                "bound what stands in it, or add a cost",
                **facts,
            )
        if verdict is Verdict.INVALID:
            raise ProgramError(
                f"context {member}: scenarios, probabilities or parameters are not finite or break a sign "
                "declared in CVXPY, or the probabilities are negative or do not sum to 1",
                **facts,
            )
        raise NotConvergedError(
            f"context {member}: solver {self.backend} stopped at primal residual {primal:.1e}, dual residual "
            f"{facts['dual_residual']:.1e} after {facts['iterations']} iterations: raise the iteration "
            "limit or scale the program",
            **facts,
        )
