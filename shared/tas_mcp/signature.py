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


class Signer:
    """Signs with one key. Hashing the key itself is done once: that is a third of the work for a small body."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod="sha256")

    def sign(self, webhook_id: str, timestamp: int, body: bytes) -> str:
        """The value of ``webhook-signature`` for exactly these bytes."""
        mac = self._keyed.copy()
        mac.update(b"%s.%d.%s" % (webhook_id.encode(), timestamp, body))
        return "v1," + base64.b64encode(mac.digest()).decode()
