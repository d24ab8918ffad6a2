"""Target type ``nats``: its document."""

import re
from typing import Literal

from tas_mcp.errors import Flaw
from tas_mcp.targets.http import SECRET_HEADERS
from tas_mcp.targets.target import Config, Target
from tas_mcp.targets.text import text_flaws
from tas_mcp.targets.tls import Tls
from tas_mcp.validation import escape

OWN_HEADERS = ("content-type", "webhook-id")
_SERVER = re.compile(r"(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\]):([1-9][0-9]{0,4})")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SEED = re.compile(r"SUA[A-P][A-Z2-7]{54}")
_CREDS = re.compile(
    r"-----BEGIN NATS USER JWT-----\r?\n[\w-]+\.[\w-]+\.[\w-]+\r?\n-+END NATS USER JWT-+\r?\n"
    rf".*^-----BEGIN USER NKEY SEED-----\r?\n{_SEED.pattern}\r?\n-+END USER NKEY SEED-+\s*",
    re.ASCII | re.DOTALL | re.MULTILINE,
)
_SUBJECT = re.compile(r"[^\s.*>$\x00-\x1f\x7f][^\s.*>\x00-\x1f\x7f]*(?:\.[^\s.*>\x00-\x1f\x7f]+)*")


class NatsConfig(Config, frozen=True, kw_only=True):
    """How to deliver to NATS. ``subject`` may be a Liquid template. With ``jetstream`` a delivery is done when a stream has
    stored it; without, when the server has read it, whoever listens. ``nkey`` is the seed of a user, ``creds`` the text of a
    credentials file (both docs.nats.io, "Authentication")."""

    subject: str
    jetstream: bool = True
    format: Literal["tas", "data", "cloudevents", "cloudevents-binary"] = "tas"
    headers: dict[str, str] = {}
    user: str = ""
    password: str = ""
    token: str = ""
    nkey: str = ""
    creds: str = ""
    tls: Tls | None = None
    health_check: None = None


class NatsTarget(Target, frozen=True, kw_only=True, tag="nats"):
    """Publishes to another NATS: ``nats://host:port[,host:port]``, or ``tls://...``."""

    secrets = (
        ("config", "password"),
        ("config", "token"),
        ("config", "nkey"),
        ("config", "creds"),
        ("config", "tls", "key"),
        ("config", "headers", SECRET_HEADERS),
    )

    endpoint: str
    config: NatsConfig

    @property
    def delivery(self) -> NatsConfig:
        return self.config

    def flaws(self) -> list[Flaw]:
        config = self.config
        flaws = [*check_servers(self.endpoint), *check_login(config.user, config.password, config.token, config.tls)]
        flaws += _check_keys(config)
        form = "must be a subject without wildcards and blanks that does not begin with $, or a template"
        flaws += text_flaws(config.subject, "/config/subject", is_subject, form)
        for name, value in config.headers.items():
            pointer = "/config/headers/" + escape(name)
            if not _NAME.fullmatch(name) or name.lower() in OWN_HEADERS or name.lower().startswith(("nats-", "ce-")):
                flaws.append(Flaw(pointer, "is no header name (letters, digits, _ -), or set by the gateway itself"))
            if not value.isprintable():
                flaws.append(Flaw(pointer, "the value must be printable"))
        return flaws


def is_subject(text: str) -> bool:
    return len(text) <= 1024 and _SUBJECT.fullmatch(text) is not None


def servers(endpoint: str) -> list[tuple[str, int]]:
    """Host and port of each server."""
    found = map(_SERVER.fullmatch, endpoint.partition("://")[2].split(","))
    return [(match[1] or match[2], int(match[3])) for match in found if match]


def check_servers(endpoint: str) -> list[Flaw]:
    scheme, _, names = endpoint.partition("://")
    found = servers(endpoint)
    if scheme not in ("nats", "tls") or len(found) != names.count(",") + 1 or any(port > 65535 for _, port in found):
        return [Flaw("/endpoint", "must be nats://host:port[,host:port]... or tls://...")]
    return []


def check_login(user: str, password: str, token: str, tls: Tls | None) -> list[Flaw]:
    flaws = tls.flaws() if tls else []
    if bool(user) != bool(password):
        flaws.append(Flaw("/config/user", "user and password come together"))
    if user and token:
        flaws.append(Flaw("/config/token", "either a token or user and password"))
    return flaws


def _check_keys(config: NatsConfig) -> list[Flaw]:
    flaws = []
    if config.nkey and not _SEED.fullmatch(config.nkey):
        flaws.append(Flaw("/config/nkey", "must be the seed of a user: SUA... and 54 more letters and digits"))
    if config.creds and not _CREDS.fullmatch(config.creds):
        flaws.append(Flaw("/config/creds", "must be the text of a credentials file: the JWT of a user and its NKEY seed"))
    ways = [name for name in ("user", "token", "nkey", "creds") if getattr(config, name)]
    if len(ways) > 1 and ways != ["user", "token"]:
        flaws.append(Flaw(f"/config/{ways[-1]}", f"one way to log in is enough: {ways[0]} is given too"))
    return flaws
