"""The one table from hedgecast's errors to gRPC status.

Reason and facts go out as ``google.rpc.ErrorInfo``, the field at fault as ``google.rpc.BadRequest``,
what is worth a retry as ``google.rpc.RetryInfo`` (AIP-193). Only messages that were written for callers
leave the server; for everything else the caller gets an incident's id and the log gets the rest.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from hedgecast.core import errors
from hedgecast.rpc.codec import encode_duration

DOMAIN = "hedgecast"
DETAILS_KEY = "grpc-status-details-bin"

# gRPC refuses more than 8 KiB of headers by default; a status travels twice, once percent-encoded.
_LONGEST_MESSAGE = 1000
_LONGEST_FACT = 128
_MOST_FACTS = 16
# Two parts at least, so that a unit like EUR/MWh or a lone slash stays; spaces end it.
_PATH = re.compile(r"(?<![\w/.<])(?:file:/)?/(?:[^\s/'\":,;()\[\]]+/)+[^\s'\":,;()\[\]]*")
_TRACE = re.compile(r"Traceback \(most recent call last\)|^ *File \"[^\"]*\", line \d+", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """How one class of errors goes out."""

    code: grpc.StatusCode
    public: bool = True
    """The message is for callers; otherwise they get an incident's id."""
    retry: bool = False
    """The same call may succeed later."""


_CODE = grpc.StatusCode
RULES: Mapping[type[errors.HedgecastError], Rule] = {
    errors.HedgecastError: Rule(_CODE.INTERNAL, public=False),
    errors.InputError: Rule(_CODE.INVALID_ARGUMENT),
    errors.ConfigError: Rule(_CODE.INVALID_ARGUMENT),
    errors.DataError: Rule(_CODE.INVALID_ARGUMENT),
    errors.ShapeError: Rule(_CODE.INVALID_ARGUMENT),
    errors.ProgramError: Rule(_CODE.INVALID_ARGUMENT),
    # The request is right, but what it describes has no answer: the same call will not get one.
    errors.SolveError: Rule(_CODE.FAILED_PRECONDITION),
    errors.NotConvergedError: Rule(_CODE.FAILED_PRECONDITION),
    errors.InfeasibleError: Rule(_CODE.FAILED_PRECONDITION),
    errors.UnboundedError: Rule(_CODE.FAILED_PRECONDITION),
    errors.ModelError: Rule(_CODE.INTERNAL, public=False),
    errors.ModelNotFoundError: Rule(_CODE.NOT_FOUND),
    # Names folders of the server.
    errors.BundleError: Rule(_CODE.INTERNAL, public=False),
    errors.GateRefusedError: Rule(_CODE.FAILED_PRECONDITION),
    # Names files of the server.
    errors.OutcomeError: Rule(_CODE.INTERNAL, public=False),
    errors.DecisionNotFoundError: Rule(_CODE.NOT_FOUND),
    errors.OutcomeConflictError: Rule(_CODE.ALREADY_EXISTS),
    errors.UntrustedError: Rule(_CODE.FAILED_PRECONDITION),
    errors.ServiceError: Rule(_CODE.INTERNAL, public=False),
    errors.UnavailableError: Rule(_CODE.UNAVAILABLE, retry=True),
    errors.OverloadedError: Rule(_CODE.RESOURCE_EXHAUSTED, retry=True),
    errors.DeadlineError: Rule(_CODE.DEADLINE_EXCEEDED),
    errors.RateLimitedError: Rule(_CODE.RESOURCE_EXHAUSTED, retry=True),
    errors.UnauthenticatedError: Rule(_CODE.UNAUTHENTICATED),
    errors.PermissionDeniedError: Rule(_CODE.PERMISSION_DENIED),
    errors.NotOfferedError: Rule(_CODE.FAILED_PRECONDITION),
    errors.DependencyError: Rule(_CODE.INTERNAL, public=False),
}


def rule_of(error: BaseException) -> Rule:
    """The rule of the error's most specific class in the table; what is not ours is internal."""
    for cls in type(error).__mro__:
        if cls in RULES:
            return RULES[cls]
    return RULES[errors.HedgecastError]


def status_of(error: BaseException, *, incident: str, retry_delay_seconds: float) -> Status:
    """The status to send for ``error``.

    Parameters
    ----------
    error : BaseException
        What was raised.
    incident : str
        Id under which the log has the error; sent where the message is not public.
    retry_delay_seconds : float
        What callers are told to wait where a retry may help and the error does not say how long.
    """
    rule = rule_of(error)
    if rule.public and isinstance(error, errors.HedgecastError):
        message, reason, facts = without_paths(str(error)), error.reason, error.facts
    else:
        message, reason, facts = f"internal error; quote incident {incident}", "INTERNAL", {}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=reason, domain=DOMAIN, metadata={"incident": incident, **_metadata(facts)}
        )
    ]
    if "field" in facts:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=str(facts["field"])[:_LONGEST_FACT], description=message[:_LONGEST_MESSAGE], reason=reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if rule.retry:
        delay = _retry_delay(facts, retry_delay_seconds)
        # No delay: waiting does not help, the request asks for more than it can ever get.
        if delay is not None:
            details.append(error_details_pb2.RetryInfo(retry_delay=encode_duration(delay)))
    return Status(code=rule.code.value[0], message=message[:_LONGEST_MESSAGE], details=list(_pack(details)))


def without_paths(text: str) -> str:
    """``text`` with absolute paths of files and everything from a stack trace on left out."""
    return _PATH.sub("<path>", _TRACE.split(text, maxsplit=1)[0].rstrip())


def _retry_delay(facts: Mapping[str, object], default: float) -> float | None:
    seconds = facts.get("retry_seconds", default)
    assert isinstance(seconds, float)
    return seconds if math.isfinite(seconds) else None


def _metadata(facts: Mapping[str, object]) -> dict[str, str]:
    # AIP-193: keys match [a-z][a-zA-Z0-9-_]+ and are at most 64 characters.
    named = {key: value for key, value in facts.items() if re.fullmatch(r"[a-z][a-zA-Z0-9_-]{1,63}", key)}
    return {key: without_paths(str(named[key]))[:_LONGEST_FACT] for key in list(named)[:_MOST_FACTS]}


def _pack(messages: list[Message]) -> Iterator[Any]:
    for message in messages:
        packed = Any()
        packed.Pack(message)
        yield packed
