"""Certificates for the service's tests."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOUR = datetime.timedelta(hours=1)


class Authority:
    """Issues loopback certificates into ``folder``: NAME.pem and NAME.key; ca.pem vouches for them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.certificates = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        self.certificates.write_bytes(self._signed(self._name, self._key, authority=True, age=-HOUR / 60))

    def issue(self, who: str, *, file: str = "", age: datetime.timedelta = -HOUR / 60) -> tuple[Path, Path]:
        """Certificate and key, valid for an hour from ``age`` from now on."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, who)])
        certificate, secret = self.folder / f"{file or who}.pem", self.folder / f"{file or who}.key"
        certificate.write_bytes(self._signed(name, key, authority=False, age=age))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, secret

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool, age: datetime.timedelta
    ) -> bytes:
        begin = datetime.datetime.now(datetime.UTC) + age
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + HOUR)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], Authority]:
    """Makes the authority of a name, in a folder of its own."""
    return lambda name: Authority(tmp_path / name)
