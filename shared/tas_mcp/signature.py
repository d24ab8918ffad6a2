"""Signatures after Standard Webhooks 1.0.0: ``v1,`` and the base64 of HMAC-SHA256 over ``<id>.<timestamp>.<body>``. Pure."""

import base64
import binascii
import hmac

PREFIX = "whsec_"


def secret_key(secret: str) -> bytes:
    """The key in a ``whsec_`` secret.

    Raises:
        ValueError: it is no such secret, or not of 24 to 64 bytes.
    """
    if not secret.startswith(PREFIX):
        raise ValueError(f"must start with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"is no base64 after {PREFIX}: {error}") from None
    if not 24 <= len(key) <= 64:
        raise ValueError(f"holds {len(key)} bytes; 24 to 64 are asked for")
    return key


def sign(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature`` for exactly these bytes."""
    digest = hmac.digest(key, b"%s.%d." % (webhook_id.encode(), timestamp) + body, "sha256")
    return "v1," + base64.b64encode(digest).decode()
