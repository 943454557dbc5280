"""The structured backend: an interior-point method that eliminates every scenario's block.

See `hedgecast.decisions.interior_point` for the method, `scenario_blocks` for the elimination,
`implicit` for gradients, `certificates` for what happens to members without a solution.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict

import torch
from torch import Tensor

from hedgecast.core.errors import ShapeError
from hedgecast.decisions.block_factor import BlockIndex
from hedgecast.decisions.block_numbers import Numbers, make_numbers
from hedgecast.decisions.central_path import Limits, follow_central_path, shifted_point
from hedgecast.decisions.certificates import Findings, explain_failures, select_members
from hedgecast.decisions.compiled import CompiledSolver, compiled_applies
from hedgecast.decisions.implicit import MATRIX_NAMES, VECTOR_NAMES, Solved, differentiable
from hedgecast.decisions.interior_point import Newton
from hedgecast.decisions.iterates import Iterate, Outcome, Point, Quality
from hedgecast.decisions.objective import first_cost_and_objective
from hedgecast.decisions.scenario_blocks import analyze_blocks, pattern_key
from hedgecast.decisions.screening import screened_solve
from hedgecast.decisions.single_scenario import (
    mean_scenario,
    merge_stages,
    split_stages,
    spread_over_scenarios,
)
from hedgecast.decisions.structured_solution import Details, Spread, StructuredSolution
from hedgecast.programs.backend import MAX_ITERATIONS
from hedgecast.programs.blocks import BlockProblem, recourse_alone
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict

# Below this the residuals of a single-precision solve are rounding.
_SINGLE_TOLERANCE = 2e-5
_CACHED_TEMPLATES = 64
_UNREFINED_TOLERANCE = 1e-8


class StructuredBackend:
    """Solver of `BlockProblem` batches; safe to share between threads.

    Parameters
    ----------
    compiled : bool
        Use the compiled loops where tensors live on the CPU in float64. Without them, and on other
        devices, the same method runs on torch tensors.
    """

    name = "structured"

    def __init__(self, *, compiled: bool = True) -> None:
        self.compiled = compiled
        self._indices: OrderedDict[tuple[object, ...], BlockIndex] = OrderedDict()
        self._lock = threading.Lock()

    def solve_blocks(
        self,
        problem: BlockProblem,
        probabilities: Tensor,
        *,
        risk: Risk = EXPECTATION,
        benchmarks: Tensor | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = MAX_ITERATIONS,
        smoothing: float = 0.0,
        warm_start: Point | None = None,
    ) -> StructuredSolution:
        """The solution of every member of the batch.

        Parameters
        ----------
        problem : BlockProblem
            The batch; differentiable in all its tensors.
        probabilities : (B, S)
            Nonnegative, each row summing to one. A scenario of probability zero costs nothing, and its
            constraints bind all the same.
        risk : Risk
            Measure of the scenario costs.
        benchmarks : (B, S), optional
            Subtracted from the costs inside the CVaR part of the measure.
        tolerance : float
            On relative residuals and gap; raised to 2e-5 in single precision.
        max_iterations : int
            Of the interior-point method.
        smoothing : float
            Barrier, in the units of the costs, of the central-path point at which gradients are taken;
            the solution itself is exact. Zero takes them at the last iterate.
        warm_start : Point, optional
            ``warm`` of an earlier solution of the same template and sizes.

        Raises
        ------
        ShapeError
            Probabilities or benchmarks do not fit the problem.
        """
        _check_shapes(problem, probabilities, benchmarks)
        if benchmarks is None:
            benchmarks = probabilities.new_zeros(1, 1).expand_as(probabilities)
        bare = problem.num_recourse == 0 and problem.W.shape[0] == 0 and problem.V.shape[0] == 0
        if bare and risk.neutral and problem.num_scenarios > 1:
            mean = self.solve_blocks(
                mean_scenario(problem, probabilities),
                torch.ones_like(probabilities[:, :1]),
                tolerance=tolerance,
                max_iterations=max_iterations,
                smoothing=smoothing,
            )
            return spread_over_scenarios(problem, probabilities, benchmarks, risk, mean)
        if problem.num_scenarios == 1:
            merged = self._solve(
                merge_stages(problem), probabilities, EXPECTATION, benchmarks, tolerance, max_iterations,
                smoothing, warm_start,
            )  # fmt: skip
            return split_stages(problem, merged)
        found = self._solve(
            problem, probabilities, risk, benchmarks, tolerance, max_iterations, smoothing, warm_start
        )
        if risk.neutral or risk.beta < 1.0 or problem.num_recourse == 0:
            return found
        return self._with_optimal_recourse(
            problem, probabilities, found, tolerance, max_iterations, smoothing
        )

    def _with_optimal_recourse(
        self,
        problem: BlockProblem,
        probabilities: Tensor,
        found: StructuredSolution,
        tolerance: float,
        max_iterations: int,
        smoothing: float,
    ) -> StructuredSolution:
        """The solution with the cost of the best recourse to its decision in every scenario.

        A pure tail measure gives scenarios outside the tail no weight: any recourse that keeps them out
        of the tail is optimal for it, so their costs have to be found with the decision fixed.
        """
        missing = torch.isnan(found.x).any(dim=1)
        x = torch.where(missing[:, None], 0.0, found.x)
        apart = recourse_alone(problem, x)
        # An interior point of the rows: a decision at its residuals may miss a scenario's rows by as much.
        alone = self.solve_blocks(
            apart,
            probabilities.new_ones(apart.num_contexts, 1),
            tolerance=tolerance,
            max_iterations=max_iterations,
            smoothing=smoothing,
        )
        costs = alone.scenario_costs.reshape(probabilities.shape)
        kept = torch.isnan(costs.detach()) | missing[:, None]
        return dataclasses.replace(found, scenario_costs=torch.where(kept, found.scenario_costs, costs))

    def _solve(
        self,
        problem: BlockProblem,
        probabilities: Tensor,
        risk: Risk,
        benchmarks: Tensor,
        tolerance: float,
        max_iterations: int,
        smoothing: float,
        warm_start: Point | None,
    ) -> StructuredSolution:
        if problem.dtype == torch.float32:
            tolerance = max(tolerance, _SINGLE_TOLERANCE)
        limits = Limits(tolerance=tolerance, max_iterations=max_iterations, smoothing=smoothing or None)
        index = self._index(problem, has_risk=not risk.neutral)
        valid = _valid_members(problem, probabilities, benchmarks).nonzero()[:, 0]
        with torch.no_grad():
            numbers = make_numbers(problem, probabilities, benchmarks)
            start = None if warm_start is None else warm_start.iterate()
            if valid.numel() < problem.num_contexts:
                numbers = numbers.select(valid)
                start = None if start is None else start.select(valid)
            compiled = None
            outcome = _nothing_solved(problem)
            if valid.numel() and self.compiled and compiled_applies(problem, index, risk):
                part = problem if valid.numel() == problem.num_contexts else select_members(problem, valid)
                compiled = CompiledSolver(part, index, numbers)
                if start is not None:
                    start = shifted_point(Newton(index, numbers, risk), start)
                screened = None
                if start is None:
                    screened = screened_solve(compiled, part, index, numbers, limits)
                outcome = compiled.solve(limits, start) if screened is None else screened
            elif valid.numel():
                outcome = follow_central_path(index, numbers, risk, limits, start)
            findings = explain_failures(
                lambda part, has_risk: self._index(part, has_risk=has_risk),
                problem, probabilities, risk, valid, outcome,
            )  # fmt: skip
        # Near the boundary the elimination loses digits (1e-16 times multiplier over slack); only the tensor
        # path refines its adjoint, so it takes over where the barrier is that small.
        adjoint = compiled if smoothing > 0.0 or tolerance >= _UNREFINED_TOLERANCE else None
        return self._finish(
            problem, probabilities, benchmarks, risk, index, numbers, valid, outcome, findings, adjoint
        )

    def _finish(
        self,
        problem: BlockProblem,
        probabilities: Tensor,
        benchmarks: Tensor,
        risk: Risk,
        index: BlockIndex,
        numbers: Numbers,
        valid: Tensor,
        outcome: Outcome,
        findings: Findings,
        compiled: CompiledSolver | None,
    ) -> StructuredSolution:
        B, S = problem.num_contexts, problem.num_scenarios
        spread = Spread(problem, valid)
        good = findings.verdicts[valid] == int(Verdict.OPTIMAL)
        keep = good | (findings.verdicts[valid] == int(Verdict.NOT_CONVERGED))
        nothing = problem.q.new_zeros
        point = outcome.iterate
        gradient_point = point if outcome.central is None else outcome.central
        if outcome.central is not None:
            good = good & outcome.central_found
        if outcome.costs is not None:
            costs = outcome.costs
        elif problem.num_first == 0:
            costs = nothing(valid.numel(), S)
        else:
            costs = numbers.costs(point.x.T[:, :, None], point.w)
        chosen = good.nonzero()[:, 0]
        all_good = chosen.numel() == valid.numel()
        solved_numbers = numbers if all_good else numbers.select(chosen)
        if compiled is not None and not all_good:
            part = select_members(problem, valid[chosen])
            compiled = CompiledSolver(part, index, solved_numbers) if chosen.numel() else None
        solved = Solved(
            index=index,
            numbers=solved_numbers,
            risk=risk,
            members=valid[chosen],
            point=gradient_point if all_good else gradient_point.select(chosen),
            x=spread(point.x, keep),
            w=spread(point.w.permute(1, 2, 0), keep) if problem.num_first == 0 else nothing(0),
            costs=spread(costs, keep),
            compiled=compiled,
        )
        x, w, scenario_costs = differentiable(solved, problem, probabilities, benchmarks)
        weights, eta = numbers.probability, None
        if point.mu is not None and point.eta is not None:
            weights = (1.0 - risk.beta) * weights + numbers.measure * point.mu
            eta = spread(point.eta / numbers.cost_scale, keep)
        weights = spread(weights, keep)
        first_cost, objective = first_cost_and_objective(
            problem, probabilities, benchmarks, risk, x, scenario_costs, weights, eta
        )
        return StructuredSolution(
            x=x if problem.num_first else w[:, 0],
            scenario_costs=scenario_costs,
            first_cost=first_cost,
            objective=objective,
            verdicts=findings.verdicts,
            primal_residual=spread(outcome.quality.primal),
            dual_residual=spread(outcome.quality.dual),
            gap=spread(outcome.quality.gap),
            iterations=torch.zeros(B, dtype=torch.int64, device=valid.device).index_copy(
                0, valid, outcome.iterations
            ),
            weights=weights,
            infeasible_scenario=findings.scenarios,
            certificate=findings.certificate,
            warm=point if valid.numel() == B and (compiled is None or problem.num_first) else None,
            details=Details(point, numbers, spread, keep),
        )

    def _index(self, problem: BlockProblem, *, has_risk: bool) -> BlockIndex:
        """The template's elimination on the problem's device, analyzed once."""
        key = (*pattern_key(problem, has_risk=has_risk), str(problem.device))
        with self._lock:
            found = self._indices.get(key)
            if found is not None:
                self._indices.move_to_end(key)
                return found
        made = BlockIndex(analyze_blocks(problem, has_risk=has_risk), problem)
        with self._lock:
            # Another thread may have been faster: one analysis of a template, and one code generated for it.
            made = self._indices.setdefault(key, made)
            while len(self._indices) > _CACHED_TEMPLATES:
                self._indices.popitem(last=False)
        return made


def _nothing_solved(problem: BlockProblem) -> Outcome:
    """The outcome of a batch without a valid member."""
    nothing, S = problem.q.new_zeros, problem.num_scenarios
    n, equalities, rows = problem.num_first, problem.A.shape[0], problem.G.shape[0]
    m, inner_equalities, inner_rows = problem.num_recourse, problem.W.shape[0], problem.V.shape[0]
    return Outcome(
        iterate=Iterate(
            x=nothing(0, n), w=nothing(m, 0, S), equality=nothing(0, equalities), multiplier=nothing(0, rows),
            slack=nothing(0, rows), y=nothing(inner_equalities, 0, S), z=nothing(inner_rows, 0, S),
            s=nothing(inner_rows, 0, S),
        ),
        central=None,
        quality=Quality(*[nothing(0)] * 4),
        converged=nothing(0).bool(),
        central_found=nothing(0).bool(),
        iterations=nothing(0).long(),
        costs=nothing(0, S),
    )  # fmt: skip


def _check_shapes(problem: BlockProblem, probabilities: Tensor, benchmarks: Tensor | None) -> None:
    expected = (problem.num_contexts, problem.num_scenarios)
    for name, value in (("probabilities", probabilities), ("benchmarks", benchmarks)):
        if value is not None and tuple(value.shape) != expected:
            raise ShapeError(
                f"{name} has shape {tuple(value.shape)}: must be (contexts, scenarios) = {expected}",
                name=name,
            )
    if problem.dtype not in (torch.float32, torch.float64):
        raise ShapeError(f"the problem is in {problem.dtype}: use torch.float64 or torch.float32")


def _valid_members(problem: BlockProblem, probabilities: Tensor, benchmarks: Tensor) -> Tensor:
    """(B,) bool: finite numbers throughout and a probability distribution."""
    with torch.no_grad():
        valid = torch.isfinite(probabilities).all(dim=1) & (probabilities >= 0).all(dim=1)
        tolerance = 1e-6 if probabilities.dtype == torch.float64 else 1e-4
        valid = valid & ((probabilities.sum(dim=1) - 1.0).abs() <= tolerance)
        valid = valid & torch.isfinite(benchmarks).all(dim=1)
        tensors = [getattr(problem, name).values for name in MATRIX_NAMES]
        tensors += [getattr(problem, name) for name in (*VECTOR_NAMES, "d")]
        # One sum of everything first: it is finite where all is, short of overflow.
        if bool(torch.isfinite(torch.stack([tensor.sum() for tensor in tensors]).sum())):
            return valid
        for tensor in tensors:
            valid = valid & torch.isfinite(tensor).reshape(tensor.shape[0], -1).all(dim=1)
    return valid
