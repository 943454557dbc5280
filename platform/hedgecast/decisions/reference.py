"""The truth: every program's extensive form, solved by Clarabel as one cone program per context.

Works on CVXPY's canonical stages as they are, without presolve and without the block form, so that it
can judge both. Any cone that CVXPY's DPP form knows is allowed. Solves one context at a time on the
CPU in float64 and has no gradient in the decision.

With v_s = (x, w_s) and c_s = 1/2 v_s'P_s v_s + q_s'v_s + d_s, the extensive form is

    min  f(x) + (1 - beta) sum_s p_s c_s + beta (eta + 1/(1 - alpha) sum_s p_s t_s)
    s.t. first-stage rows,  A_s v_s + b_s in K  for all s,
         t_s >= c_s - benchmark_s - eta,  t_s >= 0     for scenarios of positive probability

where a quadratic c_s enters through r_s >= 1/2 |F_s v_s|^2, P_s = F_s'F_s, as a second-order cone.

Source: Rockafellar and Uryasev (2000), https://doi.org/10.21314/JOR.2000.038 (the risk rows).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import clarabel
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from hedgecast.core.errors import ProgramError
from hedgecast.programs.backend import Inputs, RawSolution, StageValue
from hedgecast.programs.canonical import Cones, FloatArray, IntArray, Stage
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict
from hedgecast.programs.stages import CompiledStage

_VERDICTS = {
    "Solved": Verdict.OPTIMAL,
    "PrimalInfeasible": Verdict.INFEASIBLE,
    "AlmostPrimalInfeasible": Verdict.INFEASIBLE,
    "DualInfeasible": Verdict.UNBOUNDED,
    "AlmostDualInfeasible": Verdict.UNBOUNDED,
}
_TIGHT = 1e-9
# Eigenvalues of a cost's curvature below this share of the largest are rounding of zero.
_FLAT = 1e-12


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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ContextSolution:
    """The solution of one context."""

    decision: FloatArray
    first_cost: float
    recourse_costs: FloatArray
    verdict: int
    primal_residual: float
    dual_residual: float
    gap: float
    iterations: int
    certificate: FloatArray
    """(S, rows of the recourse stage): conic multipliers; Farkas multipliers when infeasible."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Layout:
    """Where columns and rows of the stages stand in the extensive form."""

    first: Stage
    recourse: Stage
    num_scenarios: int

    @property
    def num_columns(self) -> int:
        return self.first.num_columns + self.num_scenarios * self.recourse.num_auxiliary

    @property
    def num_rows(self) -> int:
        return self.first.num_rows + self.num_scenarios * self.recourse.num_rows

    def scenario_columns(self) -> IntArray:
        """(S, columns of the recourse stage)."""
        stage, N = self.recourse, self.recourse.num_decision
        own = (
            np.arange(stage.num_auxiliary)[None, :]
            + stage.num_auxiliary * np.arange(self.num_scenarios)[:, None]
        )
        shared = np.broadcast_to(np.arange(N), (self.num_scenarios, N))
        return np.concatenate([shared, self.first.num_columns + own], axis=1)

    def rows(self) -> tuple[IntArray, IntArray]:
        """First-stage rows, and (S, rows of the recourse stage): zero, nonnegative, then other cones."""
        first, many = np.zeros(self.first.num_rows, np.int64), []
        scenarios = np.arange(self.num_scenarios)[:, None]
        start = 0
        for (a, b), (c, d) in zip(_groups(self.first), _groups(self.recourse), strict=True):
            first[a:b] = start + np.arange(b - a)
            start += b - a
            many.append(start + (d - c) * scenarios + np.arange(d - c)[None, :])
            start += (d - c) * self.num_scenarios
        return first, np.concatenate(many, axis=1)

    def cones(self) -> list[Any]:
        first, many = self.first.cones, self.recourse.cones
        zero = first.zero + self.num_scenarios * many.zero
        nonneg = first.nonneg + self.num_scenarios * many.nonneg
        found = [clarabel.ZeroConeT(zero)] if zero else []
        found += [clarabel.NonnegativeConeT(nonneg)] if nonneg else []
        return found + other_cones(first) + other_cones(many) * self.num_scenarios


