"""The cvxpylayers backend: gradients for every cone that CVXPY's DPP form allows.

The extensive form is written in CVXPY from copies of the program's own expressions,

    min  cost(x) + (1 - beta) sum_s p_s t_s + beta (eta + 1/(1 - alpha) sum_s p_s u_s)
    s.t. constraints(x),  recourse_cost_s(x, w_s, y_s) <= t_s,  recourse_constraints_s
         u_s >= t_s - benchmark_s - eta,  u_s >= 0

with the scenario costs behind epigraph variables, because p_s times a cost that has y_s inside is not
DPP. It is compiled once for each number of scenarios and each thread: cvxpylayers stores batch sizes on
the layer while it validates (1.2.0), so a layer that two threads share can mix their batches.

Source: Agrawal et al. (2019), https://arxiv.org/abs/1910.12430.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from typing import Any

import cvxpy as cp
import diffcp
import numpy as np
import torch
from cvxpylayers.torch import CvxpyLayer
from torch import Tensor, nn

from hedgecast.core.errors import ProgramError
from hedgecast.decisions.reference import ReferenceBackend
from hedgecast.programs.backend import MAX_ITERATIONS, Inputs, RawSolution, StageValue
from hedgecast.programs.measures import risk_value
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict
from hedgecast.programs.stages import CompiledStage

# A solver whose answer to the check program is farther than this from Clarabel's is refused.
_AGREEMENT = 1e-4


class LayersBackend:
    """cvxpylayers with one of its solvers, once that solver has passed the check program.

    Parameters
    ----------
    solver : str
        As cvxpylayers names it. MOREAU is refused where it drops a constraint (1.2.0 does).
    """

    name = "cvxpylayers"

    def __init__(self, solver: str = "DIFFCP") -> None:
        self.solver = solver
        self._reference = ReferenceBackend()

    def refusal(self, program: TwoStageProgram, risk: Risk) -> str | None:  # noqa: ARG002
        """Why this backend cannot solve ``program``; None where it can."""
        wrong = check_solver(self.solver)
        if wrong is not None:
            return wrong
        for stage in (program.first, program.recourse.stage):
            if stage.cones.p3d or stage.cones.pnd:
                return "cvxpylayers has no power cones"
        if any(isinstance(bound, cp.Expression) for v in program.decision for bound in _bounds(v)):
            return "a decision variable has bounds that are parameters: write them as constraints"
        return None

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
        """The best decisions for a batch; see `hedgecast.programs.backend`.

        Costs are those of the decision after the best recourse, found by the reference; so are the
        verdicts. The gap is the decision's distance from the reference's objective; cvxpylayers gives no
        dual residual, so that is NaN.
        """
        with torch.no_grad():
            judged = self._reference.solve(
                program, inputs, risk=risk, benchmarks=benchmarks, tolerance=tolerance,
                max_iterations=max_iterations,
            )  # fmt: skip
            solved = torch.nonzero(judged.verdicts == Verdict.OPTIMAL)[:, 0]
            if not solved.numel():
                return judged
            part = inputs.select(solved)
            layer = _ExtensiveLayer(program, risk, self.solver, tolerance)
            flat = layer.solved(part, None if benchmarks is None else benchmarks[solved])
            known, recourse = program.stage_costs(self, flat, part, tolerance)
            found = known + risk_value(risk, recourse, part.probabilities, benchmarks)
            best = judged.first_cost + risk_value(
                risk, judged.recourse_costs, inputs.probabilities, benchmarks
            )

        def put(into: Tensor, values: Tensor) -> Tensor:
            return into.index_copy(0, solved, values.to(into))

        return dataclasses.replace(
            judged,
            flat=put(judged.flat, flat),
            first_cost=put(judged.first_cost, known),
            recourse_costs=put(judged.recourse_costs, recourse),
            primal_residual=put(judged.primal_residual, program.violation(flat, part.given)),
            dual_residual=torch.full_like(judged.dual_residual, torch.nan),
            gap=put(judged.gap, (found - best[solved]) / (1.0 + best[solved].abs())),
        )

    def evaluate(
        self, compiled: CompiledStage, decision: Tensor, uncertain: Tensor, given: Tensor, *, tolerance: float
    ) -> StageValue:
        """Optimal cost of one stage for fixed decisions, by the reference."""
        return self._reference.evaluate(compiled, decision, uncertain, given, tolerance=tolerance)

    def layer(
        self,
        program: TwoStageProgram,
        *,
        risk: Risk,
        smoothing: float,
        tolerance: float | None,
    ) -> nn.Module:
        """A module (Inputs, benchmarks or None) -> decisions and verdicts; smoothing must be zero."""
        if smoothing:
            raise ProgramError(
                f"backend 'cvxpylayers' has no smoothing (asked for {smoothing}): use smoothing=0 "
                "or 'structured'"
            )
        return _ExtensiveLayer(program, risk, self.solver, tolerance)


class _ExtensiveLayer(nn.Module):
    def __init__(self, program: TwoStageProgram, risk: Risk, solver: str, tolerance: float | None) -> None:
        super().__init__()
        self.program, self.risk, self.solver = program, risk, solver
        self.tolerance = tolerance
        names = ("tol_feas", "tol_gap_abs", "tol_gap_rel")
        self.options = {} if tolerance is None else dict.fromkeys(names, tolerance)
        self._reference = ReferenceBackend()
        self._made = threading.local()

    def forward(self, inputs: Inputs, benchmarks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decisions (B, N), NaN for members that the reference finds to have no solution, and verdicts (B,).

        diffcp 1.1.9 returns Clarabel's last iterate of an infeasible member as if it were solved.
        """
        judged = self._reference.solve(
            self.program, inputs, risk=self.risk, benchmarks=benchmarks,
            tolerance=self.tolerance or 1e-7, max_iterations=MAX_ITERATIONS,
        )  # fmt: skip
        solved = torch.nonzero(judged.verdicts == Verdict.OPTIMAL)[:, 0]
        out = torch.full_like(judged.flat, torch.nan)
        if not solved.numel():
            return out, judged.verdicts
        found = self.solved(inputs.select(solved), None if benchmarks is None else benchmarks[solved])
        return out.index_copy(0, solved, found), judged.verdicts

    def solved(self, inputs: Inputs, benchmarks: Tensor | None) -> Tensor:
        """(B, N) for members that have a solution."""
        if self.risk.beta > 0 and self.risk.alpha == 1.0 and not bool((inputs.probabilities > 0).all()):
            raise ProgramError(
                "the worst case leaves out scenarios of probability zero, which cvxpylayers cannot: drop them"
            )
        num_scenarios = inputs.probabilities.shape[1]
        layers = self._made.__dict__.setdefault("layers", {})
        if num_scenarios not in layers:
            layers[num_scenarios] = extensive_layer(self.program, num_scenarios, self.risk, self.solver)
        return self._call(layers[num_scenarios], self._arguments(inputs, benchmarks)).to(inputs.uncertain)

    def _call(self, layer: Any, arguments: list[Tensor]) -> Tensor:
        solver_args: dict[str, Any] = {}
        if self.solver == "DIFFCP":
            solver_args = {"solve_method": "Clarabel", "n_jobs_forward": 1, **self.options}
            # diffcp hands this one to Clarabel where no gradient is asked for, and Clarabel refuses it.
            if torch.is_grad_enabled() and any(argument.requires_grad for argument in arguments):
                solver_args["n_jobs_backward"] = 1
        found = layer(*arguments, solver_args=solver_args)
        return torch.cat([part.reshape(part.shape[0], -1) for part in found], dim=1)

    def _arguments(self, inputs: Inputs, benchmarks: Tensor | None) -> list[Tensor]:
        """Values in the order of `extensive_layer`'s parameters, (B, *shape) each, float64 on the CPU."""
        program = self.program
        num_contexts, num_scenarios = inputs.probabilities.shape
        uncertain = inputs.uncertain.cpu().double()
        given = inputs.given.cpu().double().expand(num_contexts, -1)
        out = []
        for s in range(num_scenarios):
            parts = torch.split(uncertain[:, s], [p.size for p in program.uncertain], dim=1)
            out += [part.reshape(-1, *p.shape) for part, p in zip(parts, program.uncertain, strict=True)]
        if program.given:
            parts = torch.split(given, [p.size for p in program.given], dim=1)
            out += [part.reshape(-1, *p.shape) for part, p in zip(parts, program.given, strict=True)]
        out.append(inputs.probabilities.cpu().double())
        if self.risk.on_regret and not self.risk.neutral:
            assert benchmarks is not None
            out.append(benchmarks.cpu().double())
        return out


