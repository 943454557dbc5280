"""Kinds of hostile clients, each with the outcomes that are right for it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import socket
import time
from collections.abc import Iterable
from typing import Any

import grpc
import numpy as np
import psutil
from google.rpc import error_details_pb2
from hostile import messages, wire
from hostile.serve import DEADLINE_SECONDS, MESSAGE_BYTES, TOKEN

from hedgecast.rpc.v1.decision_service_pb2 import DecideRequest
from hedgecast.rpc.v1.model_service_pb2 import GetModelRequest
from hedgecast.testing import Authority

DECIDE = "/hedgecast.rpc.v1.DecisionService/Decide"
_METHODS = (DECIDE, "/hedgecast.rpc.v1.ModelService/ListModels", "/hedgecast.rpc.v1.ModelService/GetModel")
_REFUSED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND"})
# Bytes that were changed may still be a request, though rarely a right one.
_ANSWERED = _REFUSED | {"OK", "FAILED_PRECONDITION"}
_WINDOW = 16
_LEAKS = ("Traceback", ".py", "/work", "/tmp", "/root", "/home", "site-packages", "<class", "DecodeError")
Draws = np.random.Generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A server under attack."""

    plain: str
    """Without TLS, with a token."""
    secure: str
    """With mutual TLS, without a token."""
    process: psutil.Process
    valid: DecideRequest
    authority: Authority
    others: Authority


@dataclasses.dataclass
class Findings:
    """What came of the inputs."""

    outcomes: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def note(self, kind: str, outcome: str, allowed: Iterable[str], said: str = "") -> None:
        """Count an outcome; one that is not allowed is a finding."""
        self.outcomes[kind, outcome] += 1
        if outcome not in allowed:
            self.wrong.append(f"{kind}: {outcome} {said}")


