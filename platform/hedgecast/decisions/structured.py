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
from hedgecast.decisions.central_path import Limits, follow_central_path
from hedgecast.decisions.certificates import Findings, explain_failures, select_members
from hedgecast.decisions.compiled import CompiledSolver, compiled_applies
from hedgecast.decisions.implicit import INPUT_NAMES, MATRIX_NAMES, VECTOR_NAMES, Solved, differentiable
from hedgecast.decisions.iterates import Iterate, Outcome, Point
from hedgecast.decisions.scenario_blocks import analyze_blocks, pattern_key
from hedgecast.decisions.single_scenario import mean_scenario, merge_stages, recourse_alone
from hedgecast.programs.blocks import BlockProblem
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict

# Below this the residuals of a single-precision solve are rounding.
_SINGLE_TOLERANCE = 2e-5
_CACHED_TEMPLATES = 64
_UNREFINED_TOLERANCE = 1e-8


class _Details:
    """Recourse and multipliers of a batch, built when asked for."""

    def __init__(self, point: Point, numbers: Numbers, spread: _Spread, keep: Tensor) -> None:
        self.point, self.numbers, self.spread, self.keep = point, numbers, spread, keep

    def w(self) -> Tensor:
        return self.spread(self.point.w.permute(1, 2, 0), self.keep)

    def equality(self) -> Tensor:
        return self.spread(self.point.equality / self.numbers.cost_scale[:, None], self.keep)

    def inequality(self) -> Tensor:
        return self.spread(self.point.multiplier / self.numbers.cost_scale[:, None], self.keep)

    def y(self) -> Tensor:
        return self.spread((self.point.y * self._unit()).permute(1, 2, 0), self.keep)

    def z(self) -> Tensor:
        return self.spread((self.point.z * self._unit()).permute(1, 2, 0), self.keep)

    def _unit(self) -> Tensor:
        """(B, S): from a scenario's own scaled units to plain multipliers."""
        return self.numbers.measure / self.numbers.cost_scale[:, None]


