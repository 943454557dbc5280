"""The rules that a two-stage program must keep, checked once when it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import cvxpy as cp
from cvxpy.constraints.constraint import Constraint

from hedgecast.core.errors import ProgramError

_SHOWN_CHARACTERS = 160


def show(expression: Any) -> str:
    """``expression`` as CVXPY writes it, shortened for a message."""
    text = " ".join(str(expression).split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def as_leaves(leaves: Any, kind: type, role: str) -> tuple[Any, ...]:
    """``leaves`` as a tuple of CVXPY leaves of one kind.

    Raises
    ------
    ProgramError
        One of them is of another kind.
    """
    found = tuple(leaves) if isinstance(leaves, Sequence) else (leaves,)
    for leaf in found:
        if not isinstance(leaf, kind):
            raise ProgramError(
                f"{role}= has {show(leaf)}, a {type(leaf).__name__}: give cvxpy.{kind.__name__} objects",
                role=role,
            )
    return found


def as_cost(cost: Any, role: str) -> Any:
    """``cost`` as a scalar CVXPY expression.

    Raises
    ------
    ProgramError
        It is no number and no expression, or not a scalar.
    """
    if isinstance(cost, cp.Minimize | cp.Maximize):
        raise ProgramError(f"{role}= is {show(cost)}: give the expression to minimize, not an objective")
    try:
        expression = cp.Constant(cost) if not isinstance(cost, cp.Expression) else cost
    except (ValueError, TypeError) as error:
        raise ProgramError(f"{role}= is a {type(cost).__name__}: give a number or an expression") from error
    if expression.size != 1:
        raise ProgramError(f"{role}= {show(expression)} has shape {expression.shape}: it must be a scalar")
    return expression


def as_constraints(constraints: Any, role: str) -> tuple[Any, ...]:
    """``constraints`` as a tuple of CVXPY constraints.

    Raises
    ------
    ProgramError
        One of them is no constraint, such as the ``True`` of a comparison of constants.
    """
    found = tuple(constraints) if isinstance(constraints, Sequence) else (constraints,)
    for position, constraint in enumerate(found):
        if not isinstance(constraint, Constraint):
            raise ProgramError(
                f"{role}[{position}] is {show(constraint)}, a {type(constraint).__name__}: give CVXPY "
                "constraints (a comparison without a variable is no constraint)",
                role=role,
                position=position,
            )
    return found


def check_program(
    decision: Sequence[Any],
    uncertain: Sequence[Any],
    given: Sequence[Any],
    cost: Any,
    constraints: Sequence[Any],
    recourse_cost: Any,
    recourse_constraints: Sequence[Any],
) -> None:
    """Check every rule of a two-stage program.

    Raises
    ------
    ProgramError
        A rule is broken; the message names the expression.
    """
    check_leaves(decision, uncertain, given)
    bounds = [
        (f"bounds of {variable.name()!r}", bound)
        for variable in decision
        for bound in variable.attributes["bounds"] or ()
        if isinstance(bound, cp.Expression)
    ]
    first = [("cost", cost), *(("constraint", c) for c in constraints)]
    recourse = [
        ("recourse_cost", recourse_cost),
        *(("recourse constraint", c) for c in recourse_constraints),
    ]
    check_first_stage([*first, *bounds], decision, uncertain, given)
    check_recourse(recourse, uncertain, given)
    for role, expression in [*first, *recourse]:
        check_convex(role, expression)
    everything = [expression for _, expression in [*first, *bounds, *recourse]]
    check_used(decision, everything, "decision variable")
    check_used(uncertain, [e for _, e in recourse], "uncertain parameter")
    check_used(given, everything, "given parameter")


def check_leaves(decision: Sequence[Any], uncertain: Sequence[Any], given: Sequence[Any]) -> None:
    """Check that the program's own variables and parameters are continuous, real and of unique names."""
    if not decision:
        raise ProgramError("decision= is empty: give at least one cvxpy.Variable")
    leaves = [*decision, *uncertain, *given]
    for what, count in Counter(leaf.name() for leaf in leaves).items():
        if count > 1:
            raise ProgramError(
                f"{count} of the decision, uncertain and given entries are named {what!r}: names must differ",
                name=what,
            )
    for leaf in leaves:
        _check_real(leaf)


