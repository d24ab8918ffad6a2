"""A target's secrets, taken out of what is told of its failures: a receiver may show in its answer what it was sent. Pure."""

from base64 import b64encode
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import quote, quote_plus

from services.forward.verdict import Failed, Refused
from tas_mcp import targets
from tas_mcp.targets import AnyTarget, Basic, HttpTarget, OAuth2

HIDDEN = "***"
MIN_CHARACTERS = 4
"""Shorter ones are left: they would take words out of any text."""

V = TypeVar("V", bound=Failed | Refused)


def redacted(failure: V, target: AnyTarget) -> V:
    """The failure, its texts without the target's secrets, in whatever form a request carries them. It is changed in place."""
    for secret in sorted(set(_forms(target)), key=len, reverse=True):
        failure.detail = _without(failure.detail, secret)
        failure.response = _without(failure.response, secret)
    failure.args = (failure.detail,)
    return failure


def _without(text: str, secret: str) -> str:
    """The text with the secret hidden, also where the text's end cuts it off."""
    text = text.replace(secret, HIDDEN)
    for length in range(min(len(secret) - 1, len(text)), MIN_CHARACTERS - 1, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + HIDDEN
    return text


def _forms(target: AnyTarget) -> Iterator[str]:
    for secret in targets.secrets(target):
        for part in (secret, secret.rpartition(" ")[2]):  # a header's value, and the token in it
            if len(part) >= MIN_CHARACTERS:
                yield from (part, quote(part, safe=""), quote_plus(part))
    match target.delivery.authentication if isinstance(target, HttpTarget) else None:
        case Basic(username=user, password=password):
            yield _basic(user, password)
        case OAuth2(client_id=user, client_secret=password):
            yield _basic(quote_plus(user), quote_plus(password))


def _basic(user: str, password: str) -> str:
    """What stands in ``Authorization: Basic`` (RFC 7617)."""
    return b64encode(f"{user}:{password}".encode()).decode()