def other_cones(cones: Cones) -> list[Any]:
    """Clarabel's cones for the rows that are neither zero nor nonnegative, in CVXPY's order."""
    return [
        *(clarabel.SecondOrderConeT(size) for size in cones.soc),
        *(clarabel.PSDTriangleConeT(size) for size in cones.psd),
        *(clarabel.ExponentialConeT() for _ in range(cones.exp)),
        *(clarabel.PowerConeT(power) for power in cones.p3d),
        *(clarabel.GenPowerConeT(list(powers), 1) for powers in cones.pnd),
    ]


def _groups(stage: Stage) -> list[tuple[int, int]]:
    zero, nonneg = stage.cones.zero, stage.cones.zero + stage.cones.nonneg
    return [(0, zero), (zero, nonneg), (nonneg, stage.num_rows)]


@dataclasses.dataclass(frozen=True, slots=True)
class _Numbers:
    """One stage's numbers for every scenario: (S, .) each."""

    P: FloatArray
    q: FloatArray
    d: FloatArray
    A: FloatArray
    b: FloatArray

    @classmethod
    def of(cls, stage: Stage, uncertain: FloatArray, given: FloatArray) -> _Numbers:
        maps = (stage.P.values, stage.q, stage.d, stage.A.values, stage.b)
        return cls(*(values(uncertain, given) for values in maps))

    def costs(self, stage: Stage, columns: FloatArray) -> FloatArray:
        """(S,) costs at columns (S, stage columns)."""
        bent = (self.P * columns[:, stage.P.rows] * columns[:, stage.P.cols]).sum(axis=1)
        return np.asarray(0.5 * bent + (self.q * columns).sum(axis=1) + self.d[:, 0])


class _Triplets:
    """Coordinates of a growing sparse matrix."""

    def __init__(self) -> None:
        self.rows: list[IntArray] = []
        self.cols: list[IntArray] = []
        self.data: list[FloatArray] = []

    def add(self, rows: Any, cols: Any, data: Any) -> None:
        rows, cols, data = np.broadcast_arrays(rows, cols, data)
        self.rows.append(rows.ravel())
        self.cols.append(cols.ravel())
        self.data.append(data.ravel())

    def matrix(self, shape: tuple[int, int]) -> sp.csc_array:
        if not self.rows:
            return sp.csc_array(shape)
        where = (np.concatenate(self.rows), np.concatenate(self.cols))
        return sp.csc_array(sp.coo_array((np.concatenate(self.data), where), shape=shape))


