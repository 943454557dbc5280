"""Every error that hedgecast raises, in one tree.

    HedgecastError
    +-- InputError               what the caller gave cannot be used
    |   +-- ConfigError          a key or value of a study file or a setting
    |   +-- DataError            a table: file, column, row or time
    |   +-- ShapeError           an array of the wrong shape or type
    |   +-- ProgramError         a decision program that breaks a rule
    +-- SolveError               a program was right and has no usable answer
    |   +-- NotConvergedError
    |   +-- InfeasibleError
    |   +-- UnboundedError
    +-- ModelError
    |   +-- ModelNotFoundError
    |   +-- BundleError          a bundle is damaged or of another version
    |   +-- GateRefusedError     a promotion check failed
    |   +-- UntrustedError       an answer would rest on what the model has not seen
    +-- OutcomeError             what really happened cannot be kept or read
    |   +-- DecisionNotFoundError
    |   +-- OutcomeConflictError   another record was kept under the same id
    +-- ServiceError
    |   +-- UnavailableError     not ready, or going away
    |   +-- OverloadedError      queues are full: try later
    |   |   +-- RateLimitedError     the caller's own rate or quota is used up
    |   +-- DeadlineError        the caller's time is up
    |   +-- UnauthenticatedError  the caller did not prove who they are
    |   +-- PermissionDeniedError  the caller is known and may not do this
    |   +-- NotOfferedError      this service is set up without it
    +-- DependencyError          an optional package is not installed

A message says what happened, where, the numbers, and the way out. ``facts`` keeps the numbers for
programs. No error here knows HTTP or gRPC: ``hedgecast.service.status`` holds that table.
"""

from __future__ import annotations


class HedgecastError(Exception):
    """Root of the tree; ``reason`` is a stable UPPER_SNAKE name, ``facts`` the numbers."""

    reason = "HEDGECAST"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.facts = facts


class InputError(HedgecastError):
    """What the caller gave cannot be used."""

    reason = "INVALID_INPUT"


class ConfigError(InputError):
    """A key or a value of a study file or a setting."""

    reason = "INVALID_CONFIG"


class DataError(InputError):
    """A table: names the file, the column and the row or time."""

    reason = "INVALID_DATA"


class ShapeError(InputError):
    """An array of the wrong shape or type."""

    reason = "INVALID_SHAPE"


class ProgramError(InputError):
    """A decision program that breaks a rule; names the expression."""

    reason = "INVALID_PROGRAM"


class SolveError(HedgecastError):
    """A program was right and has no usable answer."""

    reason = "SOLVE_FAILED"


class NotConvergedError(SolveError):
    """The solver stopped before its tolerance."""

    reason = "NOT_CONVERGED"


class InfeasibleError(SolveError):
    """No decision satisfies the constraints."""

    reason = "INFEASIBLE"


class UnboundedError(SolveError):
    """The cost can be made as low as one likes."""

    reason = "UNBOUNDED"


class ModelError(HedgecastError):
    """A trained model cannot be used."""

    reason = "MODEL"


class ModelNotFoundError(ModelError):
    """No model, version or alias of that name."""

    reason = "MODEL_NOT_FOUND"


class BundleError(ModelError):
    """A bundle is damaged, incomplete or of another version."""

    reason = "INVALID_BUNDLE"


class GateRefusedError(ModelError):
    """A promotion check failed; names the check, its figure and its bound."""

    reason = "GATE_REFUSED"


class OutcomeError(HedgecastError):
    """What was decided and what really happened cannot be kept or read; names the file."""

    reason = "OUTCOME"


class DecisionNotFoundError(OutcomeError):
    """No decision of that id is kept: never answered here, or older than the retention."""

    reason = "DECISION_NOT_FOUND"


class OutcomeConflictError(OutcomeError):
    """Other content was kept under the same id or request id before."""

    reason = "OUTCOME_CONFLICT"


class UntrustedError(ModelError):
    """An answer would rest on what the model has not seen, and its policy refuses that."""

    reason = "OUTSIDE_TRAINING"


class ServiceError(HedgecastError):
    """The service cannot answer now."""

    reason = "SERVICE"


class UnavailableError(ServiceError):
    """Not ready yet, or going away."""

    reason = "UNAVAILABLE"


class OverloadedError(ServiceError):
    """Queues are full: try again later."""

    reason = "OVERLOADED"


class RateLimitedError(OverloadedError):
    """The caller's own rate or quota is used up; ``retry_seconds`` among the facts says for how long."""

    reason = "RATE_LIMITED"


class DeadlineError(ServiceError):
    """The caller's time is up."""

    reason = "DEADLINE_EXCEEDED"


class UnauthenticatedError(ServiceError):
    """The caller did not prove who they are."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(ServiceError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class NotOfferedError(ServiceError):
    """This service is set up without what the call needs; names the setting."""

    reason = "NOT_OFFERED"


class DependencyError(HedgecastError):
    """An optional package is not installed; names the extra that brings it."""

    reason = "MISSING_DEPENDENCY"


def class_of(reason: str, root: type[HedgecastError] = HedgecastError) -> type[HedgecastError] | None:
    """The class with that reason in the tree below ``root``; None: there is none."""
    if root.reason == reason:
        return root
    found = (class_of(reason, child) for child in root.__subclasses__())
    return next((cls for cls in found if cls is not None), None)
