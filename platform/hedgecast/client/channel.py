"""What both clients share: a channel's options, which errors are tried again and when, and typed errors."""

from __future__ import annotations

import dataclasses
import ipaddress
import random
import threading
import time
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from hedgecast.core import errors
from hedgecast.core.errors import ConfigError, HedgecastError
from hedgecast.rpc import codec

_FIRST_BACKOFF_SECONDS = 0.1
# A call that its caller cancels ends in another way: CANCELLED comes from a server or a proxy that goes away.
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)
# A client that is refused again and again must not multiply the load: ten retries at first, then one for ten
# calls.
_BUDGET = 10.0
_EARNED_A_CALL = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """PEM files of a secure channel."""

    authorities: Path | None = None
    """Certificate authorities that vouch for the server; None: those of the system."""
    certificate: Path | None = None
    """This client's certificate chain, for mutual TLS."""
    key: Path | None = None
    """This client's private key, for mutual TLS."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How calls are made; checked at once.

    Raises
    ------
    ConfigError
        A token without TLS to another machine, a deadline not positive, negative retries.
    """

    address: str
    token: str | None
    tls: TlsFiles | None
    deadline_seconds: float
    retries: int
    max_message_bytes: int

    def __post_init__(self) -> None:
        if self.deadline_seconds <= 0 or self.retries < 0:
            raise ConfigError(
                f"deadline_seconds = {self.deadline_seconds}, retries = {self.retries}: the deadline must be "
                "positive, the retries not negative"
            )
        if self.token is not None and self.tls is None and not _is_loopback(self.address):
            raise ConfigError(f"a token for {self.address} would travel in the clear: pass tls=TlsFiles(...)")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    @property
    def options(self) -> list[tuple[str, int]]:
        """Of the channel."""
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            # Retries are ours: grpc's own would multiply them.
            ("grpc.enable_retries", 0),
        ]

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Of a secure channel; None: it is not secure."""
        if self.tls is None:
            return None
        authorities, certificate, key = (
            None if path is None else path.read_bytes()
            for path in (self.tls.authorities, self.tls.certificate, self.tls.key)
        )
        return grpc.ssl_channel_credentials(authorities, key, certificate)


class RetryBudget:
    """Retries that one client may still make; safe to share between threads."""

    def __init__(self) -> None:
        self._left = _BUDGET
        self._lock = threading.Lock()

    def call(self) -> None:
        """A call is made: a tenth of a retry is earned."""
        with self._lock:
            self._left = min(self._left + _EARNED_A_CALL, _BUDGET)

    def take(self) -> bool:
        """Whether one more retry is left; it is then taken."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


def pause_before_retry(
    error: grpc.RpcError, attempt: int, end: float, terms: Terms, budget: RetryBudget
) -> float:
    """Seconds to wait before the next try of a call.

    Parameters
    ----------
    error : grpc.RpcError
        Of this try.
    attempt : int
        Number of this try, from 0.
    end : float
        Monotonic time at which the call's time is up.
    terms : Terms
    budget : RetryBudget

    Raises
    ------
    HedgecastError
        There will be no other try.
    """
    pause = _FIRST_BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5)
    pause = max(pause, _retry_delay(error))
    last = attempt >= terms.retries or time.monotonic() + pause >= end
    if last or error.code() not in _RETRIED or not budget.take():
        raise typed(error, terms.address) from error
    return float(pause)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _details(error: grpc.RpcError, kind: type[Any]) -> Any:
    """The first detail of that kind, or an empty one."""
    found = kind()
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # The status in the trailer contradicts the call's: a proxy changed it, so it is not trusted.
        return found
    for detail in status.details if status is not None else ():
        if detail.Is(kind.DESCRIPTOR):
            detail.Unpack(found)
            break
    return found


def _retry_delay(error: grpc.RpcError) -> float:
    return codec.decode_duration(_details(error, error_details_pb2.RetryInfo).retry_delay)


def typed(error: grpc.RpcError, address: str) -> HedgecastError:
    """The service's error again, of the class where it was raised."""
    info = _details(error, error_details_pb2.ErrorInfo)
    facts: dict[str, object] = {**info.metadata, "grpc_status": error.code().name}
    cls = errors.class_of(info.reason) if info.domain == "hedgecast" else None
    if cls is not None:
        typed = cls(error.details())
        typed.facts.update(facts)
        return typed
    message = f"{address}: {error.details()} ({error.code().name})"
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return errors.UnavailableError(f"{message}; is the service running there?", **facts)
        case grpc.StatusCode.CANCELLED:
            return errors.UnavailableError(f"{message}: the server let go of the call; try again", **facts)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineError(f"{message}; allow more time with deadline_seconds", **facts)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.OverloadedError(message, **facts)
        case grpc.StatusCode.UNAUTHENTICATED:
            return errors.UnauthenticatedError(message, **facts)
        case _:
            return errors.ServiceError(message, **facts)