def solve_context(
    first: Stage,
    recourse: Stage,
    uncertain: FloatArray,
    probabilities: FloatArray,
    given: FloatArray,
    *,
    risk: Risk,
    benchmarks: FloatArray,
    tolerance: float,
    max_iterations: int,
) -> ContextSolution:
    """The solution of one context's extensive form.

    Parameters
    ----------
    first, recourse : Stage
    uncertain : ndarray
        (S, D).
    probabilities, benchmarks : ndarray
        (S,).
    given : ndarray
        (K,).
    risk : Risk
    tolerance : float
        Clarabel's feasibility and gap tolerance.
    max_iterations : int
    """
    layout = _Layout(first, recourse, uncertain.shape[0])
    one, many = _Numbers.of(first, uncertain[:1], given), _Numbers.of(recourse, uncertain, given)
    first_rows, scenario_rows = layout.rows()
    columns = layout.scenario_columns()
    mean_weight = probabilities * (1.0 if risk.neutral else 1.0 - risk.beta)

    P, A = _Triplets(), _Triplets()
    P.add(first.P.rows, first.P.cols, one.P[0])
    P.add(columns[:, recourse.P.rows], columns[:, recourse.P.cols], mean_weight[:, None] * many.P)
    A.add(first_rows[first.A.rows], first.A.cols, -one.A[0])
    A.add(scenario_rows[:, recourse.A.rows], columns[:, recourse.A.cols], -many.A)
    b = np.zeros(layout.num_rows)
    b[first_rows], b[scenario_rows] = one.b[0], many.b
    q = np.zeros(layout.num_columns)
    q[: first.num_columns] = one.q[0]
    np.add.at(q, columns, mean_weight[:, None] * many.q)
    cones = layout.cones()
    if not risk.neutral:
        q, b = _add_risk(recourse, many, columns, probabilities, benchmarks, risk, A, q, b, cones)
    size = q.size
    # The truth is solved tighter than it is asked for, and judged by what was asked.
    solution = _clarabel(
        P.matrix((size, size)), q, A.matrix((b.size, size)), b, cones, min(tolerance, _TIGHT), max_iterations
    )
    point, dual = np.asarray(solution.x), np.asarray(solution.z)
    return ContextSolution(
        decision=point[: first.num_decision],
        first_cost=float(one.costs(first, point[None, : first.num_columns])[0]),
        recourse_costs=many.costs(recourse, point[columns]),
        verdict=int(_verdict(solution, tolerance)),
        primal_residual=float(solution.r_prim),
        dual_residual=float(solution.r_dual),
        gap=_gap(solution),
        iterations=int(solution.iterations),
        certificate=dual[scenario_rows] / max(float(np.abs(dual).max(initial=0.0)), 1e-300),
    )


def _gap(solution: Any) -> float:
    return float(abs(solution.obj_val - solution.obj_val_dual) / (1.0 + abs(solution.obj_val)))


def _verdict(solution: Any, tolerance: float) -> Verdict:
    """The verdict by Clarabel's status, or by its residuals where it stopped short of its own tolerance."""
    found = _VERDICTS.get(str(solution.status), Verdict.NOT_CONVERGED)
    if found is Verdict.NOT_CONVERGED and np.isfinite(solution.obj_val):
        worst = max(float(solution.r_prim), float(solution.r_dual), _gap(solution))
        return Verdict.OPTIMAL if worst <= tolerance else found
    return found


def _add_risk(
    stage: Stage,
    many: _Numbers,
    columns: IntArray,
    probabilities: FloatArray,
    benchmarks: FloatArray,
    risk: Risk,
    A: _Triplets,
    q: FloatArray,
    b: FloatArray,
    cones: list[Any],
) -> tuple[FloatArray, FloatArray]:
    """Add eta, t_s, r_s and their rows; the longer q and b."""
    tail = np.flatnonzero(probabilities > 0)
    count, eta, row = tail.size, q.size, b.size
    worst = risk.alpha == 1.0
    curved = stage.P.rows.size > 0
    num_t, num_r = (0 if worst else count), (count if curved else 0)
    t, r = eta + 1 + np.arange(num_t), eta + 1 + num_t + np.arange(num_r)
    q = np.concatenate([q, [risk.beta], np.zeros(num_t + num_r)])
    if not worst:
        q[t] = risk.beta * probabilities[tail] / (1.0 - risk.alpha)
    # eta + t_s - (q's'v + d_s + r_s) + benchmark_s >= 0, then t_s >= 0.
    rows = row + np.arange(count)
    A.add(rows, eta, -1.0)
    A.add(rows[:, None], columns[tail], many.q[tail])
    if curved:
        A.add(rows, r, 1.0)
    if not worst:
        A.add(rows, t, -1.0)
        A.add(row + count + np.arange(num_t), t, -1.0)
    b = np.concatenate([b, benchmarks[tail] - many.d[tail, 0], np.zeros(num_t)])
    cones.append(clarabel.NonnegativeConeT(count + num_t))
    if curved:
        b = _add_curvature(stage, many.P[tail], columns[tail], r, A, b, cones)
    return q, b


