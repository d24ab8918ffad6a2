"""Settings of a process: environment variables over a TOML file over defaults, read once at the start.

``TAS_HTTP_PORT=8081`` sets ``http_port``. The file named by ``TAS_CONFIG`` holds the common settings at its top and one table for
each service (``[ingest]`` ...). A secret may be given as a file instead: ``TAS_NATS_PASSWORD_FILE``. What is edited while the
system runs (targets, schemas, keys) is no setting but a document (``tas_mcp.documents``).
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from tas_mcp.errors import Misconfigured
from tas_mcp.telemetry import LEVELS

PREFIX = "TAS_"
SECRETS = frozenset(("nats_password", "nats_token", "nats_nkey", "admin_key", "secret_key"))
SERVICES = ("ingest", "process", "forward", "control", "dev")

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Count = Annotated[int, Meta(gt=0)]
IDLE_SECONDS = 30.0
Level = Annotated[str, Meta(pattern=f"^({'|'.join(LEVELS)})$")]


class ServiceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every service has."""

    nats_url: str = "nats://127.0.0.1:4222"
    """One or more addresses of the broker, separated by commas."""
    nats_user: str = ""
    nats_password: str = ""
    nats_creds: str = ""
    """Path of a NATS credentials file."""
    nats_token: str = ""
    nats_nkey: str = ""
    """The seed of an nkey user."""
    nats_ca_file: str = ""
    """The authorities that the broker's certificate is held against, PEM; the system's where none are named."""
    nats_cert_file: str = ""
    """Our certificate towards the broker and its chain, PEM."""
    nats_key_file: str = ""
    nats_tls_first: bool = False
    """For a broker with ``handshake_first``: TLS from the first byte on."""
    nats_inbox_prefix: str = ""
    """Below which subject the broker answers this service; ``_INBOX_<service>`` where none is named."""
    host: str = "127.0.0.1"
    """The address that the ports are opened on."""
    ops_port: Port = 9090
    """Health and metrics."""
    log_level: Level = "info"
    log_format: Annotated[str, Meta(pattern="^(auto|json|text)$")] = "auto"
    drain_seconds: Seconds = 20.0
    """How long a stop may take: what is in flight is finished, then the process ends."""


class PublicSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a service has that clients connect to."""

    http_port: Port = 8080
    idle_seconds: Seconds = IDLE_SECONDS
    """How long a connection may be idle, or take to send the head of a request."""
    auth: Annotated[str, Meta(pattern="^(auto|keys|none)$")] = "auto"
    """Whether callers need a key or a token. ``auto``: they do, and a service that others than this machine can reach does not
    start before something says who may come in. ``keys``: they do. ``none``: whoever can connect may do everything."""
    admin_key: str = ""
    """A key that may do everything, to make the first keys with; best as a file (``TAS_ADMIN_KEY_FILE``) that nobody else may
    read."""
    jwt_issuer: str = ""
    """The identity provider whose tokens (JWT) are taken besides keys: their ``iss``."""
    jwt_audience: str = ""
    """What their ``aud`` has to hold: one name, or several, separated by commas, of which one is enough."""
    jwt_jwks_url: str = ""
    """Where the provider publishes its keys (a JWK Set)."""
    jwt_jwks_file: str = ""
    """Or a file that holds them."""
    jwt_scope_claim: str = "scope"
    """The claim that holds the scopes: words in a text, or a list."""
    jwt_leeway_seconds: Annotated[float, Meta(ge=0, le=600)] = 30.0
    """How far the provider's clock may be from ours."""
    trusted_proxies: str = ""
    """Networks of the proxies whose word on the client's address is believed: ``10.1.0.0/16,fd00:1::/32``."""
    forwarded_header: Annotated[str, Meta(pattern="^(x-forwarded-for|forwarded)$")] = "x-forwarded-for"
    """The header that these proxies append it to."""
    tls_cert_file: str = ""
    """Our certificate and its chain, PEM; with it the ports speak TLS 1.3 only (the ops port: plain HTTP)."""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    """The authorities whose client certificates are taken, PEM."""
    tls_client: Annotated[str, Meta(pattern="^(optional|required)$")] = "optional"
    """Whether a client must have a certificate, once ``tls_client_ca_file`` is set."""
    tls_callers: str = ""
    """What the names in client certificates may do: ``spiffe://example.org/shop/* = events:write, ops.example.org = admin``."""


S = TypeVar("S", bound=ServiceSettings)


def load(
    kind: type[S], service: str, environ: Mapping[str, str], siblings: Sequence[type[ServiceSettings]] = ()
) -> tuple[S, list[str]]:
    """Read the settings of ``service``, and warnings about ``TAS_`` variables that neither it nor its ``siblings`` know.

    Raises:
        Misconfigured: a bad value, an unknown key in the file, an unreadable file; the text names it.
    """
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, value, origin in _from_file(environ.get(PREFIX + "CONFIG", ""), service, fields):
        values[key], origins[key] = value, origin
    for key in fields:
        variable = PREFIX + key.upper()
        if variable in environ:
            values[key], origins[key] = environ[variable], variable
        elif variable + "_FILE" in environ:
            values[key], origins[key] = _secret(environ[variable + "_FILE"], variable + "_FILE"), variable + "_FILE"
    for key, value in values.items():
        try:
            values[key] = msgspec.convert(value, fields[key].type, strict=False)
        except msgspec.ValidationError as error:
            shown = "" if key in SECRETS else f" (it is {value!r})"
            raise Misconfigured(f"{origins[key]}: {error}{shown}") from None
    known = {field.name for each in siblings for field in msgspec.structs.fields(each)}
    return kind(**values), _unknown(environ, known | set(fields))


def _from_file(path: str, service: str, fields: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    if not path:
        return []
    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise Misconfigured(f"TAS_CONFIG: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"TAS_CONFIG: {path} is no TOML: {error}") from None
    common = {field.name for field in msgspec.structs.fields(ServiceSettings)}
    found: list[tuple[str, Any, str]] = []
    for key, value in document.items():
        if isinstance(value, dict) and key in SERVICES:
            continue
        if key not in common:
            raise Misconfigured(f"{path}: unknown key {key!r}{_nearest(key, [*common, *SERVICES])}")
        found.append((key, value, f"{path}: {key}"))
    for key, value in document.get(service, {}).items():
        if key not in fields:
            raise Misconfigured(f"{path}: [{service}] unknown key {key!r}{_nearest(key, fields)}")
        found.append((key, value, f"{path}: [{service}] {key}"))
    return found


def _secret(path: str, variable: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise Misconfigured(f"{variable}: cannot read {path}: {error.strerror}") from None


def _unknown(environ: Mapping[str, str], fields: Iterable[str]) -> list[str]:
    known = {PREFIX + name.upper() for name in fields} | {PREFIX + "CONFIG"}
    known |= {name + "_FILE" for name in known}
    strange = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    return [f"{name} is no setting of this service{_nearest(name, known)}" for name in strange if "_TEST_" not in name]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""
