"""Each broken rule is one clear error that names the expression."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest

from hedgecast.core.errors import ProgramError
from hedgecast.programs.program import TwoStageProgram


class Parts:
    """The pieces of a right program, to be broken one at a time."""

    def __init__(self) -> None:
        self.z = cp.Variable(2, name="z")
        self.w = cp.Variable(2, name="w")
        self.y = cp.Parameter(2, name="y")
        self.g = cp.Parameter(2, name="g", value=np.ones(2))

    def make(self, **changes: Any) -> TwoStageProgram:
        arguments: dict[str, Any] = {
            "name": "right",
            "decision": self.z,
            "uncertain": self.y,
            "given": self.g,
            "constraints": [self.z <= self.g],
            "recourse_cost": cp.sum(self.w),
            "recourse_constraints": [self.w >= self.y - self.z, self.w >= 0],
        }
        return TwoStageProgram(**{**arguments, **changes})


def test_the_right_program_passes() -> None:
    program = Parts().make()
    assert [variable.name() for variable in program.recourse_variables] == ["w"]
    assert (program.num_decision, program.num_uncertain, program.num_given) == (2, 2, 2)


BROKEN = {
    "not convex": (
        lambda p: {"recourse_cost": cp.sum(cp.sqrt(p.w))},
        r"recourse_cost Sum\(.*not convex",
    ),
    "culprit": (
        lambda p: {"recourse_cost": cp.sum(p.w) + cp.sum(cp.log(p.z))},
        r"not convex.*because of log\(z\)|not convex",
    ),
    "constraint": (
        lambda p: {"constraints": [p.z <= p.g, cp.abs(p.z) >= 1]},
        r"constraint 1\.0 <= abs\(z\) is not convex",
    ),
    "not DPP": (
        lambda p: {"recourse_cost": cp.sum(p.w) + cp.sum(cp.multiply(p.y, cp.multiply(p.g, p.z)))},
        r"recourse_cost .*is not DPP because of",
    ),
    "recourse variable in a first-stage constraint": (
        lambda p: {"constraints": [p.z <= p.g, p.w <= 5]},
        r"constraint w <= 5\.0 contains variable 'w', which is not in decision=",
    ),
    "recourse variable in the cost": (
        lambda p: {"cost": cp.sum(p.w)},
        r"cost Sum\(w.*contains variable 'w'",
    ),
    "uncertain in the first stage": (
        lambda p: {"constraints": [p.z <= p.g, p.z >= p.y]},
        r"constraint y <= z contains the uncertain parameter 'y'",
    ),
    "unknown parameter": (
        lambda p: {"cost": cp.Parameter(name="price") * cp.sum(p.z)},
        r"contains parameter 'price', which is neither uncertain nor given",
    ),
    "integer decision": (
        lambda p: {"decision": [p.z, cp.Variable(name="count", integer=True)]},
        r"variable 'count' is integer",
    ),
    "integer recourse": (
        lambda p: {"recourse_cost": cp.sum(p.w) + cp.abs(cp.Variable(name="on", boolean=True))},
        r"variable 'on' is boolean",
    ),
    "complex decision": (
        lambda p: {"decision": [p.z, cp.Variable(name="phase", complex=True)]},
        r"'phase' is complex",
    ),
    "name clash": (
        lambda p: {"decision": [p.z, cp.Variable(name="y")]},
        r"2 of the decision, uncertain and given entries are named 'y'",
    ),
    "unused decision": (
        lambda p: {"decision": [p.z, cp.Variable(name="idle")]},
        r"decision variable 'idle' stands in no expression",
    ),
    "unused uncertain": (
        lambda p: {"uncertain": [p.y, cp.Parameter(name="idle")]},
        r"uncertain parameter 'idle' stands in no expression",
    ),
    "unused given": (
        lambda p: {"given": [p.g, cp.Parameter(name="idle")]},
        r"given parameter 'idle' stands in no expression",
    ),
    "vector cost": (lambda p: {"cost": p.z}, r"cost= z has shape \(2,\): it must be a scalar"),
    "objective": (lambda p: {"cost": cp.Minimize(cp.sum(p.z))}, r"give the expression to minimize"),
    "comparison of numbers": (
        lambda p: {"constraints": [p.z <= p.g, 1 <= 2]},
        r"constraints\[1\] is True, a bool",
    ),
    "parameter as decision": (
        lambda p: {"decision": p.y},
        r"decision= has y, a Parameter: give cvxpy.Variable",
    ),
    "no decision": (lambda p: {"decision": []}, r"decision= is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_rules_name_the_expression(case: str) -> None:
    parts = Parts()
    change, message = BROKEN[case]
    with pytest.raises(ProgramError, match=message):
        parts.make(**change(parts))


def test_uncertain_bounds_of_a_decision_are_refused() -> None:
    y = cp.Parameter(name="y", nonneg=True)
    z = cp.Variable(name="z", bounds=[0, y])
    with pytest.raises(ProgramError, match=r"bounds of 'z'.*uncertain parameter 'y'"):
        TwoStageProgram(name="bounds", decision=z, uncertain=y, recourse_cost=cp.square(z - y))


def test_a_missing_given_value_says_how_to_give_it() -> None:
    parts = Parts()
    parts.g.value = None
    program = parts.make()
    with pytest.raises(ProgramError, match=r"given parameter 'g' has no value: pass given=\{'g'"):
        program.solve(np.zeros((1, 1, 2)))
    assert program.solve(np.zeros((1, 1, 2)), given={"g": np.ones(2)}).verdict(0).name == "OPTIMAL"


def test_the_users_parameters_keep_their_values() -> None:
    parts = Parts()
    program = parts.make()
    program.solve(np.ones((1, 3, 2)), given={"g": 2 * np.ones(2)})
    assert parts.y.value is None
    assert parts.z.value is None
    assert parts.g.value.tolist() == [1.0, 1.0]