def _add_curvature(
    stage: Stage,
    values: FloatArray,
    columns: IntArray,
    r: IntArray,
    A: _Triplets,
    b: FloatArray,
    cones: list[Any],
) -> FloatArray:
    """Add |(F v, r - 1/2)| <= r + 1/2, which is r >= 1/2 |F v|^2, for every scenario."""
    parts = [b]
    row = b.size
    factor, before = np.zeros((0, 0)), None
    for s in range(r.size):
        if before is None or not np.array_equal(values[s], before):
            factor, before = _root(stage, values[s]), values[s]
        height = factor.shape[0]
        A.add(row, r[s], -1.0)
        A.add(row + 1 + np.arange(height)[:, None], columns[s][None, :], -factor)
        A.add(row + 1 + height, r[s], -1.0)
        parts.append(np.concatenate([[0.5], np.zeros(height), [-0.5]]))
        cones.append(clarabel.SecondOrderConeT(height + 2))
        row += height + 2
    return np.concatenate(parts)


def _root(stage: Stage, values: FloatArray) -> FloatArray:
    """F with P = F'F, without its zero rows."""
    support = np.unique(stage.P.rows)
    position = np.zeros(stage.num_columns, np.int64)
    position[support] = np.arange(support.size)
    dense = np.zeros((support.size, support.size))
    dense[position[stage.P.rows], position[stage.P.cols]] = values
    eigenvalues, vectors = np.linalg.eigh(dense)
    kept = eigenvalues > _FLAT * max(float(eigenvalues.max(initial=0.0)), 1e-300)
    root = np.zeros((int(kept.sum()), stage.num_columns))
    root[:, support] = (vectors[:, kept] * np.sqrt(eigenvalues[kept])).T
    return root


def _clarabel(
    P: sp.csc_array,
    q: FloatArray,
    A: sp.csc_array,
    b: FloatArray,
    cones: list[Any],
    tolerance: float,
    max_iterations: int,
) -> Any:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_iter = max_iterations
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    settings.max_threads = 1
    upper = sp.csc_matrix(sp.triu(P))
    return clarabel.DefaultSolver(upper, q, sp.csc_matrix(A), b, cones, settings).solve()


def _solve_fixed(
    P: sp.csc_array, q: FloatArray, A: sp.csc_array, b: FloatArray, cones: list[Any], tolerance: float
) -> Any:
    if not q.size:
        # Clarabel needs a column: one that nothing concerns.
        P, q, A = sp.csc_array(np.ones((1, 1))), np.zeros(1), sp.csc_array((b.size, 1))
    return _clarabel(P, q, -A, b, cones, tolerance, 200)


def _evaluate(stage: Stage, arrays: list[FloatArray], tolerance: float) -> Any:
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
    numbers = _Numbers.of(stage, uncertain[None, :], given)
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
        solution = _solve_fixed(P[N:, N:], slope[N:], A[:, N:], offset, cones, min(tolerance, _TIGHT))
        verdict = _verdict(solution, tolerance)
        if verdict is not Verdict.OPTIMAL:
            failed = {Verdict.INFEASIBLE: np.inf, Verdict.UNBOUNDED: -np.inf}.get(verdict, np.nan)
            return failed, (np.full(N, np.nan), np.full(uncertain.size, np.nan), np.full(given.size, np.nan))
        point[N:], dual = np.asarray(solution.x)[: size - N], np.asarray(solution.z)
    cost = float(numbers.costs(stage, point[None, :])[0])
    # L = 1/2 v'P v + q'v + d - z'(A v + b): its partial slopes are those of the optimal cost.
    by_decision = (P @ point + numbers.q[0] - A.T @ dual)[:N]
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
