"""Whether a service answers and is ready: ``python -m hedgecast.service.probe --address HOST:PORT``.

For health checks that are commands (a compose file, a load balancer's script) and for runbooks. It ends
with 0 only where ``grpc.health.v1`` says SERVING. No token is needed; with mutual TLS a certificate is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hedgecast.core.errors import ConfigError, UnavailableError

_Status = health_pb2.HealthCheckResponse.ServingStatus


def probe(
    address: str,
    *,
    authorities: bytes | None = None,
    certificate: bytes | None = None,
    key: bytes | None = None,
    server_name: str | None = None,
    timeout_seconds: float = 3.0,
) -> str:
    """The health of the whole service by its name: ``SERVING``, ``NOT_SERVING`` or ``UNKNOWN``.

    Parameters
    ----------
    address : str
        HOST:PORT.
    authorities : bytes, optional
        PEM certificates that the server's is checked against; None: no TLS.
    certificate, key : bytes, optional
        PEM, shown to a server that asks for one.
    server_name : str, optional
        The name in the server's certificate where ``address`` is another, 127.0.0.1 say.
    timeout_seconds : float
        To connect and to answer.

    Raises
    ------
    UnavailableError
        Nothing answers there in time, or not in this way (TLS on one side only, an unknown certificate).
    """
    if authorities is None:
        channel = grpc.insecure_channel(address)
    else:
        credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
        options = [] if server_name is None else [("grpc.ssl_target_name_override", server_name)]
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            raise UnavailableError(
                f"{address} does not answer: {error.code().name}, {error.details()}", address=address
            ) from error
    return str(_Status.Name(answer.status))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the health; 0 where it is SERVING, else 1."""
    parser = argparse.ArgumentParser(prog="python -m hedgecast.service.probe", description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT (%(default)s)")
    parser.add_argument("--authorities", type=Path, help="PEM file of authorities: asks over TLS")
    parser.add_argument("--certificate", type=Path, help="PEM file shown to the server (mutual TLS)")
    parser.add_argument("--key", type=Path, help="PEM file of its key")
    parser.add_argument(
        "--server-name", help="name in the server's certificate, where the address is another"
    )
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds (%(default)s)")
    asked = parser.parse_args(arguments)
    try:
        health = probe(
            asked.address,
            authorities=_content(asked.authorities),
            certificate=_content(asked.certificate),
            key=_content(asked.key),
            server_name=asked.server_name,
            timeout_seconds=asked.timeout,
        )
    except (UnavailableError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    print(health)
    return 0 if health == "SERVING" else 1


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", file=str(path)) from error


if __name__ == "__main__":
    sys.exit(main())
