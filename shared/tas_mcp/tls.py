"""TLS of the ports that are open to clients: the certificate that we show, and whose certificates we take.

The files are looked at each second. When they change, what they hold is loaded as one whole, and new handshakes use it; open
connections go on. Files that cannot be used leave what was in force in force: a log line, ``note`` and ``mcp_certificate_valid``
say so. Only TLS 1.3 is spoken.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509

from tas_mcp import telemetry
from tas_mcp.background import background
from tas_mcp.errors import Misconfigured
from tas_mcp.settings import PublicSettings

log = telemetry.logger("tls")

LOOK_SECONDS = 1.0
ALPN = ("http/1.1",)

EXPIRY = telemetry.gauge("mcp_certificate_expiry_seconds", "When the certificate of the public ports expires, in Unix seconds")
VALID = telemetry.gauge("mcp_certificate_valid", "0 while the newest certificate files cannot be used, and the old ones stay")

Stamps = tuple[tuple[int, int, int], ...]


class Files(NamedTuple):
    """Paths of PEM files: our certificate with its chain, its key, and the authorities whose clients we take (may be ``""``)."""

    certificate: str
    key: str
    client_ca: str

    def stamps(self) -> Stamps:
        """What tells one state of the files from another; links are followed, so that swapping one counts as a change.

        Raises:
            OSError: one is missing.
        """
        found = [Path(path).stat() for path in self if path]
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


class Loaded(NamedTuple):
    """What the files held."""

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    client_ca: bytes
    expires: float
    """Unix seconds."""


class Certificates:
    """The certificates in force. ``note`` says what people should know of newer ones, or ``""``."""

    def __init__(self, files: Files, client_required: bool, seconds: float) -> None:
        """Raises:
        Misconfigured: the files cannot be used; the text names the settings.
        """
        self._files = files
        self.client_required = client_required and bool(files.client_ca)
        """Whether only clients with a certificate are let in."""
        self._seconds = seconds
        self.note = ""
        try:
            self._stamps = files.stamps()
            self.loaded = self._load()
            self.context = self._load().context
            """What to listen with. Each handshake goes on with what is in force then."""
        except (OSError, ValueError) as error:
            raise Misconfigured(f"TAS_TLS_CERT_FILE, TAS_TLS_KEY_FILE, TAS_TLS_CLIENT_CA_FILE: {_said(error)}") from None
        self.context.sni_callback = self._choose
        self._told()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Certificates"]:
        """Follow the files while inside."""
        async with background(self._follow()):
            yield self

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            self._look()

    def _look(self) -> None:
        try:
            stamps = self._files.stamps()
            if stamps == self._stamps and not self.note:
                return
            loaded = self._load()
            if self._files.stamps() != stamps:  # they are being written: a later look finds them whole
                return
        except (OSError, ValueError) as error:
            self._refuse(_said(error))
            return
        self._stamps, self.loaded, self.note = stamps, loaded, ""
        self._told()
        log.info("new certificates are in force", certificate=self._files.certificate)

    def _told(self) -> None:
        EXPIRY.set(self.loaded.expires)
        VALID.set(1)

    def _refuse(self, detail: str) -> None:
        VALID.set(0)
        note = f"the newest files cannot be used, the old certificates stay in force: {detail}"
        if note != self.note:
            log.error("certificates not valid, the old ones stay", detail=detail)
        self.note = note

    def _load(self) -> Loaded:
        """Raises:
        OSError, ValueError: something is missing, is no PEM, or does not belong together (``ssl.SSLError`` is an ``OSError``).
        """
        files = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(ALPN)
        context.load_cert_chain(files.certificate, files.key, password="")  # an encrypted key fails, and asks nobody
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if self.client_required else ssl.CERT_OPTIONAL
            context.num_tickets = 0  # a resumed session would not be held against authorities that changed since
        certificate, key, client_ca = (Path(path).read_bytes() if path else b"" for path in files)
        expires = x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()
        return Loaded(context, certificate, key, client_ca, expires)

    def _choose(self, handshake: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        handshake.context = self.loaded.context


def certificates(settings: PublicSettings, seconds: float = LOOK_SECONDS) -> Certificates | None:
    """Those that the settings name, looked at every ``seconds``; None where they name none.

    Raises:
        Misconfigured: they do not go together, or the files cannot be used.
    """
    files = Files(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    if settings.tls_callers and not files.client_ca:
        raise Misconfigured("TAS_TLS_CALLERS needs TAS_TLS_CLIENT_CA_FILE: the authority whose certificates bear these names")
    if not any(files):
        return None
    if not (files.certificate and files.key):
        raise Misconfigured("TAS_TLS_CERT_FILE and TAS_TLS_KEY_FILE come together; TAS_TLS_CLIENT_CA_FILE needs both")
    return Certificates(files, settings.tls_client == "required", seconds)


def names(transport: asyncio.BaseTransport | None) -> tuple[str, ...]:
    """The names of the client at the other end: the URIs (SPIFFE ids among them) and the DNS names among the subject alternative
    names of its certificate, URIs first; none without a certificate. The common name is none."""
    certificate: dict[str, Any] = (transport and transport.get_extra_info("peercert")) or {}
    found = certificate.get("subjectAltName", ())
    return tuple(name for kind in ("URI", "DNS") for each, name in found if each == kind)


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"the certificates cannot be loaded: {error.reason or error}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
