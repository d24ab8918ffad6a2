"""Secrets at rest: one text sealed with AES-256-GCM, bound to the place where it stands. Pure.

A sealed secret is ``sealed:<key id>:<base64url of nonce, ciphertext and tag>``. What it is bound to (the associated data) is its
place: moved to another target or another member, it cannot be opened.

The nonce is made of the key, the place and the secret by HMAC-SHA256. Two secrets, or two places, so never share one but by a
chance of 2^-96 for each pair, as with random ones. And a secret that did not change is sealed to the same text: documents that
were saved again differ only where they were changed.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tas_mcp.errors import Misconfigured

PREFIX = "sealed:"
SETTING = "TAS_SECRET_KEY_FILE"
KEY_BYTES = 32
NONCE_BYTES = 12

_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class CannotOpen(Exception):
    """Why a sealed secret cannot be read, fit to be shown."""


class SecretKey(NamedTuple):
    """A key, and the name that what it sealed carries."""

    id: str
    secret: bytes


class SecretKeys:
    """The first one seals, and all open. Without any, secrets stay as they are."""

    def __init__(self, keys: Sequence[SecretKey] = ()) -> None:
        self._keys = {key.id: AESGCM(key.secret) for key in keys}
        self._first = keys[0] if keys else None
        self._nonces = hmac.digest(keys[0].secret, b"tas-mcp nonce", "sha256") if keys else b""

    def __bool__(self) -> bool:
        return self._first is not None

    def seal(self, secret: str, place: str) -> str:
        if self._first is None:
            return secret
        bound, text = place.encode(), secret.encode()
        nonce = hmac.digest(self._nonces, len(bound).to_bytes(8, "big") + bound + text, "sha256")[:NONCE_BYTES]
        sealed = nonce + self._keys[self._first.id].encrypt(nonce, text, bound)
        return f"{PREFIX}{self._first.id}:{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, stored: str, place: str) -> str:
        """The secret; one that was never sealed is what it is.

        Raises:
            CannotOpen: it was sealed with a key that is not here, or was changed or moved since.
        """
        if not stored.startswith(PREFIX):
            return stored
        key_id, _, text = stored.removeprefix(PREFIX).partition(":")
        key = self._keys.get(key_id)
        if key is None:
            raise CannotOpen(f"is sealed with the key {key_id[:32]!r}, which is not in {SETTING}")
        try:
            sealed = base64.b64decode(text, altchars=b"-_", validate=True)
            return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error):
            raise CannotOpen(
                f"cannot be opened: the key {key_id!r} in {SETTING} is not the one that sealed it, or it was changed or moved"
            ) from None

    def current(self, stored: str) -> bool:
        """Whether it is sealed with the first key."""
        return self._first is not None and stored.startswith(f"{PREFIX}{self._first.id}:")


NO_KEYS = SecretKeys()


def parse(text: str) -> SecretKeys:
    """The keys of a file: one a line as ``<id>:<base64 of 32 bytes>``, the one that seals first; ``#`` begins a remark.

    Raises:
        Misconfigured: a line is none; the text names it by its number, and never holds what is in it.
    """
    keys: list[SecretKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (bare := line.strip()) or bare.startswith("#"):
            continue
        key_id, _, encoded = bare.partition(":")
        if not _ID.fullmatch(key_id) or (secret := _decoded(encoded)) is None:
            raise Misconfigured(
                f"{SETTING}: line {number} is no `<id>:<base64 of {KEY_BYTES} bytes>`: "
                f'make one with `echo "k1:$(openssl rand -base64 {KEY_BYTES})"`'
            )
        if key_id in (key.id for key in keys):
            raise Misconfigured(f"{SETTING}: line {number}: there is a key {key_id!r} before it")
        keys.append(SecretKey(key_id, secret))
    return SecretKeys(keys)


def _decoded(text: str) -> bytes | None:
    try:
        found = base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error):
        return None
    return found if len(found) == KEY_BYTES else None
