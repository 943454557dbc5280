"""A program's backend made of a solver that knows block problems only."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hedgecast.core.errors import ProgramError
from hedgecast.programs.backend import (
    MAX_ITERATIONS,
    BlockBackend,
    BlockSolution,
    Inputs,
    RawSolution,
    StageValue,
)
from hedgecast.programs.blocks import BlockProblem, SparseMatrix, recourse_alone
from hedgecast.programs.lagrangian import recourse_lagrangian, value_slopes
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict
from hedgecast.programs.template import Template

if TYPE_CHECKING:
    from hedgecast.programs.program import TwoStageProgram
    from hedgecast.programs.stages import CompiledStage

_GRADIENT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


class ProgramBackend:
    """A `Backend` that instantiates the program's template and hands the numbers to a block solver."""

    def __init__(self, blocks: BlockBackend) -> None:
        self.blocks = blocks
        self.name = blocks.name

    def refusal(self, program: TwoStageProgram, risk: Risk) -> str | None:  # noqa: ARG002
        """Why the program has no block form; None where it has one. Every measure is accepted."""
        return None if program.template is not None else program.template_reason

    def solve(
        self,
        program: TwoStageProgram,
        inputs: Inputs,
        *,
        risk: Risk,
        benchmarks: Tensor | None,
        tolerance: float,
        max_iterations: int,
    ) -> RawSolution:
        """The best decisions for a batch; see `hedgecast.programs.backend`."""
        return self._solve(program, inputs, risk, benchmarks, tolerance, max_iterations)[0]

    def solve_with_slopes(
        self,
        program: TwoStageProgram,
        inputs: Inputs,
        *,
        risk: Risk,
        benchmarks: Tensor | None,
        tolerance: float,
        max_iterations: int,
    ) -> RawSolution:
        """The same with the objective's derivative in the given parameters, from the multipliers."""
        raw, found = self._solve(program, inputs, risk, benchmarks, tolerance, max_iterations)
        slopes = value_slopes(_template(program), inputs.uncertain, inputs.given, found)
        if risk.on_regret and not risk.neutral:
            apart = self.solve_with_slopes(
                program,
                inputs.apart(),
                risk=EXPECTATION,
                benchmarks=None,
                tolerance=tolerance,
                max_iterations=max_iterations,
            )
            assert apart.slope_given is not None
            tail = found.weights - (1.0 - risk.beta) * inputs.probabilities
            by_scenario = apart.slope_given.reshape(*tail.shape, -1)
            slopes = slopes - (tail[:, :, None] * by_scenario).sum(dim=1)
        return dataclasses.replace(raw, slope_given=slopes)

    def _solve(
        self,
        program: TwoStageProgram,
        inputs: Inputs,
        risk: Risk,
        benchmarks: Tensor | None,
        tolerance: float,
        max_iterations: int,
    ) -> tuple[RawSolution, BlockSolution]:
        template = _template(program)
        with torch.no_grad():
            found = self.blocks.solve_blocks(
                template.instantiate(inputs.uncertain, inputs.given),
                inputs.probabilities,
                risk=risk,
                benchmarks=benchmarks,
                tolerance=tolerance,
                max_iterations=max_iterations,
                smoothing=0.0,
            )
            raw = RawSolution(
                flat=found.x[:, : program.num_decision],
                first_cost=found.first_cost,
                recourse_costs=found.scenario_costs,
                verdicts=found.verdicts,
                primal_residual=found.primal_residual,
                dual_residual=found.dual_residual,
                gap=found.gap,
                iterations=found.iterations,
                certificate=_certificate(template, found),
            )
        return raw, found

    def evaluate(
        self, compiled: CompiledStage, decision: Tensor, uncertain: Tensor, given: Tensor, *, tolerance: float
    ) -> StageValue:
        """Optimal cost of one stage for fixed decisions; see `hedgecast.programs.backend`."""
        if compiled.block is None:
            raise ProgramError(f"backend {self.name!r} evaluates quadratic and linear stages only")
        with torch.enable_grad():
            arguments = [tensor.detach().requires_grad_() for tensor in (decision, uncertain, given)]
            # First-stage columns that are not the decision stand in no row and no cost of a scenario.
            width = compiled.block.R.shape[1] - decision.shape[1]
            problem = recourse_alone(
                compiled.block.instantiate(arguments[1][:, None, :], arguments[2]),
                torch.nn.functional.pad(arguments[0], (0, width)),
            )
            with torch.no_grad():
                found = self.blocks.solve_blocks(
                    detached(problem),
                    problem.c.new_ones(problem.num_contexts, 1),
                    risk=EXPECTATION,
                    benchmarks=None,
                    tolerance=tolerance,
                    max_iterations=MAX_ITERATIONS,
                    smoothing=0.0,
                )
            solved = found.verdicts == Verdict.OPTIMAL
            saddle = recourse_lagrangian(
                problem,
                torch.where(solved[:, None, None], found.w, 0.0),
                torch.where(solved[:, None, None], found.recourse_equality_dual, 0.0),
                torch.where(solved[:, None, None], found.recourse_inequality_dual, 0.0),
            )
            slopes = torch.autograd.grad(saddle.sum(), arguments, allow_unused=True)
        cost = found.scenario_costs[:, 0].detach()
        cost = torch.where(solved, cost, torch.nan)
        cost = torch.where(found.verdicts == Verdict.INFEASIBLE, torch.inf, cost)
        cost = torch.where(found.verdicts == Verdict.UNBOUNDED, -torch.inf, cost)
        by_decision, by_uncertain, by_given = (
            torch.zeros_like(argument) if slope is None else slope
            for slope, argument in zip(slopes, arguments, strict=True)
        )
        return StageValue(
            cost=cost, slope_decision=by_decision, slope_uncertain=by_uncertain, slope_given=by_given
        )

    def layer(
        self, program: TwoStageProgram, *, risk: Risk, smoothing: float, tolerance: float | None
    ) -> nn.Module:
        """A module (Inputs, benchmarks or None) -> decisions (B, N) and verdicts (B,)."""
        return BlockLayer(self.blocks, program, risk, smoothing, tolerance)


