"""The target document (bucket ``tas_targets``): where events go, by which rules, and how.

Data only: what is valid, and what the defaults are. ``control`` writes it, ``process`` reads the rules, ``forward`` the rest.
A new target type is one Struct here, one line in ``TARGETS``, and its file in ``services/forward/targets/``.
"""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from tas_mcp import subjects
from tas_mcp.durations import Duration, from_json, to_json
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.routing import Rule, RuleSet, compile_rules
from tas_mcp.signature import secret_key
from tas_mcp.validation import escape, flaw

SECRET_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie", "x-api-key"))
OWN_HEADERS = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "webhook-id", "webhook-timestamp", "webhook-signature")
)
DEFAULT_SCHEDULE = tuple(map(Duration.parse, ("5s", "5m", "30m", "2h", "5h", "10h")))
MASK = "***"


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to try again: the n-th wait after the n-th failed attempt, each +-20 %. An empty schedule: never."""

    schedule: Annotated[tuple[Duration, ...], Meta(max_length=50)] = DEFAULT_SCHEDULE


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to deliver over HTTP."""

    timeout: Duration = Duration(15)
    format: Literal["tas", "data"] = "tas"
    headers: dict[str, str] = {}
    signing_secret: str = ""
    """``whsec_`` and base64: each request is signed after Standard Webhooks."""
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 64
    retry: Retry = Retry()
    max_queue: Annotated[int, Meta(ge=1)] = 1_000_000
    overflow: Literal["dead", "drop"] = "dead"


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every type of target has."""

    id: str
    name: str | None = None
    enabled: bool = True
    paused: bool = False
    rules: list[Rule] | None = None


class HttpTarget(Target, frozen=True, kw_only=True, tag="http"):
    """Plain HTTP POST."""

    endpoint: str
    config: Config | None = None

    @property
    def delivery(self) -> Config:
        return self.config or Config()


class WebhookTarget(HttpTarget, frozen=True, kw_only=True, tag="webhook"):
    """HTTP POST after Standard Webhooks."""


class Removed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="removed"):
    """A tombstone: the target is deleted, and what is queued for it is on its way to DEAD, or dropped."""

    id: str
    queue: Literal["dead", "discard"] = "dead"


TARGETS = HttpTarget | WebhookTarget
AnyTarget = HttpTarget | WebhookTarget
Stored = HttpTarget | WebhookTarget | Removed

_decode = msgspec.json.Decoder(Stored, dec_hook=from_json).decode
encode = msgspec.json.Encoder(enc_hook=to_json).encode


def decode(value: bytes) -> Stored:
    """Read a stored document: see ``compiled``."""
    return compiled(value)[0]


def compiled(value: bytes) -> tuple[AnyTarget, RuleSet] | tuple[Removed, None]:
    """Read a stored document, with its rules compiled.

    Raises:
        Rejected: it is not valid (written by hand, or by a newer version).
    """
    try:
        found: Stored = _decode(value)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _invalid([flaw(error)]) from None
    return (found, None) if isinstance(found, Removed) else (found, _check(found))


def check(document: Any) -> tuple[AnyTarget, RuleSet]:
    """Read and check a document that somebody wants to store (decoded JSON), with all that is wrong with it.

    Raises:
        Rejected: ``INVALID_TARGET`` with a flaw for each problem.
    """
    if isinstance(document, dict) and document.get("config", 0) is None:
        document = {key: value for key, value in document.items() if key != "config"}
    try:
        target = msgspec.convert(document, TARGETS, dec_hook=from_json)
    except (msgspec.ValidationError, ValueError) as error:
        raise _invalid([flaw(error)]) from None
    return target, _check(target)


def _check(target: AnyTarget) -> RuleSet:
    """What types alone do not say; the compiled rules."""
    config = target.delivery
    flaws = [*_check_id(target.id), *_check_endpoint(target.endpoint)]
    flaws += [*_check_headers(config.headers), *_check_secret(config.signing_secret)]
    if not 0 < config.timeout <= 300:
        flaws.append(Flaw("/config/timeout", "must be above 0 and at most 5m"))
    try:
        rules = compile_rules(target.rules or ())
    except Rejected as error:
        flaws += error.flaws
    if flaws:
        raise _invalid(flaws)
    return rules


def masked(target: AnyTarget) -> dict[str, Any]:
    """The document as people may read it: secrets show as ``***`` and their last four characters."""
    shown: dict[str, Any] = msgspec.to_builtins(target, enc_hook=to_json)
    if target.config:
        if target.config.signing_secret:
            shown["config"]["signing_secret"] = mask(target.config.signing_secret)
        shown["config"]["headers"] = {
            name: mask(value) if name.lower() in SECRET_HEADERS else value for name, value in target.config.headers.items()
        }
    return shown


def mask(secret: str) -> str:
    return MASK + (secret[-4:] if len(secret) > 12 else "")


def unmask(document: Any, current: AnyTarget | None) -> Any:
    """``document`` with every secret that came back masked, unchanged, replaced by the stored one."""
    config = document.get("config") if isinstance(document, dict) else None
    if current is None or current.config is None or not isinstance(config, dict):
        return document
    stored = current.config
    found = dict(config)
    if stored.signing_secret and config.get("signing_secret") == mask(stored.signing_secret):
        found["signing_secret"] = stored.signing_secret
    if isinstance(config.get("headers"), dict):
        found["headers"] = {
            name: stored.headers[name]
            if name.lower() in SECRET_HEADERS and name in stored.headers and value == mask(stored.headers[name])
            else value
            for name, value in config["headers"].items()
        }
    return {**document, "config": found}


def _check_secret(secret: str) -> list[Flaw]:
    if not secret:
        return []
    try:
        secret_key(secret)
    except ValueError as error:
        return [Flaw("/config/signing_secret", str(error))]
    return []


def _check_id(target_id: str) -> list[Flaw]:
    if not 0 < len(target_id.encode()) <= 64 or not target_id.isprintable():
        return [Flaw("/id", "must be 1 to 64 bytes of printable text")]
    if target_id == subjects.POISON:
        return [Flaw("/id", f"{subjects.POISON} is reserved")]
    return []


def _check_endpoint(endpoint: str) -> list[Flaw]:
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


def _check_headers(headers: dict[str, str]) -> list[Flaw]:
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


def _invalid(flaws: list[Flaw]) -> Rejected:
    what = "; ".join(f"{each.pointer or 'document'}: {each.detail}" for each in flaws[:3])
    more = f" (and {len(flaws) - 3} more)" if len(flaws) > 3 else ""
    return Rejected("INVALID_TARGET", f"the target is not valid: {what}{more}", flaws)
