"""Which constraints stand against each other where a program has no decision, or a scenario no recourse.

The linear rows A v + b in K of the canonical form, each scaled to a largest coefficient of one, are relaxed:

    min  sum_i t_i + u_i    s.t.  a_i'v + b_i + t_i - u_i  = 0    (zero rows)
                                  a_i'v + b_i + t_i       >= 0    (nonnegative rows),    t, u >= 0

Where the optimum is above zero its multipliers are a Farkas proof, and the constraints whose rows have one
cannot all hold. Rows of other cones are left out: what is named is a conflict all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from hedgecast.programs.canonical import FloatArray, Stage
from hedgecast.programs.checks import show

# Violations below this, in scaled rows, are rounding.
_VIOLATION = 1e-7
# Multipliers are at most one in scaled rows; smaller ones are rounding.
_MULTIPLIER = 1e-6
_MOST_NAMED = 4


class Diagnosis:
    """Names conflicting constraints of one program.

    Parameters
    ----------
    first, recourse : Stage
        Without cost or with it; only their rows matter.
    first_constraints, recourse_constraints : sequence of cvxpy constraints
        What each stage was compiled from.
    """

    def __init__(
        self,
        first: Stage,
        first_constraints: Sequence[Any],
        recourse: Stage,
        recourse_constraints: Sequence[Any],
    ) -> None:
        self._stages = ((first, tuple(first_constraints)), (recourse, tuple(recourse_constraints)))

    def first_stage(self, given: FloatArray) -> tuple[str, ...]:
        """Constraints on the decision alone that cannot all hold; empty where they can.

        Parameters
        ----------
        given : ndarray
            (K,).
        """
        first = self._stages[0][0]
        return self._conflict(1, np.zeros(first.b.uncertain.shape[1]), given)

    def scenario(self, uncertain: FloatArray, given: FloatArray) -> tuple[str, ...]:
        """Constraints of both stages that cannot all hold in one scenario; empty where they can.

        Parameters
        ----------
        uncertain, given : ndarray
            (D,) and (K,).
        """
        return self._conflict(2, uncertain, given)

    def recourse(self, decision: FloatArray, uncertain: FloatArray, given: FloatArray) -> tuple[str, ...]:
        """Recourse constraints that cannot all hold in one scenario under a fixed decision.

        Parameters
        ----------
        decision, uncertain, given : ndarray
            (N,), (D,) and (K,).
        """
        stage, constraints = self._stages[1]
        count = stage.cones.zero + stage.cones.nonneg
        entries = (stage.A.values(uncertain[None], given)[0], (stage.A.rows, stage.A.cols))
        rows = sp.csc_array(entries, shape=(stage.num_rows, stage.num_columns))[:count]
        offset = stage.b(uncertain[None], given)[0, :count] + rows[:, : len(decision)] @ decision
        names = [show(constraints[origin]) if origin >= 0 else "" for origin in stage.origin[:count]]
        return _named(
            sp.csr_array(rows[:, len(decision) :]), offset, np.arange(count) < stage.cones.zero, names
        )

    def _conflict(self, num_stages: int, uncertain: FloatArray, given: FloatArray) -> tuple[str, ...]:
        stages = self._stages[:num_stages]
        num_decision = stages[0][0].num_decision
        width = num_decision + sum(stage.num_auxiliary for stage, _ in stages)
        matrices, offsets, equal, names = [], [], [], []
        start = num_decision
        for stage, constraints in stages:
            count = stage.cones.zero + stage.cones.nonneg
            columns = np.arange(stage.num_columns)
            columns[num_decision:] += start - num_decision
            start += stage.num_auxiliary
            values = stage.A.values(uncertain[None], given)[0]
            entries = (values, (stage.A.rows, columns[stage.A.cols]))
            matrices.append(sp.csr_array(entries, shape=(stage.num_rows, width))[:count])
            offsets.append(stage.b(uncertain[None], given)[0, :count])
            equal.append(np.arange(count) < stage.cones.zero)
            names += [show(constraints[origin]) if origin >= 0 else "" for origin in stage.origin[:count]]
        return _named(
            sp.csr_array(sp.vstack(matrices)), np.concatenate(offsets), np.concatenate(equal), names
        )


def _named(
    matrix: sp.csr_array, offset: FloatArray, equal: np.ndarray, names: Sequence[str]
) -> tuple[str, ...]:
    """The names of rows that cannot all hold."""
    multipliers = _farkas(matrix, offset, equal)
    found = [names[row] for row in np.flatnonzero(np.abs(multipliers) > _MULTIPLIER).tolist() if names[row]]
    return tuple(dict.fromkeys(found))[:_MOST_NAMED]


def _farkas(matrix: sp.csr_array, offset: FloatArray, equal: np.ndarray) -> FloatArray:
    """(rows,) multipliers that prove that the rows cannot all hold; zero where they can."""
    largest = abs(matrix).max(axis=1).toarray().ravel()
    scale = np.where(largest > 0, 1.0 / np.where(largest > 0, largest, 1.0), 1.0)
    matrix, offset = sp.csr_array(sp.diags_array(scale) @ matrix), scale * offset
    count, width = matrix.shape
    over, under = sp.identity(count, format="csr"), sp.csr_array((count, count))
    equalities = sp.csr_array(sp.hstack([matrix, over, -over]))
    inequalities = sp.csr_array(sp.hstack([-matrix, -over, under]))
    bounds: list[tuple[float | None, float | None]] = [(None, None)] * width + [(0.0, None)] * (2 * count)
    # SciPy takes sparse matrices here; its types do not say so.
    system: dict[str, Any] = {
        "A_eq": equalities[equal],
        "b_eq": -offset[equal],
        "A_ub": inequalities[~equal],
        "b_ub": offset[~equal],
    }
    found = linprog(np.repeat([0.0, 1.0], [width, 2 * count]), **system, bounds=bounds, method="highs")
    multipliers = np.zeros(count)
    if found.status == 0 and found.fun > _VIOLATION * (1.0 + np.abs(offset).max(initial=0.0)):
        multipliers[equal], multipliers[~equal] = found.eqlin.marginals, found.ineqlin.marginals
    return multipliers
