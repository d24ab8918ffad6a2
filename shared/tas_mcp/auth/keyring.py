"""The API keys in force: what the bucket ``tas_keys`` holds, by id. Knows no I/O, so that each case can be tried."""

import hmac
from collections.abc import Sequence
from typing import NamedTuple

from tas_mcp import telemetry
from tas_mcp.auth.credentials import Verified
from tas_mcp.auth.failures import AuthenticationFailed
from tas_mcp.auth.keys import Key, decode
from tas_mcp.documents import Document
from tas_mcp.errors import Rejected

log = telemetry.logger("auth")


class _Held(NamedTuple):
    hash: bytes
    verified: Verified


class Keyring:
    """``revision`` is the newest of the bucket that is in force."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self.revision = 0

    def use(self, documents: Sequence[Document]) -> None:
        """Take what changed. Unlike other documents, a key that cannot be read is no key: its predecessor may have been revoked
        by it."""
        for each in documents:
            self._held.pop(each.key, None)
            if each.value is not None:
                try:
                    self._held[each.key] = _held(each.key, decode(each.value))
                except Rejected as error:
                    log.error("a key cannot be read, so nobody comes in with it", key=each.key, detail=error.detail)
            self.revision = max(self.revision, each.revision)

    def verify(self, key_id: str, digest: bytes, now: float) -> Verified:
        """Who comes with a key that has this id and this SHA-256.

        Raises:
            AuthenticationFailed: there is no such key, or its time is over.
        """
        held = self._held.get(key_id)
        if held is None or not hmac.compare_digest(held.hash, digest):
            raise AuthenticationFailed("unknown_key", "the API key is not known, or was revoked", key_id)
        if now >= held.verified.until:
            name = held.verified.caller.name
            raise AuthenticationFailed("expired", f"the API key {name} has expired", name)
        return held.verified


def _held(key_id: str, key: Key) -> _Held:
    until = float("inf") if key.expires_at is None else key.expires_at
    return _Held(bytes.fromhex(key.hash), Verified(key.caller(key_id), until))
