"""API keys: their text, and what is stored of them in the bucket ``tas_keys`` under their id. Pure.

A key is ``tas_<id>_<secret>``: 12 hex digits by which it is found, and 256 random bits in base64url. Only its SHA-256 is stored:
what is that random cannot be guessed, so there is nothing for a slow hash to slow down.
"""

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tas_mcp.callers import Caller, Scope
from tas_mcp.errors import Rejected
from tas_mcp.routing.patterns import MAX_LENGTH
from tas_mcp.validation import flaw

PREFIX = "tas_"
ID_BYTES = 6
SECRET_BYTES = 32
MAX_PATTERNS = 100

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._@-]{1,64}$")]
"""Who has a key. Several keys may have one name: that is how they are changed without a gap."""
Patterns = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=MAX_LENGTH)], ...], Meta(max_length=MAX_PATTERNS)]
Scopes = Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=8)]

_KEY = re.compile(r"tas_([0-9a-f]{12})_[A-Za-z0-9_-]{43}\Z").match


class Grant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key is for."""

    name: Name
    scopes: Scopes
    event_types: Patterns = ()
    sources: Patterns = ()


class Key(Grant, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stored key; times are Unix seconds."""

    hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the whole text, in hex."""
    created_at: float
    created_by: str
    expires_at: float | None = None

    def caller(self, key_id: str) -> Caller:
        """Who comes with it."""
        return Caller(f"{self.name}/{key_id}", frozenset(self.scopes), self.event_types, self.sources)


def text(random: Callable[[int], bytes]) -> str:
    """A new key. ``random`` gives so many bytes that nobody can foresee."""
    return f"{PREFIX}{random(ID_BYTES).hex()}_{urlsafe_b64encode(random(SECRET_BYTES)).decode().rstrip('=')}"


def id_of(key: str) -> str:
    """The id in the text of a key; ``""`` where it is none."""
    found = _KEY(key)
    return found[1] if found else ""


def digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()


def hash_of(key: str) -> str:
    """What is stored of a key."""
    return digest(key).hex()


def decode(value: bytes) -> Key:
    """Read a stored key.

    Raises:
        Rejected: ``INVALID_KEY``: it is none.
    """
    try:
        return msgspec.json.decode(value, type=Key)
    except (ValueError, RecursionError) as error:
        what = flaw(error)
        raise Rejected("INVALID_KEY", f"the key is not valid: {what.pointer} {what.detail}", [what]) from None