class BlockLayer(nn.Module):
    """The layer of a block solver; with ``warm_start`` it begins where its thread's last call ended."""

    def __init__(
        self,
        blocks: BlockBackend,
        program: TwoStageProgram,
        risk: Risk,
        smoothing: float,
        tolerance: float | None,
    ) -> None:
        super().__init__()
        self.blocks, self.template, self.risk = blocks, _template(program), risk
        self.num_decision = program.num_decision
        self.smoothing, self.tolerance = smoothing, tolerance
        self.warm_start = False
        self._last = threading.local()

    def forward(self, inputs: Inputs, benchmarks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decisions (B, N) and verdicts (B,)."""
        key = (inputs.uncertain.shape, inputs.uncertain.dtype, inputs.uncertain.device)
        tensors = (inputs.uncertain, inputs.probabilities, inputs.given, benchmarks)
        differentiable = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in tensors
        )
        last_key, last = getattr(self._last, "solution", (None, None))
        found = self.blocks.solve_blocks(
            self.template.instantiate(inputs.uncertain, inputs.given),
            inputs.probabilities,
            risk=self.risk,
            benchmarks=benchmarks,
            tolerance=self.tolerance or _GRADIENT_TOLERANCE[inputs.uncertain.dtype],
            max_iterations=MAX_ITERATIONS,
            # The smoothed point serves derivatives alone; the decision is the exact solution either way.
            smoothing=self.smoothing if differentiable else 0.0,
            warm_start=last if last_key == key else None,
        )
        if self.warm_start:
            self._last.solution = (key, found.warm)
        return found.x[:, : self.num_decision], found.verdicts


def _certificate(template: Template, found: BlockSolution) -> Tensor | None:
    """(B, S, rows of the canonical stage); None where nobody is infeasible."""
    source = torch.as_tensor(template.scenario.source)
    if not bool((found.verdicts == Verdict.INFEASIBLE).any()) or not bool(source.isfinite().all()):
        return None
    # Rows of the block form are sums of -(A v + b); canonical multipliers are those of A v + b.
    return -(found.certificate @ source.to(found.certificate))


def _template(program: TwoStageProgram) -> Template:
    if program.template is None:
        raise ProgramError(f"program {program.name!r} has no block form: {program.template_reason}")
    return program.template


def detached(problem: BlockProblem) -> BlockProblem:
    """``problem`` without gradients."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(problem):
        value = getattr(problem, field.name)
        if isinstance(value, SparseMatrix):
            changes[field.name] = dataclasses.replace(value, values=value.values.detach())
        elif isinstance(value, Tensor):
            changes[field.name] = value.detach()
    return dataclasses.replace(problem, **changes)
