"""Settings: the environment's prefix, and no open port by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.service.settings import load_settings


def test_defaults_are_loopback_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEDGECAST_PORT", raising=False)
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 50051)
    assert settings.loopback
    assert not settings.secure


def test_the_environment_is_read_and_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGECAST_PORT", "1234")
    monkeypatch.setenv("HEDGECAST_MAX_SCENARIOS", "5")
    assert load_settings().port == 1234
    assert load_settings(port=99).port == 99
    assert load_settings().max_scenarios == 5


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert load_settings(host=host).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_any_other_address_needs_tls_or_an_explicit_word(host: str) -> None:
    with pytest.raises(ConfigError, match="TLS is off"):
        load_settings(host=host)
    assert load_settings(host=host, allow_insecure=True).allow_insecure
    assert load_settings(host=host, tls_certificate=Path("c"), tls_key=Path("k")).secure


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 70000}, "HEDGECAST_PORT = 70000"),
        ({"max_scenarios": 0}, "HEDGECAST_MAX_SCENARIOS = 0"),
        ({"drain_seconds": -1}, "HEDGECAST_DRAIN_SECONDS"),
        ({"prot": 1}, "HEDGECAST_PROT"),
        ({"tls_certificate": Path("c")}, "tls_certificate and tls_key"),
        ({"tls_client_ca": Path("c")}, "tls_client_ca needs"),
    ],
)
def test_a_bad_setting_is_one_error_with_its_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(**values)