class _MergedDetails:
    """The same of deterministic programs whose first stage is part of the one block."""

    def __init__(self, merged: StructuredSolution, problem: BlockProblem) -> None:
        self.merged, self.n = merged.details, problem.num_first
        self.rows = (problem.A.shape[0], problem.G.shape[0])

    def w(self) -> Tensor:
        return self.merged.w()[:, :, self.n :]

    def equality(self) -> Tensor:
        return self.merged.y()[:, 0, : self.rows[0]]

    def inequality(self) -> Tensor:
        return self.merged.z()[:, 0, : self.rows[1]]

    def y(self) -> Tensor:
        return self.merged.y()[:, :, self.rows[0] :]

    def z(self) -> Tensor:
        return self.merged.z()[:, :, self.rows[1] :]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StructuredSolution:
    """Solutions of a batch; ``x``, the costs and the objective carry gradients.

    Members that are infeasible, unbounded or invalid hold NaN and give no gradient.
    """

    x: Tensor
    """(B, n) first-stage columns."""
    scenario_costs: Tensor
    """(B, S) recourse costs, without the first-stage cost."""
    first_cost: Tensor
    """(B,) cost of the first-stage columns."""
    objective: Tensor
    """(B,) first-stage cost plus risk measure."""
    verdicts: Tensor
    """(B,) int64 of `Verdict`."""
    primal_residual: Tensor
    dual_residual: Tensor
    gap: Tensor
    iterations: Tensor
    weights: Tensor
    """(B, S): how much each scenario's cost weighs at the optimum; the probabilities without risk."""
    infeasible_scenario: Tensor
    """(B,) int64: a scenario that has no recourse whatever the decision, -1 where none is known."""
    certificate: Tensor
    """(B, S, rows of W then of V): Farkas multipliers of infeasible members, zero elsewhere."""
    warm: Iterate | None
    """Start of the next solve of nearby numbers; None after the compiled loops, which start cold faster."""
    details: _Details | _MergedDetails
    """What the properties below are read from."""

    @property
    def w(self) -> Tensor:
        """(B, S, m) recourse columns, without gradient."""
        return self.details.w()

    @property
    def equality_dual(self) -> Tensor:
        """(B, rows of A) multipliers."""
        return self.details.equality()

    @property
    def inequality_dual(self) -> Tensor:
        """(B, rows of G) multipliers, nonnegative."""
        return self.details.inequality()

    @property
    def recourse_equality_dual(self) -> Tensor:
        """(B, S, rows of W) multipliers of the expected cost: probabilities included."""
        return self.details.y()

    @property
    def recourse_inequality_dual(self) -> Tensor:
        """(B, S, rows of V) multipliers, nonnegative."""
        return self.details.z()


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
        max_iterations: int = 100,
        smoothing: float = 0.0,
        warm_start: Iterate | None = None,
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
        warm_start : Iterate, optional
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
            return _with_scenarios(problem, probabilities, benchmarks, risk, mean)
        if problem.num_scenarios == 1:
            merged = self._solve(
                merge_stages(problem), probabilities, EXPECTATION, benchmarks, tolerance, max_iterations,
                smoothing, warm_start,
            )  # fmt: skip
            return _split(problem, merged)
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
        warm_start: Iterate | None,
    ) -> StructuredSolution:
        if problem.dtype == torch.float32:
            tolerance = max(tolerance, _SINGLE_TOLERANCE)
        limits = Limits(tolerance=tolerance, max_iterations=max_iterations, smoothing=smoothing or None)
        index = self._index(problem, has_risk=not risk.neutral)
        valid = _valid_members(problem, probabilities, benchmarks).nonzero()[:, 0]
        with torch.no_grad():
            numbers = make_numbers(problem, probabilities, benchmarks)
            if valid.numel() < problem.num_contexts:
                numbers = numbers.select(valid)
                warm_start = None if warm_start is None else warm_start.select(valid)
            compiled = None
            outcome = None
            if valid.numel() and self.compiled and compiled_applies(problem, index, risk):
                part = problem if valid.numel() == problem.num_contexts else select_members(problem, valid)
                compiled = CompiledSolver(part, index, numbers)
                outcome = compiled.solve(limits)
            elif valid.numel():
                outcome = follow_central_path(index, numbers, risk, limits, warm_start)
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
        outcome: Outcome | None,
        findings: Findings,
        compiled: CompiledSolver | None,
    ) -> StructuredSolution:
        B, S = problem.num_contexts, problem.num_scenarios
        spread = _Spread(problem, valid)
        good = findings.verdicts[valid] == int(Verdict.OPTIMAL)
        keep = good | (findings.verdicts[valid] == int(Verdict.NOT_CONVERGED))
        nothing = problem.q.new_zeros
        if outcome is None:
            point: Point = Iterate(
                x=nothing(0, problem.num_first), w=nothing(problem.num_recourse, 0, S),
                equality=nothing(0, problem.A.shape[0]), multiplier=nothing(0, problem.G.shape[0]),
                slack=nothing(0, problem.G.shape[0]), y=nothing(problem.W.shape[0], 0, S),
                z=nothing(problem.V.shape[0], 0, S), s=nothing(problem.V.shape[0], 0, S),
            )  # fmt: skip
            gradient_point = point
            costs = nothing(0, S)
            quality = [nothing(0)] * 3
            iterations = valid
        else:
            point, quality, iterations = outcome.iterate, list(outcome.quality[:3]), outcome.iterations
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
        first_cost, objective = _objective(
            problem, probabilities, benchmarks, risk, x, scenario_costs, weights, eta
        )
        return StructuredSolution(
            x=x if problem.num_first else w[:, 0],
            scenario_costs=scenario_costs,
            first_cost=first_cost,
            objective=objective,
            verdicts=findings.verdicts,
            primal_residual=spread(quality[0]),
            dual_residual=spread(quality[1]),
            gap=spread(quality[2]),
            iterations=torch.zeros(B, dtype=torch.int64, device=valid.device).index_copy(
                0, valid, iterations
            ),
            weights=weights,
            infeasible_scenario=findings.scenarios,
            certificate=findings.certificate,
            warm=point if isinstance(point, Iterate) and valid.numel() == B else None,
            details=_Details(point, numbers, spread, keep),
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
            self._indices[key] = made
            while len(self._indices) > _CACHED_TEMPLATES:
                self._indices.popitem(last=False)
        return made


def first_stage_cost(problem: BlockProblem, x: Tensor) -> Tensor:
    """(B,): 1/2 x'P x + q'x + d, differentiable."""
    quadratic = (problem.P.values[:, 0] * x[:, problem.P.rows] * x[:, problem.P.cols]).sum(dim=1)
    return 0.5 * quadratic + (problem.q * x).sum(dim=1) + problem.d


def recourse_costs(problem: BlockProblem, x: Tensor, w: Tensor) -> Tensor:
    """(B, S): recourse costs of x (B, n) and w (B, S, m), differentiable."""
    total = problem.e + (problem.c * w).sum(dim=2) + (problem.o * x[:, None]).sum(dim=2)
    for matrix, left, right, factor in (
        (problem.Q, w, w, 0.5), (problem.R, w, x[:, None], 1.0), (problem.O, x[:, None], x[:, None], 0.5),
    ):  # fmt: skip
        products = matrix.values * left[:, :, matrix.rows] * right[:, :, matrix.cols]
        total = total + factor * products.sum(dim=2)
    return total


def measure_costs(costs: Tensor, probabilities: Tensor, benchmarks: Tensor, risk: Risk) -> Tensor:
    """(B,): the risk measure of scenario costs (B, S), without gradient.

    The CVaR part is the mean of the worst 1 - alpha of the probability, the worst case the largest
    cost of a scenario of positive probability.
    """
    expected = (probabilities * costs).sum(dim=1)
    if risk.neutral:
        return expected
    excess = costs - benchmarks
    if risk.alpha == 1.0:
        tail = torch.where(probabilities > 0, excess, -torch.inf).amax(dim=1)
    else:
        order = excess.argsort(dim=1, descending=True)
        mass = probabilities.gather(1, order)
        before = mass.cumsum(dim=1) - mass
        share = torch.minimum(mass, (1.0 - risk.alpha - before).clamp(min=0.0))
        tail = (share * excess.gather(1, order)).sum(dim=1) / (1.0 - risk.alpha)
    if risk.on_regret:
        tail = tail + (probabilities * benchmarks).sum(dim=1)
    return (1.0 - risk.beta) * expected + risk.beta * tail


def measure_at_optimum(
    costs: Tensor, probabilities: Tensor, benchmarks: Tensor, risk: Risk, weights: Tensor, eta: Tensor | None
) -> Tensor:
    """(B,): the same with the gradient that the solution's multipliers give.

    Optimal scenario costs tie as a rule, and a tie has many subgradients; the scenario weights (B, S) of
    the solution are the one that belongs to the optimal value.
    """
    if risk.neutral:
        return (probabilities * costs).sum(dim=1)
    c, p, v = costs.detach(), probabilities.detach(), benchmarks.detach()
    tail = weights - (1.0 - risk.beta) * p
    in_p = (1.0 - risk.beta) * c
    if risk.alpha < 1.0:
        assert eta is not None
        in_p = in_p + risk.beta / (1.0 - risk.alpha) * (c - v - eta[:, None]).clamp(min=0.0)
    in_v = -tail
    if risk.on_regret:
        in_p, in_v = in_p + risk.beta * v, in_v + risk.beta * p
    change = weights * (costs - c) + in_p * (probabilities - p) + in_v * (benchmarks - v)
    return measure_costs(c, p, v, risk) + change.sum(dim=1)


def _objective(
    problem: BlockProblem,
    probabilities: Tensor,
    benchmarks: Tensor,
    risk: Risk,
    x: Tensor,
    costs: Tensor,
    weights: Tensor,
    eta: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """First-stage cost and objective; NaN of members without a solution reaches no gradient of others."""
    missing = torch.isnan(x).any(dim=1) | torch.isnan(costs).any(dim=1)
    if not bool(missing.any()):
        first = first_stage_cost(problem, x)
        return first, first + measure_at_optimum(costs, probabilities, benchmarks, risk, weights, eta)
    gone = missing[:, None]
    first = first_stage_cost(problem, torch.where(gone, 0.0, x))
    risky = measure_at_optimum(
        torch.where(gone, 0.0, costs),
        probabilities,
        benchmarks,
        risk,
        torch.where(gone, 0.0, weights),
        None if eta is None else torch.where(missing, 0.0, eta),
    )
    return torch.where(missing, torch.nan, first), torch.where(missing, torch.nan, first + risky)


class _Spread:
    """Writes values of the valid members into a batch of NaN."""

    def __init__(self, problem: BlockProblem, valid: Tensor) -> None:
        self.num_contexts, self.valid = problem.num_contexts, valid

    def __call__(self, values: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is None or bool(keep.all()):
            members = self.valid
        else:
            members, values = self.valid[keep], values[keep]
        if members.numel() == self.num_contexts:
            return values
        full = values.new_full((self.num_contexts, *values.shape[1:]), torch.nan)
        return full.index_copy_(0, members, values)


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
        for tensor in tensors:
            valid = valid & torch.isfinite(tensor).reshape(tensor.shape[0], -1).all(dim=1)
    return valid


def _with_scenarios(
    problem: BlockProblem, probabilities: Tensor, benchmarks: Tensor, risk: Risk, mean: StructuredSolution
) -> StructuredSolution:
    """The solution of a program without recourse from that of its mean scenario."""
    B, S = problem.num_contexts, problem.num_scenarios
    missing = torch.isnan(mean.x).any(dim=1)
    x = torch.where(missing[:, None], 0.0, mean.x)
    costs = recourse_costs(problem, x, x.new_zeros(B, S, 0)).expand(B, S)
    costs = torch.where(missing[:, None], torch.nan, costs)
    first_cost, objective = _objective(
        problem, probabilities, benchmarks, risk, mean.x, costs, probabilities.detach(), None
    )
    return dataclasses.replace(
        mean,
        scenario_costs=costs,
        first_cost=first_cost,
        objective=objective,
        weights=probabilities.detach(),
        certificate=mean.certificate.expand(B, S, 0),
    )


def _split(problem: BlockProblem, merged: StructuredSolution) -> StructuredSolution:
    """The solution of a merged deterministic program in the terms of the two-stage one."""
    n = problem.num_first
    num_equalities, num_inequalities = problem.A.shape[0], problem.G.shape[0]
    # A merged solution's x holds the columns of both stages.
    missing = torch.isnan(merged.x).any(dim=1)
    safe = torch.where(missing[:, None], 0.0, merged.x) if bool(missing.any()) else merged.x
    first_cost = first_stage_cost(problem, safe[:, :n])
    costs = recourse_costs(problem, safe[:, :n], safe[:, None, n:])
    if bool(missing.any()):
        first_cost = torch.where(missing, torch.nan, first_cost)
        costs = torch.where(missing[:, None], torch.nan, costs)
    rows = merged.certificate.shape[2] - (num_equalities + num_inequalities)
    start = num_equalities
    stop = start + problem.W.shape[0]
    certificate = torch.cat(
        [merged.certificate[:, :, start:stop], merged.certificate[:, :, stop + num_inequalities :]], dim=2
    )
    assert certificate.shape[2] == rows
    return dataclasses.replace(
        merged,
        x=merged.x[:, :n],
        scenario_costs=costs,
        first_cost=first_cost,
        objective=first_cost + costs[:, 0],
        details=_MergedDetails(merged, problem),
        certificate=certificate,
    )


assert len(INPUT_NAMES) == len(MATRIX_NAMES) + len(VECTOR_NAMES) + 2
