"""A second port that answers health checks without TLS and nothing else.

A kubelet's gRPC probe cannot show a certificate. This port tells the same state as the main one, SERVING or
NOT_SERVING, and has no other method.
"""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from hedgecast.core.errors import ConfigError
from hedgecast.service.settings import ServiceSettings

_LARGEST_MESSAGE = 4096
_CONNECTIONS = 32


class HealthPort:
    """Answers ``grpc.health.v1`` until closed; see `ServiceSettings.health_port`.

    Made inside the loop that runs it: grpc.aio binds a server to the running loop.

    Parameters
    ----------
    health : HealthServicer
        The main port's own, so that both always say the same.
    settings : ServiceSettings
        ``health_host`` and ``health_port``.
    """

    def __init__(self, health: health_aio.HealthServicer, settings: ServiceSettings) -> None:
        assert settings.health_port is not None
        self._wanted = settings.address_of(settings.health_host, settings.health_port)
        self._server = grpc.aio.server(options=_options(settings))
        health_pb2_grpc.add_HealthServicer_to_server(health, self._server)
        try:
            self._server.add_insecure_port(self._wanted)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot answer health checks on {self._wanted}: the port is taken or not allowed; choose "
                "another health_port (0: any)",
                address=self._wanted,
            ) from error

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def close(self) -> None:
        """Close the port; watchers are cut off."""
        await self._server.stop(None)


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", _CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", max(round(1e3 * settings.handshake_seconds), 1)),
        ("grpc.max_connection_age_ms", max(round(1e3 * settings.max_connection_age_seconds), 1)),
    ]
