"""The gRPC server: one port, our services, health and reflection."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from hedgecast.core.errors import ConfigError
from hedgecast.rpc.v1 import (
    decision_service_pb2,
    decision_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    scenario_service_pb2,
    scenario_service_pb2_grpc,
)
from hedgecast.service.access import access_book
from hedgecast.service.audit import AuditLog
from hedgecast.service.backend import DecisionBackend
from hedgecast.service.canary import CANARY
from hedgecast.service.credentials import server_credentials
from hedgecast.service.door import Door
from hedgecast.service.health_port import HealthPort
from hedgecast.service.identity import Identity
from hedgecast.service.interceptors import CallGuard
from hedgecast.service.ladder import Ladder
from hedgecast.service.metrics import MetricsPort, ServiceMetrics
from hedgecast.service.outcomes import OutcomeBook
from hedgecast.service.records import CallLog, Recorder
from hedgecast.service.servicers import DecisionServicer, ModelServicer, ScenarioServicer
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import CallSpans

SERVICES = (
    decision_service_pb2.DESCRIPTOR.services_by_name["DecisionService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    scenario_service_pb2.DESCRIPTOR.services_by_name["ScenarioService"].full_name,
)

_DRAIN_POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


class DecisionServer:
    """Serves a backend until it is stopped; not healthy until `set_ready`.

    Parameters
    ----------
    backend : DecisionBackend
        What decides.
    settings : ServiceSettings
        Where to listen, whom to trust, how much to take on.

    Attributes
    ----------
    metrics : ServiceMetrics
        What Prometheus reads.
    """

    def __init__(self, backend: DecisionBackend, settings: ServiceSettings) -> None:
        self._settings = settings
        self._health = health_aio.HealthServicer()
        self.metrics = ServiceMetrics()
        self._audit = AuditLog.of(settings, self.metrics.audit_record_left_out)
        self._metrics_port: MetricsPort | None = None
        self._health_port: HealthPort | None = None
        self._drain: asyncio.Task[None] | None = None
        self._book = OutcomeBook.of(settings, self.metrics.set_performance)
        recorders: list[Recorder] = [CallLog(), CallSpans(), self.metrics]
        if self._audit is not None:
            recorders.append(self._audit)
        self._door = Door()
        guard = CallGuard(settings, Identity.of(settings), access_book(settings), recorders)
        self._server = grpc.aio.server(
            interceptors=[self._door, guard],
            options=_options(settings),
        )
        self._backend = backend
        self._ladder = Ladder(settings, self.metrics.set_ladder_step)
        self._decisions = DecisionServicer(backend, settings, self._book, self._ladder)
        decision_service_pb2_grpc.add_DecisionServiceServicer_to_server(self._decisions, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(backend, self._book), self._server
        )
        scenario_service_pb2_grpc.add_ScenarioServiceServicer_to_server(
            ScenarioServicer(backend, settings, self._book), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME),
            self._server,
        )

    @property
    def metrics_address(self) -> str | None:
        """HOST:PORT of the metrics while the server runs, where the settings ask for them."""
        return None if self._metrics_port is None else self._metrics_port.address

    async def start(self) -> str:
        """Listen; the address comes back as HOST:PORT. Health is NOT_SERVING.

        Raises
        ------
        ConfigError
            The port is taken or may not be used.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        wanted = self._settings.address_of(self._settings.host, self._settings.port)
        try:
            if self._settings.secure:
                port = self._server.add_secure_port(wanted, server_credentials(self._settings))
            else:
                port = self._server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {wanted}: the port is taken or not allowed; choose another (0: any)",
                address=wanted,
            ) from error
        if self._settings.health_port is not None:
            self._health_port = HealthPort(self._health, self._settings)
        if self._settings.metrics_port is not None:
            self._metrics_port = MetricsPort(self.metrics, self._settings)
        if self._health_port is not None:
            await self._health_port.start()
        await self._server.start()
        if self._settings.drain_file is not None:
            self._drain = asyncio.create_task(self._stop_when_touched(self._settings.drain_file))
        address = self._settings.address_of(self._settings.host, port)
        log.info("listening on %s%s", address, " with TLS" if self._settings.secure else "")
        return address

    async def set_ready(self) -> None:
        """Turn health to SERVING: the backend is warm.

        Raises
        ------
        ConfigError
            The settings allow a step of the ladder that was not measured for a served model.
        """
        self._ladder.check(await self._backend.models(), shadow=CANARY)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Turn health to NOT_SERVING, let requests under way finish, then close the port."""
        if self._drain is not None and self._drain is not asyncio.current_task():
            self._drain.cancel()
        await self._health.enter_graceful_shutdown()
        await self._door.stop(self._server, self._settings.drain_seconds)
        if self._health_port is not None:
            await self._health_port.close()
            self._health_port = None
        if self._metrics_port is not None:
            self._metrics_port.close()
            self._metrics_port = None
        if self._audit is not None:
            self._audit.close()
            self._audit = None
        await self._decisions.finish()
        await asyncio.to_thread(self._book.close)

    async def wait(self) -> None:
        """Return once the server has stopped."""
        await self._server.wait_for_termination()

    async def _stop_when_touched(self, file: Path) -> None:
        # A file that is there already was touched for somebody before this server.
        before = _touched(file)
        while _touched(file) in (before, None):
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        log.info("draining: %s was touched", file.name)
        await self.stop()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)


def _touched(file: Path) -> int | None:
    """When, in nanoseconds; None: the file is not there."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    def milliseconds(seconds: float) -> int:
        return max(round(1e3 * seconds), 1)

    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Two servers on one port would answer in turns.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", milliseconds(settings.handshake_seconds)),
        # Clients may ping an idle connection every 10 s; more often is refused.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_time_ms", milliseconds(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", milliseconds(settings.keepalive_timeout_seconds)),
        # What counts in truth: without it a ping has a minute.
        ("grpc.http2.ping_timeout_ms", milliseconds(settings.keepalive_timeout_seconds)),
        # Else nobody asks a connection without calls, and a client that asks more than once in 2 h loses it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", milliseconds(settings.max_connection_idle_seconds)),
        ("grpc.max_connection_age_ms", milliseconds(settings.max_connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", milliseconds(settings.drain_seconds)),
    ]
