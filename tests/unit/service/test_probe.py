"""What a health check of a command is told, over plain and mutual TLS connections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgecast.core.errors import UnavailableError
from hedgecast.service.background import background_server
from hedgecast.service.models import ModelDescription
from hedgecast.service.probe import main, probe
from hedgecast.service.queries import Query
from hedgecast.service.settings import load_settings


class NoBackend:
    async def models(self) -> tuple[ModelDescription, ...]:
        return ()

    async def answer(self, query: Query[Any]) -> Any:
        raise AssertionError("health asks no backend")


def test_only_a_ready_service_ends_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    for ready, said, code in ((False, "NOT_SERVING", 1), (True, "SERVING", 0)):
        with background_server(NoBackend(), load_settings(port=0), ready=ready) as address:
            assert main(["--address", address]) == code
        assert capsys.readouterr().out.strip() == said


def test_a_port_without_a_service_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--address", "127.0.0.1:1", "--timeout", "2"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("127.0.0.1:1 does not answer: UNAVAILABLE")


def test_an_unreadable_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--authorities", str(tmp_path / "none.pem")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_mutual_tls_wants_a_certificate_and_the_right_authority(
    authority: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ours, others = authority("ours"), authority("others")
    certificate, key = ours.issue("server")
    mine, my_key = ours.issue("client")
    settings = load_settings(
        port=0,
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=ours.certificates,
        tokens="a " + "0" * 64,
    )
    with background_server(NoBackend(), settings) as address:
        files = ["--authorities", str(ours.certificates), "--certificate", str(mine), "--key", str(my_key)]
        assert main(["--address", address, *files]) == 0, "and no token"
        with pytest.raises(UnavailableError):
            probe(address, authorities=ours.certificates.read_bytes())
        with pytest.raises(UnavailableError):
            probe(address)
        strangers = others.certificates.read_bytes()
        with pytest.raises(UnavailableError):
            probe(address, authorities=strangers, certificate=mine.read_bytes(), key=my_key.read_bytes())
        with pytest.raises(UnavailableError):
            probe(
                address,
                authorities=ours.certificates.read_bytes(),
                certificate=mine.read_bytes(),
                key=my_key.read_bytes(),
                server_name="another.example",
            )
