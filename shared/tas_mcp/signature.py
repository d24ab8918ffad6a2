"""Signatures after Standard Webhooks 1.0.0, over ``<id>.<timestamp>.<body>``: ``v1,`` and the base64 of HMAC-SHA256 for a
``whsec_`` secret, ``v1a,`` and that of ed25519 for a ``whsk_`` key. Pure."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX = "whsec_"
ASYMMETRIC = "whsk_"
SEED_BYTES = 32
BLOCK_BYTES = 64
"""Of SHA-256; a secret has at most so many."""

Sign = Callable[[str, int, bytes], str]
"""From the id, the timestamp and the body to the value of ``webhook-signature``."""


def secret_key(secret: str) -> bytes:
    """The key in a ``whsec_`` secret.

    Raises:
        ValueError: it is no such secret, or not of 24 to 64 bytes.
    """
    if not secret.startswith(PREFIX):
        raise ValueError(f"must start with {PREFIX} or {ASYMMETRIC}")
    key = _decoded(secret, PREFIX)
    if not 24 <= len(key) <= 64:
        raise ValueError(f"holds {len(key)} bytes; 24 to 64 are asked for")
    return key


def private_key(secret: str) -> Ed25519PrivateKey:
    """The key in a ``whsk_`` secret: its seed, or seed and public key as many libraries write it.

    Raises:
        ValueError: it is none.
    """
    key = _decoded(secret, ASYMMETRIC)
    if len(key) not in (SEED_BYTES, 2 * SEED_BYTES):
        raise ValueError(f"holds {len(key)} bytes; an ed25519 key has {SEED_BYTES}, or {2 * SEED_BYTES} with its public half")
    found = Ed25519PrivateKey.from_private_bytes(key[:SEED_BYTES])
    if key[SEED_BYTES:] not in (b"", found.public_key().public_bytes_raw()):
        raise ValueError("its public half belongs to another key")
    return found


def signing(secrets: Sequence[str]) -> Sign:
    """Signs with each of one or more secrets, so that receivers may still have the old one while it is exchanged.

    Raises:
        ValueError: one is none.
    """
    signs = [_signing(secret) for secret in secrets]
    if len(signs) == 1:
        return signs[0]
    return lambda webhook_id, timestamp, body: " ".join(sign(webhook_id, timestamp, body) for sign in signs)


class Signer:
    """Signs with one key: HMAC (RFC 2104), its two keyed hashes begun beforehand. For a small body that is 2.5 times as fast as
    ``hmac``, which begins them for each."""

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def sign(self, webhook_id: str, timestamp: int, body: bytes) -> str:
        """The value of ``webhook-signature`` for exactly these bytes."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(_content(webhook_id, timestamp, body))
        outer.update(inner.digest())
        return "v1," + binascii.b2a_base64(outer.digest(), newline=False).decode()


def _signing(secret: str) -> Sign:
    if not secret.startswith(ASYMMETRIC):
        return Signer(secret_key(secret)).sign
    key = private_key(secret)
    return lambda *given: "v1a," + base64.b64encode(key.sign(_content(*given))).decode()


def _content(webhook_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%s.%d.%s" % (webhook_id.encode(), timestamp, body)


def _decoded(secret: str, prefix: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(prefix), validate=True)
    except binascii.Error as error:
        raise ValueError(f"is no base64 after {prefix}: {error}") from None
