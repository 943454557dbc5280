"""The truth: every program's extensive form, solved by Clarabel as one cone program per context.

Works on CVXPY's canonical stages as they are, without presolve and without the block form, so that it
can judge both. Any cone that CVXPY's DPP form knows is allowed. Solves one context at a time on the
CPU in float64 and has no gradient in the decision; `hedgecast.decisions.extensive_form` has the formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import clarabel
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from hedgecast.core.errors import ProgramError
from hedgecast.decisions.extensive_form import (
    TIGHT,
    Numbers,
    other_cones,
    solve_cones,
    solve_context,
    verdict_of,
)
from hedgecast.programs.backend import MAX_ITERATIONS, Inputs, RawSolution, StageValue
from hedgecast.programs.canonical import FloatArray, Stage
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict
from hedgecast.programs.stages import CompiledStage


class ReferenceBackend:
    """CVXPY's canonical form, solved by Clarabel; see the module's formula."""

    name = "reference"

    def refusal(self, program: TwoStageProgram, risk: Risk) -> str | None:  # noqa: ARG002
        """None: every program and every measure is accepted."""
        return None

    def layer(
        self,
        program: TwoStageProgram,  # noqa: ARG002
        *,
        risk: Risk,  # noqa: ARG002
        smoothing: float,  # noqa: ARG002
        tolerance: float | None,  # noqa: ARG002
    ) -> nn.Module:
        """Nothing: this backend has no gradients.

        Raises
        ------
        ProgramError
            Always.
        """
        raise ProgramError("backend 'reference' has no gradients: use 'structured' or 'cvxpylayers'")

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
        """The best decisions, one context after the other; see `hedgecast.programs.backend`."""
        uncertain, probabilities, given = (
            tensor.detach().cpu().double().numpy()
            for tensor in (inputs.uncertain, inputs.probabilities, inputs.given)
        )
        bounds = (
            np.zeros_like(probabilities) if benchmarks is None else benchmarks.detach().cpu().double().numpy()
        )
        members = [
            solve_context(
                program.first,
                program.recourse.stage,
                uncertain[b],
                probabilities[b],
                given[min(b, given.shape[0] - 1)],
                risk=risk,
                benchmarks=bounds[b],
                tolerance=tolerance,
                max_iterations=max_iterations,
            )
            for b in range(uncertain.shape[0])
        ]
        like = inputs.uncertain

        def stack(name: str) -> Tensor:
            return torch.as_tensor(np.stack([getattr(m, name) for m in members])).to(like.device)

        return RawSolution(
            flat=stack("decision").to(like.dtype),
            first_cost=stack("first_cost").to(like.dtype),
            recourse_costs=stack("recourse_costs").to(like.dtype),
            verdicts=stack("verdict"),
            primal_residual=stack("primal_residual").to(like.dtype),
            dual_residual=stack("dual_residual").to(like.dtype),
            gap=stack("gap").to(like.dtype),
            iterations=stack("iterations"),
            certificate=stack("certificate").to(like.dtype),
        )

    def evaluate(
        self, compiled: CompiledStage, decision: Tensor, uncertain: Tensor, given: Tensor, *, tolerance: float
    ) -> StageValue:
        """Optimal cost of one stage for fixed decisions; see `hedgecast.programs.backend`."""
        arrays = [tensor.detach().cpu().double().numpy() for tensor in (decision, uncertain, given)]
        parts = [
            np.concatenate(part) for part in zip(*_evaluate(compiled.stage, arrays, tolerance), strict=True)
        ]
        cost, *slopes = (torch.as_tensor(part).to(decision) for part in parts)
        return StageValue(
            cost=cost[:, 0], slope_decision=slopes[0], slope_uncertain=slopes[1], slope_given=slopes[2]
        )


def _solve_fixed(
    P: sp.csc_array, q: FloatArray, A: sp.csc_array, b: FloatArray, cones: list[Any], tolerance: float
) -> Any:
    if not q.size:
        # Clarabel needs a column: one that nothing concerns.
        P, q, A = sp.csc_array(np.ones((1, 1))), np.zeros(1), sp.csc_array((b.size, 1))
    return solve_cones(P, q, -A, b, cones, tolerance, MAX_ITERATIONS)


def _evaluate(stage: Stage, arrays: list[FloatArray], tolerance: float) -> Iterator[list[FloatArray]]:
    """(cost, slopes in decision, uncertain and given), one row a case."""
    decision, uncertain, given = arrays
    for case in range(decision.shape[0]):
        y, g = uncertain[min(case, uncertain.shape[0] - 1)], given[min(case, given.shape[0] - 1)]
        cost, slopes = evaluate_case(stage, decision[case], y, g, tolerance)
        yield [np.array([[cost]]), *(slope[None, :] for slope in slopes)]


def evaluate_case(
    stage: Stage, decision: FloatArray, uncertain: FloatArray, given: FloatArray, tolerance: float
) -> tuple[float, tuple[FloatArray, FloatArray, FloatArray]]:
    """Optimal cost of ``stage`` at a fixed decision, and its slopes by the envelope theorem.

    Parameters
    ----------
    stage : Stage
    decision, uncertain, given : ndarray
        (N,), (D,), (K,).
    tolerance : float
    """
    plain = Numbers.of(stage, uncertain[None, :], given)
    money = plain.money() or 1.0
    numbers = plain.in_units_of(money)
    N, size = stage.num_decision, stage.num_columns
    P = sp.csc_array((numbers.P[0], (stage.P.rows, stage.P.cols)), shape=(size, size))
    A = sp.csc_array((numbers.A[0], (stage.A.rows, stage.A.cols)), shape=stage.A.shape)
    point = np.zeros(size)
    point[:N] = decision
    offset = numbers.b[0] + A[:, :N] @ decision
    slope = numbers.q[0] + P[:, :N] @ decision
    groups = stage.cones
    cones = [clarabel.ZeroConeT(groups.zero)] if groups.zero else []
    cones += [clarabel.NonnegativeConeT(groups.nonneg)] if groups.nonneg else []
    cones += other_cones(groups)
    dual = np.zeros(stage.num_rows)
    if size > N or stage.num_rows:
        solution = _solve_fixed(P[N:, N:], slope[N:], A[:, N:], offset, cones, min(tolerance, TIGHT))
        verdict = verdict_of(solution, tolerance)
        if verdict is not Verdict.OPTIMAL:
            failed = {Verdict.INFEASIBLE: np.inf, Verdict.UNBOUNDED: -np.inf}.get(verdict, np.nan)
            return failed, (np.full(N, np.nan), np.full(uncertain.size, np.nan), np.full(given.size, np.nan))
        point[N:], dual = np.asarray(solution.x)[: size - N], np.asarray(solution.z)
    cost = float(plain.costs(stage, point[None, :])[0])
    dual *= money
    # L = 1/2 v'P v + q'v + d - z'(A v + b): its partial slopes are those of the optimal cost.
    by_decision = (money * (P @ point) + plain.q[0] - A.T @ dual)[:N]
    curvature = 0.5 * point[stage.P.rows] * point[stage.P.cols]
    coupling = -dual[stage.A.rows] * point[stage.A.cols]
    weighted = (
        (stage.P.values, curvature),
        (stage.q, point),
        (stage.d, np.ones(1)),
        (stage.A.values, coupling),
        (stage.b, -dual),
    )
    by_uncertain = np.sum([values.uncertain.T @ weight for values, weight in weighted], axis=0)
    by_given = np.sum([values.given.T @ weight for values, weight in weighted], axis=0)
    return cost, (by_decision, by_uncertain, by_given)
