"""How far a decision breaks what binds it, measured on CVXPY's own constraints."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np

from hedgecast.programs.checks import show


class FirstStageCheck:
    """Violations of first-stage constraints, for numbers.

    Works on private copies of the program's leaves behind a lock: CVXPY keeps values on the leaves
    themselves, and those of the program belong to the user.

    Parameters
    ----------
    decision, given : sequence of cvxpy leaves
    constraints : sequence of cvxpy constraints
        On these leaves only.
    """

    def __init__(self, decision: Sequence[Any], given: Sequence[Any], constraints: Sequence[Any]) -> None:
        self._variables = [cp.Variable(leaf.shape) for leaf in decision]
        self._parameters = [cp.Parameter(leaf.shape, **_declared(leaf)) for leaf in given]
        copies = {
            id(leaf): copy
            for leaf, copy in zip([*decision, *given], [*self._variables, *self._parameters], strict=True)
        }
        own = [constraint for leaf in decision for constraint in _attribute_constraints(leaf)]
        self._constraints = [constraint.tree_copy(copies) for constraint in [*constraints, *own]]
        self._names = [show(constraint) for constraint in [*constraints, *own]]
        self._lock = threading.Lock()

    def __call__(self, decision: np.ndarray, given: np.ndarray) -> np.ndarray:
        """(B,) largest violation of decisions (B, N), for given entries (1 or B, K)."""
        out = np.zeros(decision.shape[0])
        with self._lock:
            for b in range(out.size):
                _assign(self._variables, decision[b])
                if b == 0 or given.shape[0] > 1:
                    _assign(self._parameters, given[min(b, given.shape[0] - 1)])
                worst = (np.max(np.abs(c.violation()), initial=0.0) for c in self._constraints)
                out[b] = max(worst, default=0.0)
        return out

    def by_name(self, decision: np.ndarray, given: np.ndarray) -> list[tuple[str, float]]:
        """Each constraint as CVXPY writes it, and its largest violation by one decision (N,), given (K,)."""
        with self._lock:
            _assign(self._variables, decision)
            _assign(self._parameters, given)
            worst = [float(np.max(np.abs(c.violation()), initial=0.0)) for c in self._constraints]
        return list(zip(self._names, worst, strict=True))


def _assign(leaves: Sequence[Any], entries: np.ndarray) -> None:
    start = 0
    for leaf in leaves:
        leaf.value = entries[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size


def _declared(leaf: Any) -> dict[str, Any]:
    return {key: value for key, value in leaf.attributes.items() if value is not False and value is not None}


def _attribute_constraints(leaf: Any) -> list[Any]:
    """What a variable's attributes demand, as constraints."""
    found = list(leaf.domain)
    attributes = leaf.attributes
    if attributes["symmetric"] or attributes["PSD"] or attributes["NSD"]:
        found.append(leaf == leaf.T)
    if attributes["diag"]:
        found.append(cp.multiply(1.0 - np.eye(leaf.shape[0]), leaf) == 0)
    if leaf.sparse_idx is not None:
        outside = np.ones(leaf.shape)
        outside[leaf.sparse_idx] = 0.0
        found.append(cp.multiply(outside, leaf) == 0)
    return found