def extensive_layer(program: TwoStageProgram, num_scenarios: int, risk: Risk, solver: str) -> Any:
    """A cvxpylayers layer of the extensive form, from copies of the program's expressions.

    Its parameters, in order: the uncertain ones of each scenario, the given ones, the probabilities, and
    the benchmarks where the measure is on regret. Its variables: the decisions.
    """
    shared = {id(leaf): _copy(leaf) for leaf in (*program.decision, *program.given)}
    costs, constraints, uncertain = [], [c.tree_copy(shared) for c in program.constraints], []
    for _ in range(num_scenarios):
        own = {id(leaf): _copy(leaf) for leaf in (*program.recourse_variables, *program.uncertain)}
        copies = {**shared, **own}
        costs.append(program.recourse_cost.tree_copy(copies))
        constraints += [c.tree_copy(copies) for c in program.recourse_constraints]
        uncertain += [own[id(parameter)] for parameter in program.uncertain]
    total = cp.Variable(num_scenarios)
    constraints += [cost <= total[s] for s, cost in enumerate(costs)]
    probabilities = cp.Parameter(num_scenarios, nonneg=True)
    objective = program.cost.tree_copy(shared)
    parameters = [*uncertain, *(shared[id(p)] for p in program.given), probabilities]
    if risk.neutral:
        objective = objective + probabilities @ total
    else:
        tail: Any = total
        if risk.on_regret:
            benchmarks = cp.Parameter(num_scenarios)
            parameters.append(benchmarks)
            tail = total - benchmarks
        level = cp.Variable()
        objective = objective + (1.0 - risk.beta) * (probabilities @ total) + risk.beta * level
        if risk.alpha == 1.0:
            constraints.append(tail <= level)
        else:
            above = cp.Variable(num_scenarios, nonneg=True)
            constraints.append(above >= tail - level)
            objective = objective + risk.beta / (1.0 - risk.alpha) * (probabilities @ above)
    problem = cp.Problem(cp.Minimize(objective), constraints)
    return CvxpyLayer(problem, parameters, [shared[id(v)] for v in program.decision], solver=solver)


