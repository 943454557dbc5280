"""What is known about one call while it runs: for its log line, metrics, span and audit record.

Requests and answers are read by the names of their fields, whatever their message: a new method with a
``model`` and a ``scenario_count`` is authorized, counted and recorded like those that exist.
"""

from __future__ import annotations

import contextvars
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2

from hedgecast.rpc.codec import decode_duration
from hedgecast.service.requests import draws_asked_for

REQUEST_ID_KEY = "x-request-id"
CURRENT_CALL: contextvars.ContextVar[Call] = contextvars.ContextVar("hedgecast_call")
"""The call that the running task works on."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OWN_MESSAGES = "hedgecast."
# A request inside a stream's message, and what that holds.
_DEEPEST = 2
_LONGEST_TEXT = 128


@dataclasses.dataclass(kw_only=True, slots=True)
class Call:
    """One call, from its headers to its outcome."""

    method: str
    """Bare name, for example ``Decide``."""
    service: str
    """Full name of the service."""
    request_id: str
    """The caller's, or one made here."""
    incident: str
    """Under which the log has an error."""
    peer: str = ""
    """Address of the caller as gRPC names it."""
    principal: str = ""
    """Who calls; empty: refused before that was known."""
    model: str = ""
    """As asked for; NAME@VERSION once that is known."""
    asked_model: str = ""
    """What the request asked for whose answer is noted next, where a call has many."""
    model_fingerprint: str = ""
    fingerprint: str = ""
    """Of the scenarios of the last answer."""
    scenarios: int = 0
    """Asked for, all messages together."""
    requests: int = 0
    """Messages received."""
    answers: int = 0
    """Messages sent."""
    code: str = "UNKNOWN"
    """Name of the gRPC status."""
    reason: str = ""
    """Of the error; empty: none."""
    started: float = dataclasses.field(default_factory=time.monotonic)
    seconds: float = 0.0
    """From the headers to the outcome."""

    def end(self) -> None:
        """Fix the duration."""
        self.seconds = time.monotonic() - self.started

    def asked(self, request: Message, max_scenarios: int) -> Asked:
        """Note a request, give it the call's id where it has none, and return what it asks for."""
        asked = Asked.of(request, max_scenarios)
        self.requests += 1
        self.scenarios += asked.scenarios
        if asked.models:
            self.model = asked.models[0][:_LONGEST_TEXT]
        question = _question(request)
        named = getattr(question, "request_id", None)
        if isinstance(named, str) and _REQUEST_ID.fullmatch(named):
            self.request_id = named
        elif named == "":
            question.request_id = self.request_id  # type: ignore[attr-defined]
        return asked

    def answers_next(self, asked_model: str) -> None:
        """Say what the request asked for, of many, whose answer comes next.

        An answer names its request by the caller's id for it, which may stand for several requests.
        """
        self.asked_model = asked_model[:_LONGEST_TEXT]

    def answered(self, answer: Message) -> Answered:
        """Note an answer and return what it tells."""
        answered = Answered.of(answer)
        self.answers += 1
        self.model = answered.model or self.model
        self.model_fingerprint = answered.model_fingerprint or self.model_fingerprint
        self.fingerprint = answered.fingerprint or self.fingerprint
        return answered


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What one request asks for."""

    models: tuple[str, ...]
    """As the caller wrote them."""
    scenarios: int
    """To draw or to work on, replications included; the default where the request leaves it open."""

    @classmethod
    def of(cls, request: Message, max_scenarios: int) -> Asked:
        """Read from ``request`` and the messages of ours that it holds.

        Parameters
        ----------
        request : Message
        max_scenarios : int
            Most scenarios of one request: defaults are no more.
        """
        models = []
        scenarios = 0
        staged = False
        for message in _own_messages(request):
            fields = message.DESCRIPTOR.fields_by_name
            model = getattr(message, "model", "") or _name_of_get(message)
            if isinstance(model, str) and model:
                models.append(model)
            if "draw_limit" in fields:
                # All stages of it, whatever the question inside says.
                scenarios, staged = draws_asked_for(message, max_scenarios), True
            elif "scenario_count" in fields and not staged and not getattr(message, "validate_only", False):
                scenarios += draws_asked_for(message, max_scenarios)
        return cls(models=tuple(models), scenarios=scenarios)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What one answer tells about the work behind it."""

    model: str = ""
    """NAME@VERSION."""
    model_fingerprint: str = ""
    fingerprint: str = ""
    """Of the scenarios."""
    scenarios: int = 0
    """Drawn."""
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Stage to seconds."""
    iterations: int = 0
    batch_size: int = 0
    """Requests solved together; 0: not told."""
    backend: str = ""
    verdict: str = ""
    """Name of the state; empty: nothing was solved."""
    rungs: tuple[str, ...] = ()
    """Ways in which load made the answer cheaper."""
    correlation_id: str | None = None
    """Names one of many requests, as the caller wrote it; None: the call has one."""
    code: str = "OK"
    """Of one of many: the name of the gRPC status that it would have had alone."""
    reason: str = ""
    """Why one of many requests has no answer; empty: it has one."""
    incident: str = ""
    """Under which the log has that."""

    @classmethod
    def of(cls, answer: Message) -> Answered:
        """Read from ``answer`` and the messages of ours that it holds."""
        found: dict[str, Any] = {}
        for message in _own_messages(answer):
            fields = message.DESCRIPTOR.fields_by_name
            kind = message.DESCRIPTOR.name
            if kind == "ModelReference":
                found["model"] = f"{message.name}@{message.version}"  # type: ignore[attr-defined]
                found["model_fingerprint"] = message.fingerprint  # type: ignore[attr-defined]
            elif kind == "Durations":
                found["stages"] = dict(_stages(message))
            elif kind == "StreamError":
                found["code"] = code_pb2.Code.Name(message.code)  # type: ignore[attr-defined]
                found["reason"] = message.reason  # type: ignore[attr-defined]
                found["incident"] = message.incident_id  # type: ignore[attr-defined]
            elif "correlation_id" in fields:
                found["correlation_id"] = message.correlation_id  # type: ignore[attr-defined]
            elif kind == "Degradation":
                found["rungs"] = tuple(_rungs(message))
            elif kind == "Verdict":
                found["verdict"] = _state_name(message)
                found["iterations"] = message.iteration_count  # type: ignore[attr-defined]
                found["batch_size"] = message.batch_size  # type: ignore[attr-defined]
                found["backend"] = message.backend  # type: ignore[attr-defined]
            elif "scenario_fingerprint" in fields and message.scenario_fingerprint:  # type: ignore[attr-defined]
                found["fingerprint"] = message.scenario_fingerprint  # type: ignore[attr-defined]
                found["scenarios"] = getattr(message, "scenario_count", 0)
        return cls(**found)


def request_id_in(metadata: Mapping[str, str | bytes]) -> str | None:
    """The caller's id in the metadata where it is one: it goes into logs as it is."""
    named = metadata.get(REQUEST_ID_KEY)
    return named if isinstance(named, str) and _REQUEST_ID.fullmatch(named) else None


