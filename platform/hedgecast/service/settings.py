"""Settings of a deployment, from the environment: no numerics here, those are in the study."""

from __future__ import annotations

import ipaddress
import itertools
import math
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from hedgecast.core.errors import ConfigError
from hedgecast.registry.ladder import Rung, climbed
from hedgecast.service.batches import Limits


class LadderStep(NamedTuple):
    """From which load on a rung is used."""

    rung: str
    """Its name."""
    requests: int
    """Questions under way, waiting ones included."""
    seconds: float | None
    """Wait of recent answers; None: it does not count."""


class ServiceSettings(BaseSettings):
    """Where the service listens, whom it trusts and how much it takes on.

    Each field is read from ``HEDGECAST_`` and its name in capitals: ``HEDGECAST_PORT=50051``.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEDGECAST_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs TLS."""
    port: int = Field(default=50051, ge=0, le=65535)
    """Port to listen on; 0 lets the system choose."""
    allow_insecure: bool = False
    """Listen without TLS on an address other than loopback all the same (behind a TLS proxy, say)."""
    tls_certificate: Path | None = None
    """PEM certificate chain of this server. TLS is on when it and the key are set."""
    tls_key: Path | None = None
    """PEM private key of this server."""
    tls_client_ca: Path | None = None
    """PEM certificate authorities of clients; set, every client must show a certificate (mutual TLS)."""
    token_file: Path | None = None
    """Lines of ``PRINCIPAL SHA256HEX``; set, calls need ``authorization: Bearer TOKEN``."""
    tokens: str | None = Field(default=None, repr=False)
    """The same lines themselves, from a secret in the environment, instead of a file."""
    access_file: Path | None = None
    """TOML of what each principal may call and how much, see ``access.py``; unset: everything."""
    reload_seconds: float = Field(default=1.0, ge=0)
    """Longest time until a changed certificate, token or access file counts, in seconds."""
    audit_file: Path | None = None
    """JSON lines of who called what with which outcome; unset: none are written."""
    audit_bytes: int = Field(default=64 * 2**20, ge=4096)
    """Size at which the audit file is put aside and a new one begun, in bytes."""
    audit_files: int = Field(default=8, ge=1)
    """Audit files kept aside; older ones are removed."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics. They need no token: anything but loopback needs ``allow_open_metrics``."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port on which Prometheus reads ``/metrics``; 0 lets the system choose; unset: none."""
    allow_open_metrics: bool = False
    """Give metrics on an address other than loopback (a network policy protects the port, say)."""
    health_host: str = "127.0.0.1"
    """Address of the port for health checks alone, which tells nobody more than SERVING or NOT_SERVING."""
    health_port: int | None = Field(default=None, ge=0, le=65535)
    """Port that answers ``grpc.health.v1`` without TLS and nothing else; unset: none."""
    log_format: Literal["json", "text"] = "json"
    """Form of the lines on standard error of a served process."""
    trace_endpoint: str | None = None
    """OTLP/HTTP address that spans are sent to, ``http://127.0.0.1:4318/v1/traces``; unset: nowhere."""
    execution_providers: str = Field(default="CPUExecutionProvider", min_length=1)
    """What the network runs on: ONNX Runtime execution providers in order, separated by commas."""
    allow_provider_fallback: bool = False
    """Serve without a provider that is missing, with a warning and a metric, instead of failing."""
    max_scenarios: int = Field(default=10_000, ge=1)
    """Most scenarios of one request."""
    max_streamed_scenarios: int = Field(default=1_000_000, ge=1)
    """Most scenarios of one GenerateScenarios, which never has them all in memory."""
    max_stream_requests: int = Field(default=8, ge=1)
    """Requests of one DecideStream worked on at once; it is read no faster."""
    outcomes_folder: Path | None = None
    """Folder in which decisions and their outcomes are kept, by one server at a time; unset: none are."""
    canary_share: float = Field(default=0.0, ge=0, le=1)
    """Share of decisions that the version with the alias ``canary`` answers too; needs the folder."""
    ladder: str = ""
    """Cheaper answers under load: steps ``RUNG:REQUESTS`` or ``RUNG:REQUESTS:SECONDS``, separated by commas.
    Each adds its rung (``fewer_scenarios``, ``surrogate_solver``, ``student_sampler``,
    ``baseline_scenarios``) from so many questions under way on, or from so long a wait on, and must have been
    measured (``hedgecast measure-ladder``). Empty: none."""
    ladder_scenarios: int = Field(default=50, ge=1)
    """Scenarios that ``fewer_scenarios`` leaves."""
    ladder_release: float = Field(default=0.5, gt=0, le=1)
    """Share of a step's load under which the load must stay before the step is left."""
    ladder_hold_seconds: float = Field(default=30.0, ge=0)
    """How long it must stay there, in seconds."""
    max_input_entries: int = Field(default=1_000_000, ge=1)
    """Most numbers in one table or array of a request."""
    max_message_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Largest message taken or sent, in bytes."""
    max_concurrent_requests: int = Field(default=32, ge=1)
    """Requests under way at once, waiting ones included; more are refused with RESOURCE_EXHAUSTED."""
    draw_batch_scenarios: int = Field(default=1024, ge=1)
    """Most scenarios of one run of the network, of all requests in it together."""
    draw_wait_seconds: float = Field(default=0.0, ge=0)
    """How long a run that is not full waits for further requests, in seconds."""
    draw_sessions: int = Field(default=1, ge=1)
    """Runs at once in one denoiser replica, each with a session of its own: several of one GPU, say."""
    max_queued_scenarios: int = Field(default=200_000, ge=1)
    """Scenarios that wait in one denoiser replica; beyond, requests are refused with RESOURCE_EXHAUSTED."""
    replica_retries: int = Field(default=3, ge=0)
    """How often work is begun again elsewhere when the replica that did it went away."""
    takeover_seconds: float = Field(default=30.0, ge=0)
    """Time between two looks at which version the served alias names, in seconds; 0: none are taken."""
    max_batch_requests: int = Field(default=16, ge=1)
    """Requests for decisions that are solved together where they wait together; 1: each by itself."""
    max_batch_scenarios: int = Field(default=20_000, ge=1)
    """Scenarios of all requests that are solved together, replications included."""
    batch_wait_seconds: float = Field(default=0.0, ge=0)
    """How long an idle solver waits for company for a request, in seconds; 0: it never does."""
    solver_calls: int = Field(default=2, ge=1)
    """Calls under way at each solver before further requests for decisions wait and go together; more than
    the target that solvers are scaled by."""
    retry_delay_seconds: float = Field(default=0.5, gt=0)
    """What refused callers are told to wait, in seconds."""
    default_deadline_seconds: float = Field(default=60.0, gt=0)
    """Deadline of calls that set none, in seconds."""
    max_streams_per_connection: int = Field(default=64, ge=1)
    """Calls under way on one connection; HTTP/2 makes clients wait with more."""
    max_connections: int = Field(default=256, ge=1)
    """Connections at once; more are closed as they come."""
    handshake_seconds: float = Field(default=10.0, gt=0)
    """Time for TLS and HTTP/2 to begin on a new connection, in seconds."""
    keepalive_seconds: float = Field(default=60.0, gt=0)
    """A connection that was silent so long is asked whether it lives, in seconds."""
    keepalive_timeout_seconds: float = Field(default=20.0, gt=0)
    """A connection that does not answer that in time is closed, in seconds."""
    max_connection_idle_seconds: float = Field(default=900.0, gt=0)
    """A connection without calls is closed after this time, in seconds."""
    max_connection_age_seconds: float = Field(default=3600.0, gt=0)
    """A connection is asked to come again after this time: certificates taken back end with it."""
    drain_seconds: float = Field(default=10.0, ge=0)
    """What requests under way get to finish on shutdown, in seconds."""
    drain_file: Path | None = None
    """When somebody touches this file the server drains as on shutdown: for a hook before a stop."""

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("set both tls_certificate and tls_key, or neither")
        if self.tls_client_ca is not None and not self.secure:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.token_file is not None and self.tokens is not None:
            raise ValueError("set token_file or tokens, not both")
        if not (_is_loopback(self.metrics_host) or self.allow_open_metrics or self.allow_insecure):
            raise ValueError(
                f"metrics_host {self.metrics_host!r} is not loopback: set allow_open_metrics where something "
                "else protects the port"
            )
        self.ladder_steps  # noqa: B018 - raises where it cannot be read
        if not self.providers:
            raise ValueError("execution_providers names none: CPUExecutionProvider, say")
        if not (self.loopback or self.secure or self.allow_insecure):
            raise ValueError(
                f"host {self.host!r} is not loopback and TLS is off: set tls_certificate and tls_key, or "
                "allow_insecure where something else protects the port"
            )
        return self

    @property
    def secure(self) -> bool:
        """Whether TLS is on."""
        return self.tls_certificate is not None

    @property
    def providers(self) -> tuple[str, ...]:
        """Names of `execution_providers`."""
        return tuple(name.strip() for name in self.execution_providers.split(",") if name.strip())

    @property
    def ladder_steps(self) -> tuple[LadderStep, ...]:
        """The steps of `ladder`, in order."""
        steps = tuple(map(_ladder_step, filter(None, map(str.strip, self.ladder.split(",")))))
        rungs = [step.rung for step in steps]
        if len(set(rungs)) < len(rungs):
            raise ValueError(f"ladder {self.ladder!r} names a rung twice")
        try:
            climbed([Rung(rung) for rung in rungs])
        except ConfigError as error:
            raise ValueError(f"ladder {self.ladder!r}: {error}") from error
        for one, other in itertools.pairwise(steps):
            if other.requests <= one.requests:
                raise ValueError(
                    f"ladder {self.ladder!r}: {other.rung} must start at more requests than {one.rung}"
                )
        return steps

    @property
    def batch_limits(self) -> Limits:
        """Of the requests that are solved together."""
        return Limits(
            jobs=self.max_batch_requests,
            weight=self.max_batch_scenarios,
            wait_seconds=self.batch_wait_seconds,
        )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)

    @staticmethod
    def address_of(host: str, port: int) -> str:
        """HOST:PORT, an IPv6 host in brackets."""
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ladder_step(text: str) -> LadderStep:
    rung, _, load = text.partition(":")
    requests, _, seconds = load.partition(":")
    known = [member.value for member in Rung]
    try:
        step = LadderStep(rung, int(requests), float(seconds) if seconds else None)
    except ValueError:
        step = LadderStep(rung, 0, None)
    # NaN fails this too.
    right = step.requests >= 1 and (step.seconds is None or 0.0 < step.seconds < math.inf)
    if rung not in known or not right:
        raise ValueError(
            f"ladder step {text!r}: must be RUNG:REQUESTS or RUNG:REQUESTS:SECONDS, RUNG one of "
            f"{', '.join(known)}, both numbers positive"
        )
    return step


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(**overrides: object) -> ServiceSettings:
    """Settings from the environment, with ``overrides`` on top.

    Raises
    ------
    ConfigError
        A value that is not allowed; the message names the setting.
    """
    try:
        return ServiceSettings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(dict(detail)) for detail in error.errors())) from None


def _describe(detail: dict[str, object]) -> str:
    location = detail["loc"]
    assert isinstance(location, tuple)
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"HEDGECAST_{str(location[0]).upper()} = {detail['input']!r}: {message}" if location else message
