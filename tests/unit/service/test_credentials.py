"""TLS on real connections: mutual, swapped without a restart, strangers refused."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from hedgecast.client import Client, TlsFiles
from hedgecast.core import errors
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import ServiceSettings, load_settings

Authorities = Callable[[str], Any]


def _settings(ca: Any, *, mutual: bool, **changes: object) -> ServiceSettings:
    certificate, key = ca.issue("server")
    files = {"tls_certificate": certificate, "tls_key": key, "reload_seconds": 0.0}
    return load_settings(port=0, **files, **({"tls_client_ca": ca.certificates} if mutual else {}), **changes)


def _shown(address: str) -> str:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return str(x509.load_der_x509_certificate(shown).serial_number)


def _serial(path: Path) -> str:
    return str(x509.load_pem_x509_certificate(path.read_bytes()).serial_number)


def _refused(address: str, tls: TlsFiles | None) -> None:
    client = Client(address, tls=tls, retries=0, deadline_seconds=5)
    with client, pytest.raises(errors.UnavailableError):
        client.models()


def test_mutual_tls_knows_its_clients(local_backend: LocalBackend, authority: Authorities) -> None:
    ours, others = authority("ours"), authority("others")
    certificate, key = ours.issue("client")
    with background_server(local_backend, _settings(ours, mutual=True)) as address:
        known = TlsFiles(authorities=ours.certificates, certificate=certificate, key=key)
        with Client(address, tls=known) as client:
            assert client.models()
        _refused(address, None)
        _refused(address, TlsFiles(authorities=ours.certificates))
        stranger, its_key = others.issue("client")
        _refused(address, TlsFiles(authorities=ours.certificates, certificate=stranger, key=its_key))
        expired, its_key = ours.issue("late", age=-datetime.timedelta(hours=2))
        _refused(address, TlsFiles(authorities=ours.certificates, certificate=expired, key=its_key))
        with Client(address, tls=known) as client:
            assert client.models(), "the known client is still served"


def test_a_swapped_certificate_is_shown_without_a_restart(
    local_backend: LocalBackend, authority: Authorities
) -> None:
    ca = authority("ca")
    settings = _settings(ca, mutual=False)
    certificate = ca.folder / "server.pem"
    with background_server(local_backend, settings) as address:
        before = _serial(certificate)
        assert _shown(address) == before
        ca.issue("server")
        after = _serial(certificate)
        assert after != before
        assert _shown(address) == after
        with Client(address, tls=TlsFiles(authorities=ca.certificates)) as client:
            assert client.models()


def test_a_broken_swap_keeps_the_certificate_that_worked(
    local_backend: LocalBackend, authority: Authorities, caplog: pytest.LogCaptureFixture
) -> None:
    ca = authority("ca")
    settings = _settings(ca, mutual=False)
    certificate, key = ca.folder / "server.pem", ca.folder / "server.key"
    with background_server(local_backend, settings) as address:
        before = _shown(address)
        other, other_key = ca.issue("other")
        shutil.copy(other, certificate)
        assert _shown(address) == before, "the key is still the old one"
        assert "cannot be used" in caplog.text
        shutil.copy(other_key, key)
        assert _shown(address) == _serial(other)


def test_authorities_of_clients_are_swapped_too(local_backend: LocalBackend, authority: Authorities) -> None:
    ours, others = authority("ours"), authority("others")
    settings = _settings(ours, mutual=True)
    certificate, key = others.issue("client")
    tls = TlsFiles(authorities=ours.certificates, certificate=certificate, key=key)
    trusted = ours.folder / "ca.pem"
    kept = ours.folder / "kept.pem"
    shutil.copy(trusted, kept)
    with background_server(local_backend, settings) as address:
        _refused(address, tls)
        shutil.copy(others.certificates, trusted)
        known = TlsFiles(authorities=kept, certificate=certificate, key=key)
        with Client(address, tls=known) as client:
            assert client.models()


def test_the_certificate_names_the_principal(
    local_backend: LocalBackend, authority: Authorities, tmp_path: Path
) -> None:
    ca = authority("ca")
    access = tmp_path / "access.toml"
    access.write_text('[principals."grid desk"]\nmethods = ["ListModels"]\n')
    certificate, key = ca.issue("grid desk", file="desk")
    other, other_key = ca.issue("somebody", file="other")
    with background_server(local_backend, _settings(ca, mutual=True, access_file=access)) as address:
        with Client(
            address, tls=TlsFiles(authorities=ca.certificates, certificate=certificate, key=key)
        ) as client:
            assert client.models()
            with pytest.raises(errors.PermissionDeniedError, match="grid desk may not call GetModel"):
                client.model("last_day")
        tls = TlsFiles(authorities=ca.certificates, certificate=other, key=other_key)
        with Client(address, tls=tls) as client, pytest.raises(errors.PermissionDeniedError):
            client.models()


@pytest.mark.parametrize("broken", ["pair", "text", "missing", "authorities"])
def test_files_that_cannot_serve_are_one_clear_error_at_the_start(
    local_backend: LocalBackend, authority: Authorities, broken: str
) -> None:
    ca = authority("ca")
    settings = _settings(ca, mutual=True)
    if broken == "pair":
        ca.issue("other")
        shutil.copy(ca.folder / "other.key", ca.folder / "server.key")
    elif broken == "text":
        (ca.folder / "server.pem").write_text("no certificate")
    elif broken == "missing":
        (ca.folder / "server.key").unlink()
    else:
        ca.certificates.write_text("no certificate")
    with pytest.raises(errors.ConfigError), background_server(local_backend, settings):
        pass


def test_a_plain_connection_to_a_tls_port_is_refused(
    local_backend: LocalBackend, authority: Authorities
) -> None:
    with (
        background_server(local_backend, _settings(authority("ca"), mutual=False)) as address,
        grpc.insecure_channel(address) as channel,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(channel).result(timeout=1)