def _own_messages(message: Message, depth: int = 0) -> Iterator[Message]:
    """``message`` and the single messages of ours in it that are set, not those in repeated fields."""
    if not message.DESCRIPTOR.full_name.startswith(_OWN_MESSAGES):
        return
    yield message
    if depth == _DEEPEST:
        return
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and not field.is_repeated and message.HasField(field.name):
            yield from _own_messages(getattr(message, field.name), depth + 1)


def _question(message: Message) -> Message:
    """What has the call's request id: the message, or the question in it, unless the call holds many."""
    fields = message.DESCRIPTOR.fields_by_name
    inside = "request" in fields and not {"request_id", "correlation_id"} & set(fields)
    return message.request if inside and message.HasField("request") else message  # type: ignore[attr-defined]


def _name_of_get(message: Message) -> str:
    """The resource that a standard Get names (AIP-131)."""
    return str(getattr(message, "name", "")) if message.DESCRIPTOR.name.startswith("GetModel") else ""


def _stages(message: Message) -> Iterator[tuple[str, float]]:
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Duration) and message.HasField(field.name):
            yield field.name.removesuffix("_duration"), decode_duration(value)


def _rungs(message: Message) -> Iterator[str]:
    names = message.DESCRIPTOR.fields_by_name["rungs"].enum_type
    assert names is not None
    for number in message.rungs:  # type: ignore[attr-defined]
        yield names.values_by_number[number].name


def _state_name(message: Message) -> str:
    states = message.DESCRIPTOR.fields_by_name["state"].enum_type
    assert states is not None
    values = states.values_by_number
    number = message.state  # type: ignore[attr-defined]
    return values[number].name if number in values else str(number)
