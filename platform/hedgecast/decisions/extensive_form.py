"""A program's extensive form for one context, solved by Clarabel as one cone program.

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

from hedgecast.programs.canonical import Cones, FloatArray, IntArray, Stage
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict

_VERDICTS = {
    "Solved": Verdict.OPTIMAL,
    "PrimalInfeasible": Verdict.INFEASIBLE,
    "AlmostPrimalInfeasible": Verdict.INFEASIBLE,
    "DualInfeasible": Verdict.UNBOUNDED,
    "AlmostDualInfeasible": Verdict.UNBOUNDED,
}
TIGHT = 1e-9
# Eigenvalues of a cost's curvature below this share of the largest are rounding of zero.
_FLAT = 1e-12


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
class Numbers:
    """One stage's numbers for every scenario: (S, .) each."""

    P: FloatArray
    q: FloatArray
    d: FloatArray
    A: FloatArray
    b: FloatArray

    @classmethod
    def of(cls, stage: Stage, uncertain: FloatArray, given: FloatArray) -> Numbers:
        """The numbers of ``stage`` for uncertain entries (S, D) and given entries (K,)."""
        maps = (stage.P.values, stage.q, stage.d, stage.A.values, stage.b)
        return cls(*(values(uncertain, given) for values in maps))

    def money(self) -> float:
        """The largest cost coefficient, zero where there is no cost."""
        return float(max(np.abs(self.P).max(initial=0.0), np.abs(self.q).max(initial=0.0)))

    def in_units_of(self, money: float) -> Numbers:
        """The same program with costs divided by ``money``."""
        return dataclasses.replace(self, P=self.P / money, q=self.q / money, d=self.d / money)

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
    plain = Numbers.of(first, uncertain[:1], given), Numbers.of(recourse, uncertain, given)
    # Clarabel's tolerance on the gap is absolute for objectives below one: count in the largest cost.
    money = max(plain[0].money(), plain[1].money()) or 1.0
    one, many = (numbers.in_units_of(money) for numbers in plain)
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
        q, b = _add_risk(recourse, many, columns, probabilities, benchmarks / money, risk, A, q, b, cones)
    size = q.size
    # The truth is solved tighter than it is asked for, and judged by what was asked.
    solution = solve_cones(
        P.matrix((size, size)), q, A.matrix((b.size, size)), b, cones, min(tolerance, TIGHT), max_iterations
    )
    point, dual = np.asarray(solution.x), np.asarray(solution.z)
    return ContextSolution(
        decision=point[: first.num_decision],
        first_cost=float(plain[0].costs(first, point[None, : first.num_columns])[0]),
        recourse_costs=plain[1].costs(recourse, point[columns]),
        verdict=int(verdict_of(solution, tolerance)),
        primal_residual=float(solution.r_prim),
        dual_residual=float(solution.r_dual),
        gap=_gap(solution),
        iterations=int(solution.iterations),
        certificate=dual[scenario_rows] / max(float(np.abs(dual).max(initial=0.0)), 1e-300),
    )


def _gap(solution: Any) -> float:
    return float(abs(solution.obj_val - solution.obj_val_dual) / (1.0 + abs(solution.obj_val)))


def verdict_of(solution: Any, tolerance: float) -> Verdict:
    """The verdict by Clarabel's status, or by its residuals where it stopped short of its own tolerance."""
    found = _VERDICTS.get(str(solution.status), Verdict.NOT_CONVERGED)
    if found is Verdict.NOT_CONVERGED and np.isfinite(solution.obj_val):
        worst = max(float(solution.r_prim), float(solution.r_dual), _gap(solution))
        return Verdict.OPTIMAL if worst <= tolerance else found
    return found


def _add_risk(
    stage: Stage,
    many: Numbers,
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


def solve_cones(
    P: sp.csc_array,
    q: FloatArray,
    A: sp.csc_array,
    b: FloatArray,
    cones: list[Any],
    tolerance: float,
    max_iterations: int,
) -> Any:
    """Clarabel's solution of min 1/2 x'P x + q'x s.t. b - A x in ``cones``, on one thread."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_iter = max_iterations
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    settings.max_threads = 1
    upper = sp.csc_matrix(sp.triu(P))
    return clarabel.DefaultSolver(upper, q, sp.csc_matrix(A), b, cones, settings).solve()
