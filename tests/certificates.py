"""Certificates for tests: an authority, and what it signs. All in PEM."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: str
    key: str


class Authority:
    """Signs for ``localhost`` and an address; ``certificate`` is what to trust."""

    def __init__(self) -> None:
        self._key = generate_private_key(SECP256R1())
        self._name = _name("Test CA")
        self._own = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.certificate = self._own.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        name: str = "localhost",
        address: str = "127.0.0.1",
        uri: str = "",
        days: int = 1,
        password: bytes = b"",
        host: str = "localhost",
    ) -> Pair:
        """``host`` and ``address`` are whom it is for, ``uri`` is one more name; with negative ``days`` it has expired; with a
        ``password`` the key is encrypted."""
        key = generate_private_key(SECP256R1())
        uris = [x509.UniformResourceIdentifier(uri)] if uri else []
        names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ip_address(address)), *uris])
        builder = _builder(_name(name), self._name, key, days).add_extension(names, critical=False)
        certificate = builder.sign(self._key, SHA256())
        secret = key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password) if password else NoEncryption()
        )
        return Pair(certificate.public_bytes(Encoding.PEM).decode(), secret.decode())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int = 1) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=2),
        not_valid_after=now + timedelta(days=days),
    )
