"""CVXPY's own canonical form of one stage, as numbers that are affine in the parameters.

A stage (the first stage, the known cost alone, or one recourse scenario) is compiled once by CVXPY's
reductions into a parametrized cone program over the columns v = (decision, auxiliary columns):

    min  1/2 v'P v + q'v + d      s.t.  A v + b in K

Every number in P, q, d, A and b is affine in the uncertain entries y (D of them) and the given
entries g (K of them); `AffineMap` holds these maps. Nothing is simplified here: the reference backend
solves these numbers as they are, `presolve` makes the block form out of them.

CVXPY stores matrices column by column (Fortran order); this module is the only place that knows it.
Decision, uncertain and given entries are numbered in declaration and C order everywhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints import NonNeg, Zero
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr, lower_value

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclasses.dataclass(frozen=True, slots=True)
class AffineMap:
    """Numbers that are each affine in the uncertain and the given entries."""

    constant: FloatArray
    """(rows,)."""
    uncertain: sp.csr_array
    """(rows, D)."""
    given: sp.csr_array
    """(rows, K)."""

    def __call__(self, uncertain: FloatArray, given: FloatArray) -> FloatArray:
        """(S, rows) values for uncertain entries (S, D) and given entries (K,)."""
        base = self.constant + self.given @ given
        return np.asarray(base[None, :] + (self.uncertain @ uncertain.T).T)

    @classmethod
    def of_tensor(cls, tensor: sp.csr_array, gather: sp.csr_array, num_uncertain: int) -> AffineMap:
        """A map from CVXPY's tensor (rows, its parameter vector and a constant).

        Parameters
        ----------
        tensor : csr_array
            Rows of CVXPY's map, the constant last.
        gather : csr_array
            (CVXPY's parameter vector, D + K) selection of our entries.
        num_uncertain : int
            D.
        """
        linear = sp.csr_array(tensor[:, :-1] @ gather)
        return cls(
            np.asarray(tensor[:, [-1]].toarray(), dtype=np.float64).ravel(),
            sp.csr_array(linear[:, :num_uncertain]),
            sp.csr_array(linear[:, num_uncertain:]),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class SparseMap:
    """A sparse matrix of one pattern whose values are affine in the parameters."""

    rows: IntArray
    cols: IntArray
    shape: tuple[int, int]
    values: AffineMap


@dataclasses.dataclass(frozen=True, slots=True)
class Cones:
    """Rows of K in CVXPY's order: zero, nonnegative, second order, PSD triangle, exponential, power."""

    zero: int
    nonneg: int
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0
    p3d: tuple[float, ...] = ()
    pnd: tuple[tuple[float, ...], ...] = ()

    @property
    def linear(self) -> bool:
        """Whether K is made of zero and nonnegative rows only."""
        return not (self.soc or self.psd or self.exp or self.p3d or self.pnd)

    def __str__(self) -> str:
        names = {
            "second-order": self.soc,
            "semidefinite": self.psd,
            "exponential": self.exp,
            "power": self.p3d or self.pnd,
        }
        return " and ".join(name for name, present in names.items() if present) or "linear"


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One canonicalized stage; columns 0..N-1 are the decision, the others auxiliary."""

    num_decision: int
    num_columns: int
    cones: Cones
    P: SparseMap
    """Symmetric, both triangles."""
    q: AffineMap
    d: AffineMap
    A: SparseMap
    b: AffineMap
    origin: IntArray
    """(rows,) place of the constraint that a linear row states; -1 for rows that CVXPY or a variable adds."""

    @property
    def num_auxiliary(self) -> int:
        """Columns that are not the decision."""
        return self.num_columns - self.num_decision

    @property
    def num_rows(self) -> int:
        """Rows of A."""
        return self.A.shape[0]


def flat_size(leaves: Sequence[Any]) -> int:
    """Entries of all ``leaves`` together."""
    return int(sum(leaf.size for leaf in leaves))


def compile_stage(
    cost: Any,
    constraints: Sequence[Any],
    decision: Sequence[Any],
    uncertain: Sequence[Any],
    given: Sequence[Any],
) -> Stage:
    """The canonical form of ``min cost s.t. constraints`` with its parameters left open.

    Parameters
    ----------
    cost : cvxpy.Expression or number
        Scalar, convex, DPP.
    constraints : sequence of cvxpy constraints
    decision : sequence of cvxpy.Variable
        Their entries become the first columns, used or not.
    uncertain, given : sequence of cvxpy.Parameter
        Their entries are the arguments of the maps.
    """
    # A symmetric, diagonal or sparse variable reaches the canonical form with fewer columns than it
    # has entries; it gets full columns of its own, tied to the reduced ones by equality rows.
    tied = {v.id: cp.Variable(v.size) for v in decision if v._has_dim_reducing_attr}
    ties = [tied[v.id] == cp.vec(v, order="C") for v in decision if v.id in tied]
    problem = cp.Problem(cp.Minimize(cost), [*constraints, *ties])
    if not problem.variables():
        # CVXPY has another chain for problems without variables.
        problem = cp.Problem(cp.Minimize(cost), [*constraints, cp.Variable(1) == 0])
    data, chain, _ = problem.get_problem_data(cp.CLARABEL)
    program = data["param_prob"]
    attributes = [r for r in chain.reductions if isinstance(r, CvxAttr2Constr)]
    variable_ids = {old: new[0] for r in attributes for old, new in r.var_id_map.items()}
    parameter_ids = {new[0]: old for r in attributes for old, new in r.param_id_map.items()}

    order = _column_order(program, decision, tied, variable_ids)
    num_decision = flat_size(decision)
    num_columns = num_decision + sum(1 for new in order if new >= num_decision)
    gather = _gather(program, [*uncertain, *given], parameter_ids)
    num_uncertain = flat_size(uncertain)
    size = program.x.size

    q_tensor = _csr(program.q)
    placement = sp.csr_array((np.ones(size), (order, np.arange(size))), shape=(num_columns, size))
    A, b = _constraint_maps(program, order, num_columns, gather, num_uncertain)
    return Stage(
        num_decision=num_decision,
        num_columns=num_columns,
        cones=_cones(program.cone_dims),
        P=_quadratic_map(program, order, num_columns, gather, num_uncertain),
        q=AffineMap.of_tensor(sp.csr_array(placement @ q_tensor[:size]), gather, num_uncertain),
        d=AffineMap.of_tensor(sp.csr_array(q_tensor[[size]]), gather, num_uncertain),
        A=A,
        b=b,
        origin=_origins(program, constraints),
    )


def _origins(program: Any, constraints: Sequence[Any]) -> IntArray:
    # CVXPY's reductions keep a constraint's number; what they add gets a new one. Linear rows come first.
    place = {constraint.id: i for i, constraint in enumerate(constraints)}
    origin = np.full(program.constr_size, -1, dtype=np.int64)
    start = 0
    for row in program.constraints:
        if not isinstance(row, Zero | NonNeg):
            break
        origin[start : start + row.size] = place.get(row.id, -1)
        start += row.size
    return origin


def _column_order(
    program: Any, decision: Sequence[Any], tied: dict[int, Any], variable_ids: dict[int, int]
) -> IntArray:
    """New position of each of CVXPY's columns: decision entries in C order, then the rest."""
    order = np.full(program.x.size, -1, dtype=np.int64)
    offset = 0
    for variable in decision:
        column_id = (
            tied[variable.id].id if variable.id in tied else variable_ids.get(variable.id, variable.id)
        )
        start = program.var_id_to_col.get(column_id)
        if start is not None:
            entries = np.arange(variable.size)
            if variable.id not in tied:
                entries = entries.reshape(variable.shape).flatten(order="F")
            order[start : start + variable.size] = offset + entries
        offset += variable.size
    rest = order < 0
    order[rest] = offset + np.arange(int(rest.sum()))
    return order


def _gather(program: Any, parameters: Sequence[Any], parameter_ids: dict[int, int]) -> sp.csr_array:
    """(CVXPY's parameter vector, our entries) selection matrix."""
    offsets = np.cumsum([0, *(parameter.size for parameter in parameters)])
    start_of = {parameter.id: int(start) for parameter, start in zip(parameters, offsets, strict=False)}
    by_id = {parameter.id: parameter for parameter in parameters}
    rows, cols = [], []
    for inner in program.parameters:
        user_id = parameter_ids.get(inner.id, inner.id)
        user = by_id[user_id]
        entries = np.arange(user.size).reshape(user.shape)
        if user._has_dim_reducing_attr:
            entries = np.asarray(lower_value(user, entries))
        entries = entries.flatten(order="F")
        rows.append(program.param_id_to_col[inner.id] + np.arange(entries.size))
        cols.append(start_of[user_id] + entries)
    shape = (program.total_param_size, int(offsets[-1]))
    if not rows:
        return sp.csr_array(shape)
    row, col = np.concatenate(rows), np.concatenate(cols)
    return sp.csr_array((np.ones(row.size), (row, col)), shape=shape)


def _csr(tensor: Any) -> sp.csr_array:
    return sp.csr_array(tensor)


def _constraint_maps(
    program: Any, order: IntArray, num_columns: int, gather: sp.csr_array, num_uncertain: int
) -> tuple[SparseMap, AffineMap]:
    num_rows, size = program.constr_size, program.x.size
    tensor = _csr(program.A)
    pattern = np.flatnonzero(np.diff(tensor[: num_rows * size].indptr))
    rows, cols = pattern % max(num_rows, 1), order[pattern // max(num_rows, 1)]
    sequence = np.lexsort((cols, rows))
    values = AffineMap.of_tensor(sp.csr_array(tensor[pattern[sequence]]), gather, num_uncertain)
    matrix = SparseMap(rows[sequence], cols[sequence], (num_rows, num_columns), values)
    offset = AffineMap.of_tensor(sp.csr_array(tensor[num_rows * size :]), gather, num_uncertain)
    return matrix, offset


def _quadratic_map(
    program: Any, order: IntArray, num_columns: int, gather: sp.csr_array, num_uncertain: int
) -> SparseMap:
    size = program.x.size
    shape = (num_columns, num_columns)
    if program.P is None:
        empty = sp.csr_array((0, program.total_param_size + 1))
        none = np.zeros(0, dtype=np.int64)
        return SparseMap(none, none, shape, AffineMap.of_tensor(empty, gather, num_uncertain))
    tensor = sp.coo_array(_csr(program.P))
    # 1/2 v'P v sees only the symmetric part.
    row, col = order[tensor.row % size], order[tensor.row // size]
    keys = np.concatenate([row * num_columns + col, col * num_columns + row])
    unique, position = np.unique(keys, return_inverse=True)
    doubled = sp.csr_array(
        (
            np.concatenate([tensor.data, tensor.data]) / 2.0,
            (position, np.concatenate([tensor.col, tensor.col])),
        ),
        shape=(unique.size, tensor.shape[1]),
    )
    values = AffineMap.of_tensor(doubled, gather, num_uncertain)
    return SparseMap(unique // num_columns, unique % num_columns, shape, values)


def _cones(dims: Any) -> Cones:
    return Cones(
        zero=int(dims.zero),
        nonneg=int(dims.nonneg),
        soc=tuple(int(size) for size in dims.soc),
        psd=tuple(int(size) for size in dims.psd),
        exp=int(dims.exp),
        p3d=tuple(float(power) for power in dims.p3d),
        pnd=tuple(tuple(float(a) for a in powers) for powers in dims.pnd),
    )


def without_decision_rows(stage: Stage) -> Stage:
    """``stage`` without the linear rows that hold the decision alone and that no scenario changes.

    Such rows come from the decision variables' own attributes (sign, bounds) and stand in the first
    stage already; a decision that misses them by rounding must still have a cost.
    """
    linear = stage.cones.zero + stage.cones.nonneg
    own = np.zeros(stage.num_rows, dtype=bool)
    own[stage.A.rows] = True
    own[stage.A.rows[stage.A.cols >= stage.num_decision]] = False
    changing = np.diff(stage.A.values.uncertain.indptr) > 0
    own[stage.A.rows[changing]] = False
    own &= np.diff(stage.b.uncertain.indptr) == 0
    own[linear:] = False
    kept = np.flatnonzero(~own)
    number = np.cumsum(~own) - 1
    entries = np.flatnonzero(~own[stage.A.rows])
    zero = int((~own[: stage.cones.zero]).sum())
    nonneg = int((~own[stage.cones.zero : linear]).sum())
    matrix = SparseMap(
        number[stage.A.rows[entries]],
        stage.A.cols[entries],
        (kept.size, stage.num_columns),
        _picked(stage.A.values, entries),
    )
    return dataclasses.replace(
        stage,
        A=matrix,
        b=_picked(stage.b, kept),
        origin=stage.origin[kept],
        cones=dataclasses.replace(stage.cones, zero=zero, nonneg=nonneg),
    )


def feasibility_of(stage: Stage) -> Stage:
    """``stage`` without its cost, and with the decision among its free columns."""

    def nothing(values: AffineMap) -> AffineMap:
        rows = values.constant.size
        return AffineMap(
            np.zeros(rows),
            sp.csr_array((rows, values.uncertain.shape[1])),
            sp.csr_array((rows, values.given.shape[1])),
        )

    return dataclasses.replace(
        stage,
        num_decision=0,
        P=dataclasses.replace(stage.P, values=nothing(stage.P.values)),
        q=nothing(stage.q),
        d=nothing(stage.d),
    )


def _picked(values: AffineMap, rows: IntArray) -> AffineMap:
    return AffineMap(
        values.constant[rows], sp.csr_array(values.uncertain[rows]), sp.csr_array(values.given[rows])
    )
