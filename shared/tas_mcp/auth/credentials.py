"""Where a caller's credential stands in a request, of whatever protocol. Pure.

    Authorization: Bearer <credential>      or bare, without a scheme
    X-API-Key: <credential>
    Sec-WebSocket-Protocol: tas.v1, tas.bearer.<credential>

The last is for browsers, which can set no other header of a WebSocket handshake. A server that takes it answers with ``tas.v1``,
never with the other. A query string is no place for a credential: it gets into logs.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from tas_mcp.auth.failures import AuthenticationFailed
from tas_mcp.callers import Caller

MAX_CHARACTERS = 8192
SUBPROTOCOL = "tas.v1"
SUBPROTOCOL_PREFIX = "tas.bearer."

_FIT = re.compile(r"[\x21-\x7e]+\Z").match


class Verified(NamedTuple):
    """Who comes with a credential, and until when (Unix seconds)."""

    caller: Caller
    until: float


def credential(headers: Iterable[tuple[str | bytes, str | bytes]]) -> str:
    """The credential among the headers of an HTTP request or handshake, or the metadata of a gRPC call; ``""`` where there is
    none.

    Raises:
        AuthenticationFailed: there are several, or it can be none; the text does not show it.
    """
    found: list[str] = []
    for header, content in headers:
        name = _text(header).lower()
        if name == "authorization":
            found.append(_bearer(_text(content)))
        elif name == "x-api-key":
            found.append(_text(content).strip())
        elif name == "sec-websocket-protocol":
            offered = [each.strip() for each in _text(content).split(",")]
            found += [each.removeprefix(SUBPROTOCOL_PREFIX) for each in offered if each.startswith(SUBPROTOCOL_PREFIX)]
    if not found:
        return ""
    if len(found) > 1:
        raise AuthenticationFailed("malformed", "the request has several credentials: send one, as Authorization or as X-API-Key")
    if len(found[0]) > MAX_CHARACTERS or not _FIT(found[0]):
        raise AuthenticationFailed("malformed", "the credential is neither an API key nor a token")
    return found[0]


def _bearer(value: str) -> str:
    scheme, blank, rest = value.strip().partition(" ")
    if not blank:
        return scheme
    if scheme.lower() != "bearer":
        raise AuthenticationFailed(
            "malformed", "Authorization has a scheme that is not taken here: send `Bearer <API key or token>`"
        )
    return rest.strip()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
