"""Server certificates that are read again when their files change, without a restart."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from hedgecast.core.errors import ConfigError
from hedgecast.service.reloading import Reloaded
from hedgecast.service.settings import ServiceSettings


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials:
    """TLS credentials that every new connection takes from the files as they are then.

    With ``tls_client_ca`` a client must show a certificate that one of these authorities signed and that
    is within its time. Connections that stand keep what they were opened with, up to
    ``max_connection_age_seconds``.

    Raises
    ------
    ConfigError
        A file cannot be read, or key and certificate do not belong together.
    """
    assert settings.tls_certificate is not None
    assert settings.tls_key is not None
    certificate, key, authorities = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    paths = [certificate, key, *([] if authorities is None else [authorities])]
    files = Reloaded(
        paths, lambda: _configuration(certificate, key, authorities), seconds=settings.reload_seconds
    )
    return grpc.dynamic_ssl_server_credentials(
        files.value(), files.value, require_client_authentication=authorities is not None
    )


def _configuration(
    certificate: Path, key: Path, authorities: Path | None
) -> grpc.ServerCertificateConfiguration:
    chain, secret = _read(certificate), _read(key)
    _check_pair(certificate, key)
    trusted = None if authorities is None else _read(authorities)
    if authorities is not None:
        _check_authorities(authorities)
    return grpc.ssl_server_certificate_configuration([(secret, chain)], root_certificates=trusted)


def _check_pair(certificate: Path, key: Path) -> None:
    """Refuse a pair caught in the middle of a swap: grpc would take it and fail every handshake."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"{certificate.name} and {key.name} are no PEM certificate and its unencrypted key: {error}",
            certificate=certificate.name,
        ) from error


def _check_authorities(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{path.name} holds no PEM certificate of an authority: {error}") from error


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal.
    raise ValueError("the key is encrypted")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
