"""A program as a torch module: scenarios in, decision out, gradients through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hedgecast.core.errors import DependencyError, ProgramError
from hedgecast.programs.backend import MAX_ITERATIONS, Backend, backend, tolerance_or_default
from hedgecast.programs.block_backend import BlockLayer
from hedgecast.programs.results import wait_and_see_costs
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict

if TYPE_CHECKING:
    from hedgecast.programs.program import TwoStageProgram

_WITH_GRADIENTS = ("structured", "cvxpylayers")


class DecisionLayer(nn.Module):
    """Flat decisions (B, N), differentiable in scenarios, probabilities and given parameters.

    Members that are infeasible, unbounded or invalid come back as NaN without a gradient; members that
    stopped at the iteration limit come back as their last iterate. `judged` tells which.
    """

    def __init__(
        self,
        program: TwoStageProgram,
        *,
        backend: str | None,
        risk: Risk,
        smoothing: float,
        tolerance: float | None,
        warm_start: bool,
    ) -> None:
        super().__init__()
        self.program = program
        self.risk = risk
        self.tolerance = tolerance
        self.solver = _solver(program, backend, risk)
        self.inner = self.solver.layer(program, risk=risk, smoothing=smoothing, tolerance=tolerance)
        if warm_start:
            if not isinstance(self.inner, BlockLayer):
                raise ProgramError(f"backend {self.solver.name!r} has no warm start: leave warm_start out")
            self.inner.warm_start = True

    def forward(
        self, scenarios: Any, probabilities: Any = None, given: Mapping[str, Any] | None = None
    ) -> Tensor:
        """(B, N) decisions; arguments as in `TwoStageProgram.inputs`."""
        return self.judged(scenarios, probabilities, given)[0]

    def judged(
        self, scenarios: Any, probabilities: Any = None, given: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decisions (B, N) and verdicts (B,) int64 of `Verdict`; arguments as in `forward`."""
        inputs = self.program.inputs(scenarios, probabilities, given)
        usable = self.program.reader.usable(inputs)
        verdicts = torch.full(
            inputs.uncertain.shape[:1],
            int(Verdict.INVALID),
            dtype=torch.int64,
            device=inputs.uncertain.device,
        )
        benchmarks: Tensor | None = None
        if self.risk.on_regret:
            tolerance = tolerance_or_default(self.tolerance, inputs.uncertain)
            with torch.no_grad():
                benchmarks, failed = wait_and_see_costs(
                    self.program, self.solver, inputs.select(usable), tolerance, MAX_ITERATIONS
                )
            verdicts[usable] = failed.amax(dim=1)
            finite = torch.isfinite(benchmarks).all(dim=1)
            usable, benchmarks = usable[finite], benchmarks[finite]
        out = inputs.uncertain.new_full((inputs.uncertain.shape[0], self.program.num_decision), torch.nan)
        if not usable.numel():
            return out, verdicts
        found, verdicts[usable] = self.inner(inputs.select(usable), benchmarks)
        return out.index_copy(0, usable, found), verdicts


def _solver(program: TwoStageProgram, name: str | None, risk: Risk) -> Backend:
    if name is not None:
        return program.backend(name, risk)
    reasons = []
    for candidate in _WITH_GRADIENTS:
        try:
            found = backend(candidate)
        except (DependencyError, ProgramError) as error:
            reasons.append(str(error))
            continue
        reason = found.refusal(program, risk)
        if reason is None:
            return found
        reasons.append(f"{candidate}: {reason}")
    raise ProgramError(f"no backend has gradients for program {program.name!r}: {'; '.join(reasons)}")
