"""From what a backend found to a `Decision` with a verdict for every member."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hedgecast.programs.backend import Backend, Inputs, PricingBackend, RawSolution
from hedgecast.programs.measures import risk_value
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Decision, Verdict
from hedgecast.programs.stages import stage_costs

if TYPE_CHECKING:
    from hedgecast.programs.program import TwoStageProgram


def solve_batch(
    program: TwoStageProgram,
    backend: Backend,
    inputs: Inputs,
    risk: Risk,
    tolerance: float,
    max_iterations: int,
    *,
    slopes: bool = False,
) -> Decision:
    """Decisions of every member; members with unusable numbers are left out of the solve.

    Parameters
    ----------
    program : TwoStageProgram
    backend : Backend
    inputs : Inputs
    risk : Risk
    tolerance : float
        Relative residuals and gap.
    max_iterations : int
    slopes : bool
        Also the derivative in the given parameters, where the backend can tell.
    """
    start = time.perf_counter()
    num_contexts, num_scenarios = inputs.probabilities.shape
    verdicts = torch.full(
        (num_contexts,), int(Verdict.INVALID), dtype=torch.int64, device=inputs.given.device
    )
    usable = program.reader.usable(inputs)
    benchmarks: Tensor | None = None
    if risk.on_regret:
        benchmarks = inputs.probabilities.new_full((num_contexts, num_scenarios), torch.nan)
        benchmarks[usable], failed = wait_and_see_costs(
            program, backend, inputs.select(usable), tolerance, max_iterations
        )
        verdicts[usable] = failed.amax(dim=1)
        usable = usable[torch.isfinite(benchmarks[usable]).all(dim=1)]
    found = _Found(inputs, program.num_decision)
    if usable.numel():
        part = inputs.select(usable)
        solve = backend.solve_with_slopes if slopes and isinstance(backend, PricingBackend) else backend.solve
        raw = solve(
            program,
            part,
            risk=risk,
            benchmarks=None if benchmarks is None else benchmarks[usable],
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        verdicts[usable] = raw.verdicts
        found.put(usable, raw)
    _complete_costs(program, backend, inputs, risk, verdicts, found, tolerance)
    answered = (verdicts == Verdict.OPTIMAL) | (verdicts == Verdict.NOT_CONVERGED)
    found.flat[~answered] = torch.nan
    found.costs[~answered] = torch.nan
    objective = found.costs.new_full((num_contexts,), torch.nan)
    if bool(answered.any()):
        objective[answered] = risk_value(
            risk,
            found.costs[answered],
            inputs.probabilities[answered],
            None if benchmarks is None else benchmarks[answered],
        )
    blame = _explain(program, backend, inputs, verdicts, tolerance, max_iterations)
    return Decision(
        values=program.unflatten(found.flat),
        flat=found.flat,
        objective=objective,
        scenario_costs=found.costs,
        verdicts=verdicts,
        primal_residual=found.primal_residual,
        dual_residual=found.dual_residual,
        gap=found.gap,
        iterations=found.iterations,
        infeasible_scenario=blame.scenario,
        certificate=blame.certificate,
        blame=blame.expressions,
        slope_given=found.slope_given,
        seconds=time.perf_counter() - start,
        backend=backend.name,
    )


def wait_and_see_costs(
    program: TwoStageProgram, backend: Backend, inputs: Inputs, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """(B, S) optimal cost of every scenario known ahead, and its verdicts.

    A scenario without a feasible decision costs +inf, an unbounded one -inf, one that was not solved NaN.
    """
    costs, verdicts, _ = solved_apart(program, backend, inputs, tolerance, max_iterations)
    return costs, verdicts


def solved_apart(
    program: TwoStageProgram, backend: Backend, inputs: Inputs, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the decisions (B, S, N), which hold any numbers where the verdict is not optimal."""
    shape = inputs.probabilities.shape
    if not inputs.uncertain.numel():
        nothing = inputs.probabilities.new_zeros(*shape, program.num_decision)
        return nothing.sum(dim=2), torch.zeros(shape, dtype=torch.int64), nothing
    raw = backend.solve(
        program,
        inputs.apart(),
        risk=Risk(),
        benchmarks=None,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    costs = raw.first_cost + raw.recourse_costs[:, 0]
    for verdict, value in (
        (Verdict.INFEASIBLE, torch.inf),
        (Verdict.UNBOUNDED, -torch.inf),
        (Verdict.NOT_CONVERGED, torch.nan),
        (Verdict.INVALID, torch.nan),
    ):
        costs = torch.where(raw.verdicts == verdict, value, costs)
    return costs.reshape(shape), raw.verdicts.reshape(shape), raw.flat.reshape(*shape, -1)


class _Found:
    """The batch's numbers, filled member by member; NaN where nothing was found."""

    def __init__(self, inputs: Inputs, num_decision: int) -> None:
        num_contexts, num_scenarios = inputs.probabilities.shape

        def empty(*shape: int) -> Tensor:
            return inputs.probabilities.new_full(shape, torch.nan)

        self.flat, self.costs = empty(num_contexts, num_decision), empty(num_contexts, num_scenarios)
        self.primal_residual, self.dual_residual = empty(num_contexts), empty(num_contexts)
        self.gap = empty(num_contexts)
        self.iterations = torch.zeros(num_contexts, dtype=torch.int64, device=inputs.given.device)
        self.slope_given: Tensor | None = None

    def put(self, members: Tensor, raw: RawSolution) -> None:
        self.flat[members] = raw.flat
        self.costs[members] = raw.first_cost[:, None] + raw.recourse_costs
        for name in ("primal_residual", "dual_residual", "gap", "iterations"):
            getattr(self, name)[members] = getattr(raw, name).to(getattr(self, name).dtype)
        if raw.slope_given is not None:
            self.slope_given = raw.slope_given.new_full((len(self.gap), raw.slope_given.shape[1]), torch.nan)
            self.slope_given[members] = raw.slope_given


def _complete_costs(
    program: TwoStageProgram,
    backend: Backend,
    inputs: Inputs,
    risk: Risk,
    verdicts: Tensor,
    found: _Found,
    tolerance: float,
) -> None:
    """Evaluate scenarios that carry no weight in the objective: their recourse was not optimized."""
    weightless = ~(inputs.probabilities > 0).all(dim=1)
    if not risk.neutral:
        weightless = torch.ones_like(weightless)
    members = torch.nonzero(weightless & (verdicts == Verdict.OPTIMAL))[:, 0]
    if members.numel():
        part = inputs.select(members)
        found.costs[members] = program.costs_of(backend, found.flat[members], part, tolerance)


@dataclasses.dataclass(slots=True)
class _Blame:
    """Why members have no solution."""

    scenario: Tensor
    """(B,) int64: a scenario that has no recourse by itself, -1 where none is known."""
    certificate: Tensor | None = None
    """(B, rows) of that scenario."""
    expressions: dict[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Member to the expressions behind its verdict."""


def _explain(
    program: TwoStageProgram,
    backend: Backend,
    inputs: Inputs,
    verdicts: Tensor,
    tolerance: float,
    max_iterations: int,
) -> _Blame:
    """What stands behind infeasible and unbounded members.

    Where the first stage has no solution, no scenario is to blame.
    """
    blame = _Blame(torch.full_like(verdicts, -1))
    for member in torch.nonzero(verdicts == Verdict.UNBOUNDED)[:, 0].tolist():
        blame.expressions[member] = program.cost_expressions
    for member in torch.nonzero(verdicts == Verdict.INFEASIBLE)[:, 0].tolist():
        part = inputs.select(torch.tensor([member], device=verdicts.device))
        nothing = part.uncertain.new_zeros(1, 0)
        alone = stage_costs(
            program.first_stage_alone, backend, nothing, part.uncertain[:, :1], part.given, tolerance
        )
        given = _array(part.given[0])
        if bool(torch.isposinf(alone).all()):
            blame.expressions[member] = program.diagnosis.first_stage(given)
            continue
        raw = backend.solve(
            program,
            part.apart(),
            risk=Risk(),
            benchmarks=None,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        hits = torch.nonzero(raw.verdicts == Verdict.INFEASIBLE)[:, 0]
        if not hits.numel():
            continue
        blame.scenario[member] = hits[0]
        blame.expressions[member] = program.diagnosis.scenario(_array(part.uncertain[0, hits[0]]), given)
        if raw.certificate is not None:
            if blame.certificate is None:
                rows = raw.certificate.shape[2]
                blame.certificate = raw.certificate.new_full((verdicts.shape[0], rows), torch.nan)
            blame.certificate[member] = raw.certificate[hits[0], 0]
    return blame


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