def _check_real(leaf: Any) -> None:
    for attribute in ("complex", "imag", "hermitian"):
        if leaf.attributes[attribute]:
            raise ProgramError(f"{leaf.name()!r} is {attribute}: only real entries are supported")
    for attribute in ("boolean", "integer"):
        if leaf.attributes[attribute]:
            raise ProgramError(
                f"variable {leaf.name()!r} is {attribute}: only continuous variables have gradients; "
                f"relax it (drop {attribute}=True, add bounds)"
            )


def check_first_stage(
    expressions: Iterable[tuple[str, Any]],
    decision: Sequence[Any],
    uncertain: Sequence[Any],
    given: Sequence[Any],
) -> None:
    """Check that what is decided here and now uses the decision and given parameters only."""
    for role, expression in expressions:
        for variable in expression.variables():
            if not any(variable is known for known in decision):
                raise ProgramError(
                    f"{role} {show(expression)} contains variable {variable.name()!r}, which is not in "
                    "decision=: list it there, or move the expression to the recourse",
                    variable=variable.name(),
                )
        for parameter in expression.parameters():
            if any(parameter is known for known in uncertain):
                raise ProgramError(
                    f"{role} {show(expression)} contains the uncertain parameter {parameter.name()!r}: it is "
                    "not known here and now; move the expression to recourse_cost or recourse_constraints",
                    parameter=parameter.name(),
                )
            _check_known(role, expression, parameter, given)


def check_recourse(
    expressions: Iterable[tuple[str, Any]], uncertain: Sequence[Any], given: Sequence[Any]
) -> None:
    """Check that a scenario uses known parameters and continuous variables only."""
    for role, expression in expressions:
        for parameter in expression.parameters():
            _check_known(role, expression, parameter, [*uncertain, *given])
        for variable in expression.variables():
            _check_real(variable)


def _check_known(role: str, expression: Any, parameter: Any, known: Sequence[Any]) -> None:
    if not any(parameter is other for other in known):
        raise ProgramError(
            f"{role} {show(expression)} contains parameter {parameter.name()!r}, which is neither uncertain "
            "nor given: list it in one of the two",
            parameter=parameter.name(),
        )


def check_used(leaves: Sequence[Any], expressions: Iterable[Any], role: str) -> None:
    """Check that every leaf stands in some expression."""
    used = {
        leaf.id for expression in expressions for leaf in (*expression.variables(), *expression.parameters())
    }
    for leaf in leaves:
        if leaf.id not in used:
            raise ProgramError(
                f"{role} {leaf.name()!r} stands in no expression: use it or leave it out", name=leaf.name()
            )


def check_convex(role: str, expression: Any) -> None:
    """Check that a cost is convex and a constraint is, in the parameters' sense too (DPP).

    Raises
    ------
    ProgramError
        Names the expression, and the part of it that breaks the rule.
    """
    is_constraint = isinstance(expression, Constraint)
    if not (expression.is_dcp() if is_constraint else expression.is_convex()):
        culprit = _smallest(expression, dpp=False)
        raise ProgramError(
            f"{role} {show(expression)} is not convex by CVXPY's rules (DCP){_where(culprit, expression)}: "
            "costs must be convex, constraints convex <= concave or affine == affine"
        )
    if not expression.is_dcp(dpp=True):
        culprit = _smallest(expression, dpp=True)
        raise ProgramError(
            f"{role} {show(expression)} is not DPP{_where(culprit, expression)}: a parameter may be "
            "multiplied by an expression without parameters only, and not stand inside a nonlinear function "
            "of parameters; put the other factor behind a variable of its own (t >= factor), or compute the "
            "product beforehand and give it as a parameter"
        )


def _where(culprit: Any, expression: Any) -> str:
    return "" if culprit is expression else f" because of {show(culprit)}"


def _smallest(expression: Any, *, dpp: bool) -> Any:
    """The deepest part that breaks the rule while its own arguments keep it."""
    for argument in getattr(expression, "args", []):
        if isinstance(argument, cp.Expression) and not argument.is_dcp(dpp=dpp):
            return _smallest(argument, dpp=dpp)
    return expression
