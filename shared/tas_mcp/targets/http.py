"""Target types ``http`` and ``webhook``: their document."""

from typing import Literal
from urllib.parse import urlsplit

from tas_mcp.errors import Flaw
from tas_mcp.signature import secret_key
from tas_mcp.targets.target import Config, Target
from tas_mcp.validation import escape

SECRET_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie", "x-api-key"))
OWN_HEADERS = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "webhook-id", "webhook-timestamp", "webhook-signature")
)


class HttpConfig(Config, frozen=True, kw_only=True):
    """How to deliver over HTTP."""

    format: Literal["tas", "data"] = "tas"
    headers: dict[str, str] = {}
    signing_secret: str = ""
    """``whsec_`` and base64: each request is signed after Standard Webhooks."""


class HttpTarget(Target, frozen=True, kw_only=True, tag="http"):
    """Plain HTTP POST."""

    secrets = (("config", "signing_secret"), ("config", "headers", SECRET_HEADERS))

    endpoint: str
    config: HttpConfig | None = None

    @property
    def delivery(self) -> HttpConfig:
        return self.config or HttpConfig()

    def flaws(self) -> list[Flaw]:
        config = self.delivery
        return [*check_url(self.endpoint), *check_headers(config.headers), *_check_secret(config.signing_secret)]


class WebhookTarget(HttpTarget, frozen=True, kw_only=True, tag="webhook"):
    """HTTP POST after Standard Webhooks."""


def _check_secret(secret: str) -> list[Flaw]:
    if not secret:
        return []
    try:
        secret_key(secret)
    except ValueError as error:
        return [Flaw("/config/signing_secret", str(error))]
    return []


def check_url(endpoint: str) -> list[Flaw]:
    try:
        url = urlsplit(endpoint)
        port = url.port
        (url.hostname or "").encode("idna")
    except ValueError as error:
        return [Flaw("/endpoint", f"is no URL: {error}")]
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        return [Flaw("/endpoint", "must be http://host[:port]/path or https://...")]
    if not endpoint.isprintable() or " " in endpoint:
        return [Flaw("/endpoint", "must not contain blanks or control characters")]
    if url.username or url.password:
        return [Flaw("/endpoint", "must not contain user and password; use a header in config.headers")]
    return []


def check_headers(headers: dict[str, str]) -> list[Flaw]:
    flaws = []
    for name, value in headers.items():
        pointer = "/config/headers/" + escape(name)
        if not name or not name.isascii() or not all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name):
            flaws.append(Flaw(pointer, "is no header name"))
        elif name.lower() in OWN_HEADERS:
            flaws.append(Flaw(pointer, "is set by the gateway itself"))
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            flaws.append(Flaw(pointer, "the value must not contain control characters"))
    return flaws
