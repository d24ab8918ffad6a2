"""Target types ``http`` and ``webhook``: their document."""

from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta

from tas_mcp.errors import Flaw
from tas_mcp.signature import signing
from tas_mcp.targets import authentication
from tas_mcp.targets.authentication import ApiKey, Authentication, Unauthenticated
from tas_mcp.targets.policies import HealthCheck, Retry
from tas_mcp.targets.target import Config, Target
from tas_mcp.targets.tls import Tls
from tas_mcp.targets.urls import header_name_flaw, header_value_flaw, path_flaws, url_flaws
from tas_mcp.validation import escape

SECRET_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie", "x-api-key"))
UNFIT_METHODS = frozenset(("CONNECT", "HEAD", "TRACE"))
"""They carry no body, or their answers are none (RFC 9110)."""


class HttpRetry(Retry, frozen=True, kw_only=True):
    """When to try again, and after which answers besides 408, 425, 429 and 5xx."""

    on: Annotated[tuple[Annotated[int, Meta(ge=300, le=599)] | Literal["3xx", "4xx", "5xx"], ...], Meta(max_length=50)] = ()


class HttpHealthCheck(HealthCheck, frozen=True, kw_only=True):
    """A GET of ``path`` on the endpoint's host; 2xx is good."""

    path: str


class HttpConfig(Config, frozen=True, kw_only=True):
    """How to deliver over HTTP."""

    method: Annotated[str, Meta(pattern="^[A-Z]{1,20}$")] = "POST"
    format: Literal["tas", "cloudevents", "cloudevents-binary", "standard", "data"] = "tas"
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    """Parameters that are added to the endpoint's."""
    authentication: Authentication | None = None
    signing_secret: str | Annotated[list[str], Meta(max_length=10)] = ""
    """``whsec_`` or ``whsk_`` and base64: each request is signed after Standard Webhooks, with each of several."""
    tls: Tls | None = None
    retry: HttpRetry = HttpRetry()
    health_check: HttpHealthCheck | None = None

    @property
    def signing_secrets(self) -> list[str]:
        if isinstance(self.signing_secret, list):
            return self.signing_secret
        return [self.signing_secret] if self.signing_secret else []


class HttpTarget(Target, frozen=True, kw_only=True, tag="http"):
    """Plain HTTP."""

    secrets = (
        ("config", "signing_secret"),
        ("config", "signing_secret", "*"),
        ("config", "headers", SECRET_HEADERS),
        ("config", "authentication", authentication.SECRETS),
        ("config", "tls", "key"),
    )

    endpoint: str
    config: HttpConfig | None = None

    @property
    def delivery(self) -> HttpConfig:
        return self.config or HttpConfig()

    def flaws(self) -> list[Flaw]:
        config = self.delivery
        flaws = [*url_flaws(self.endpoint, "/endpoint"), *_check_headers(config), *_check_secrets(config)]
        if config.method in UNFIT_METHODS:
            flaws.append(Flaw("/config/method", f"{config.method} cannot carry a delivery"))
        flaws += [Flaw("/config/query/", "must not be empty") for name in config.query if not name]
        if config.health_check is not None:
            flaws += path_flaws(config.health_check.path, "/config/health_check/path")
        if config.authentication is not None:
            flaws += config.authentication.flaws()
        if config.tls is not None:
            flaws += config.tls.flaws()
            if not self.endpoint.startswith("https:"):
                flaws.append(Flaw("/config/tls", "is for https:// endpoints"))
        return flaws


class WebhookTarget(HttpTarget, frozen=True, kw_only=True, tag="webhook"):
    """HTTP after Standard Webhooks."""


def userinfo_moved(document: dict[str, Any]) -> dict[str, Any]:
    """The document with user and password of its endpoint as Basic authentication, where it has no other; what is no such
    document is left for the checks."""
    endpoint, config = document.get("endpoint"), document.get("config", {})
    if document.get("type") not in ("http", "webhook") or not isinstance(endpoint, str) or not isinstance(config, dict):
        return document
    if config.get("authentication") is not None:
        return document
    try:
        url = urlsplit(endpoint)
    except ValueError:
        return document
    if url.username is None:
        return document
    basic = {"type": "basic", "username": unquote(url.username), "password": unquote(url.password or "")}
    bare = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
    return {**document, "endpoint": bare, "config": {**config, "authentication": basic}}


def _check_secrets(config: HttpConfig) -> list[Flaw]:
    flaws = []
    for index, secret in enumerate(config.signing_secrets):
        try:
            signing([secret])
        except ValueError as error:
            where = f"/{index}" if isinstance(config.signing_secret, list) else ""
            flaws.append(Flaw(f"/config/signing_secret{where}", str(error)))
    return flaws


def _check_headers(config: HttpConfig) -> list[Flaw]:
    flaws = []
    for name, value in config.headers.items():
        pointer = "/config/headers/" + escape(name)
        detail = header_name_flaw(name) or _taken(name.lower(), config)
        flaws += [Flaw(pointer, each) for each in (detail, header_value_flaw(value)) if each]
    return flaws


def _taken(name: str, config: HttpConfig) -> str:
    """Why a header has its value already."""
    if config.format == "cloudevents-binary" and name.startswith("ce-"):
        return "is set by the gateway itself (cloudevents-binary)"
    given = config.authentication
    if given is None or isinstance(given, Unauthenticated) or (isinstance(given, ApiKey) and given.place == "query"):
        return ""
    used = given.name.lower() if isinstance(given, ApiKey) else "authorization"
    return "is set by config.authentication" if name == used else ""