def random_messages(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """Random bytes to every method."""
    inputs = ((_METHODS[n % 3], messages.random_bytes(draws)) for n in range(count))
    _send(target, "random", inputs, _ANSWERED, findings)


def mutated_messages(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """A right request with a few bytes changed; checked against the model, not solved."""
    content = DecideRequest.FromString(target.valid.SerializeToString())
    content.validate_only = True
    right = content.SerializeToString()
    inputs = ((DECIDE, messages.mutated(right, draws)) for _ in range(count))
    _send(target, "mutated", inputs, _ANSWERED, findings)


def spoiled_messages(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """Fields that no server may accept: none may be let through."""
    inputs = ((DECIDE, messages.spoiled(target.valid, draws)) for _ in range(count))
    _send(target, "spoiled", inputs, _REFUSED, findings)


def extreme_numbers(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """Finite numbers far outside any series: an answer, or a refusal that says why."""
    inputs = ((DECIDE, messages.extreme(target.valid, draws)) for _ in range(count))
    allowed = _ANSWERED | {"DEADLINE_EXCEEDED"}
    _send(target, "extreme", inputs, allowed, findings)


def tokens(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """Whoever has no token is told so, before the message is looked at."""
    with grpc.insecure_channel(target.plain) as channel:
        calls = [channel.unary_unary(method) for method in _METHODS]
        for number in range(count):
            metadata = tuple(messages.hostile_tokens(draws))
            content = target.valid.SerializeToString() if number % 2 else b"\xff"
            future = calls[number % 3].future(content, timeout=20, metadata=metadata)
            _judge("token", future, {"UNAUTHENTICATED"}, findings)


def methods(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """Methods and services that are not there, and health and reflection with noise."""
    names = ("/hedgecast.rpc.v1.DecisionService/Nothing", "/a/b", "/hedgecast.rpc.v1.Secret/X", "//", "/x")
    noisy = ("/grpc.health.v1.Health/Check",)
    with grpc.insecure_channel(target.plain) as channel:
        for number in range(count):
            absent = number % 4 != 0
            name = str(draws.choice(names)) if absent else noisy[0]
            future = channel.unary_unary(name).future(messages.random_bytes(draws), timeout=20)
            allowed = {"UNIMPLEMENTED"} if absent else {"OK", "NOT_FOUND", "INVALID_ARGUMENT"}
            _judge("method" if absent else "health", future, allowed, findings, ours=absent)


def bombs(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """Small on the wire, large in memory: millions of empty fields, gigabytes of zeros compressed."""
    options = [("grpc.max_send_message_length", -1)]
    for number in range(count):
        coding = grpc.Compression.NoCompression
        size = int(draws.integers(MESSAGE_BYTES // 2, MESSAGE_BYTES))
        content = messages.allocation_bomb(draws, size)
        allowed = {"INVALID_ARGUMENT"}
        if number % 3 == 0:
            coding = grpc.Compression.Gzip if number % 2 else grpc.Compression.Deflate
            content = bytes(int(draws.integers(2, 30)) * MESSAGE_BYTES)
            allowed = {"RESOURCE_EXHAUSTED"}
        elif number % 7 == 0:
            content = bytes(MESSAGE_BYTES + 1)
            allowed = {"RESOURCE_EXHAUSTED"}
        with grpc.insecure_channel(target.plain, options, compression=coding) as channel:
            future = channel.unary_unary(DECIDE).future(content, timeout=30, metadata=_metadata())
            _judge("bomb", future, allowed, findings)


def conversations(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """HTTP/2 that no library would speak; any end of the connection is right, a stuck one is not."""
    for _ in range(count):
        name, content = wire.conversation(draws, TOKEN)
        try:
            with wire.opened(target.plain) as connection:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                received = _all_received(connection)
            findings.note(f"wire, {name}", "closed" if received is not None else "stuck", {"closed"})
        except OSError:
            findings.note(f"wire, {name}", "closed", {"closed"})


def half_open_calls(target: Target, _draws: Draws, count: int, findings: Findings) -> None:
    """Calls whose message never comes, more of them than there are places: all end by the deadline."""
    with grpc.insecure_channel(target.plain) as channel:
        never = _Never()
        calls = [channel.stream_unary(DECIDE).future(never, metadata=_metadata()) for _ in range(count)]
        begun = time.monotonic()
        for call in calls:
            code, said = _outcome(call, DEADLINE_SECONDS * 4)
            findings.note("half open", code, {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}, said)
        never.stop()
        waited = time.monotonic() - begun
        if waited > 3 * DEADLINE_SECONDS:
            findings.wrong.append(f"half-open calls were held for {waited:.1f} s")


def slow_connections(target: Target, draws: Draws, count: int, findings: Findings) -> None:
    """Connections that begin and stop in the middle of something, all at once, while others are served."""
    begin = wire.PREFACE + wire.frame(4, 0, 0, b"")
    asked = begin + wire.frame(1, 4, 1, wire.headers(TOKEN))
    parts = (b"", wire.PREFACE[:10], begin[:30], begin, asked[:-5], asked + b"\x00\x10\x00")
    with contextlib.ExitStack() as stack:
        for number in range(count):
            address = target.secure if number % 3 == 0 else target.plain
            try:
                connection = stack.enter_context(wire.opened(address))
                connection.sendall(parts[int(draws.integers(len(parts)))])
            except OSError as error:
                findings.note("slow connection", "refused", {"refused"}, str(error))
            else:
                findings.note("slow connection", "held", {"held"})
        with grpc.insecure_channel(target.plain) as channel:
            request = GetModelRequest(name="tiny").SerializeToString()
            future = channel.unary_unary(_METHODS[2]).future(request, timeout=20, metadata=_metadata())
            _judge("beside slow connections", future, {"OK"}, findings)


def certificates(target: Target, _draws: Draws, count: int, findings: Findings) -> None:
    """Who has no certificate of the right authority and the right time does not get as far as a method."""
    late = target.authority.issue("late", age=-datetime.timedelta(hours=2))
    early = target.authority.issue("early", age=datetime.timedelta(hours=2))
    stranger = target.others.issue("client")
    known = target.authority.issue("client")
    trusted = target.authority.certificates.read_bytes()
    for number in range(count):
        kind = number % 6
        pair = (late, early, stranger, None, None, known)[kind]
        if kind == 3:
            channel = grpc.insecure_channel(target.secure)
        else:
            files = (None, None) if pair is None else (pair[1].read_bytes(), pair[0].read_bytes())
            channel = grpc.secure_channel(target.secure, grpc.ssl_channel_credentials(trusted, *files))
        name = ("late", "early", "stranger", "plain", "none", "known")[kind]
        with channel:
            request = GetModelRequest(name="tiny").SerializeToString()
            future = channel.unary_unary(_METHODS[2]).future(request, timeout=20)
            allowed = {"OK"} if kind == 5 else {"UNAVAILABLE"}
            _judge(f"certificate, {name}", future, allowed, findings, ours=False)


class _Never:
    """An iterator of requests that yields none until stopped."""

    def __init__(self) -> None:
        self._stopped = False

    def __iter__(self) -> _Never:
        return self

    def __next__(self) -> bytes:
        while not self._stopped:
            time.sleep(0.01)
        raise StopIteration

    def stop(self) -> None:
        self._stopped = True


def _send(
    target: Target, kind: str, inputs: Iterable[tuple[str, bytes]], allowed: Iterable[str], findings: Findings
) -> None:
    """Send with a few under way at a time."""
    under_way: collections.deque[Any] = collections.deque()
    with grpc.insecure_channel(target.plain) as channel:
        calls = {method: channel.unary_unary(method) for method in _METHODS}
        for method, content in inputs:
            under_way.append(calls[method].future(content, timeout=30, metadata=_metadata()))
            if len(under_way) == _WINDOW:
                _judge(kind, under_way.popleft(), allowed, findings)
        for future in under_way:
            _judge(kind, future, allowed, findings)


def _judge(kind: str, future: Any, allowed: Iterable[str], findings: Findings, *, ours: bool = True) -> None:
    """Note how a call ended, and that its answer gives nothing away and says what it should."""
    code, said = _outcome(future, 60.0)
    findings.note(kind, code, allowed, said)
    trailing = dict(future.trailing_metadata() or ())
    if ours and code in _REFUSED:
        info = trailing.get("grpc-status-details-bin", b"")
        if error_details_pb2.ErrorInfo.DESCRIPTOR.full_name.encode() not in info:
            findings.wrong.append(f"{kind}: {code} without ErrorInfo: {said}")
    for leak in _LEAKS:
        if ours and leak in f"{said} {trailing}":
            findings.wrong.append(f"{kind}: {leak!r} in {said} {trailing}"[:500])


def _outcome(future: Any, seconds: float) -> tuple[str, str]:
    error = future.exception(timeout=seconds)
    return ("OK", "") if error is None else (future.code().name, str(future.details()))


def _metadata() -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {TOKEN}"),)


def _all_received(connection: socket.socket) -> bytes | None:
    """What comes until the other side closes; None: it does not within the timeout."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except TimeoutError:
        return None
    return received
