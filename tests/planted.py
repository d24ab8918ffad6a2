"""Targets of every type, with a secret of its own at every place where a target may have one."""

import base64
from typing import Any, NamedTuple

from tests.certificates import Authority

SECRET_HEADERS = ("Authorization", "proxy-authorization", "Cookie", "X-API-Key")


class Planted(NamedTuple):
    """``documents`` of targets by id; ``secrets`` what must be found nowhere."""

    documents: dict[str, dict[str, Any]]
    secrets: list[str]


def planted(endpoint: str, dark: str) -> Planted:
    """``endpoint`` is where HTTP targets are (``http://host:port``), ``dark`` a ``host:port`` where nobody answers."""
    made: list[str] = []

    def secret() -> str:
        made.append(f"plant{len(made):03}-{'s3cr3t' * 3}")
        return made[-1]

    def signing() -> str:
        made.append(base64.b64encode(secret().encode() + b"0123456789").decode().rstrip("="))
        return "whsec_" + base64.b64encode(base64.b64decode(made[-1] + "=" * (-len(made[-1]) % 4))).decode()

    def key() -> dict[str, str]:
        pair = Authority().issue()
        made.append(pair.key.splitlines()[2])  # the last line holds the public key, which the certificate may show alike
        return {"certificate": pair.certificate, "key": pair.key}

    def headers(*names: str) -> dict[str, str]:
        return {name: secret() for name in names}

    def http(name: str, **config: Any) -> dict[str, Any]:
        return {"id": name, "type": "webhook", "endpoint": f"{endpoint}/{name}", "config": config}

    token = {"token_url": f"{endpoint}/token", "client_id": "me"}
    userinfo = secret()
    found = [
        http("signed", signing_secret=[signing(), signing()], headers=headers(*SECRET_HEADERS)),
        http("bearer", authentication={"type": "bearer", "token": secret()}, signing_secret=signing()),
        http("basic", authentication={"type": "basic", "username": "me", "password": secret()}),
        http("oauth", authentication={"type": "oauth2", "client_secret": secret(), **token}),
        http("posted", authentication={
            "type": "oauth2", "client_secret": secret(), "token_endpoint_auth_method": "client_secret_post", **token
        }),
        http("header", authentication={"type": "api_key", "key": secret(), "name": "Key"}),
        http("query", authentication={"type": "api_key", "key": secret(), "name": "key", "in": "query"}),
        {"id": "userinfo", "type": "http", "endpoint": f"{endpoint.replace('://', f'://me:{userinfo}@')}/userinfo", "config": {}},
        {"id": "mtls", "type": "webhook", "endpoint": f"https://{dark}/", "config": {"tls": key()}},
        {"id": "grpc", "type": "grpc", "endpoint": f"grpcs://{dark}",
         "config": {"headers": headers(*(name.lower() for name in SECRET_HEADERS)), "tls": key()}},
        {"id": "kafka", "type": "kafka", "endpoint": f"kafka://{dark}",
         "config": {"topic": "t", "sasl": {"username": "me", "password": secret()}, "tls": key(), "headers": headers("Cookie")}},
        {"id": "nats", "type": "nats", "endpoint": f"nats://{dark}",
         "config": {"subject": "s", "user": "me", "password": secret(), "headers": headers("Authorization"), "tls": key()}},
        {"id": "token", "type": "nats", "endpoint": f"nats://{dark}", "config": {"subject": "s", "token": secret()}},
        {"id": "argo", "type": "argo-events", "endpoint": f"{endpoint}/argo", "config": {"token": secret()}},
        {"id": "bus", "type": "argo-events", "endpoint": f"nats://{dark}", "config": {
            "event_source": "a", "event_name": "b", "user": "me", "password": secret(), "tls": key()}},
    ]  # fmt: skip
    return Planted({each["id"]: each for each in found}, made)


def leaks(text: str, secrets: list[str]) -> list[str]:
    """The secrets that a text holds: as they are, a good part of them, or as the password of Basic authentication."""
    return [each for each in secrets if each[:20] in text or base64.b64encode(f"me:{each}".encode()).decode()[:24] in text]