def _copy(leaf: Any) -> Any:
    """A new leaf of the same kind, shape and attributes."""
    attributes = {
        key: value for key, value in leaf.attributes.items() if value is not False and value is not None
    }
    return type(leaf)(leaf.shape, **attributes)


def _bounds(variable: Any) -> tuple[Any, ...]:
    return tuple(variable.attributes["bounds"] or ())


@functools.cache
def check_solver(solver: str) -> str | None:
    """Why cvxpylayers' ``solver`` must not be used; None where it solves the check program as Clarabel does.

    The check program is min_z mean_s(50 (y_s - z)_+ + 0.5 (z - y_s)_+ + 0.5 (z - y_s)^2), y = (1, 2, 4).
    """
    y = np.array([1.0, 2.0, 4.0])
    z, values = cp.Variable(), cp.Parameter(3)
    gap = values - z
    cost = 50 * cp.sum(cp.pos(gap)) + 0.5 * cp.sum(cp.pos(-gap)) + 0.5 * cp.sum_squares(gap)
    problem = cp.Problem(cp.Minimize(cost / 3))
    try:
        (answer,) = CvxpyLayer(problem, [values], [z], solver=solver)(torch.as_tensor(y))
    except ImportError as error:
        return f"solver {solver} of cvxpylayers is not installed: {error}"
    except (RuntimeError, ValueError, cp.SolverError, diffcp.SolverError) as error:
        return f"solver {solver} of cvxpylayers fails on the check program: {error}"
    values.value = y
    problem.solve(solver=cp.CLARABEL)
    found, true = float(answer.detach()), float(z.value)
    if abs(found - true) <= _AGREEMENT:
        return None
    return (
        f"solver {solver} of cvxpylayers answers {found:.4f} on the check program, where Clarabel "
        f"finds {true:.4f}: use DIFFCP"
    )
