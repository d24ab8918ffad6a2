"""Keys and credentials of NATS for tests: an operator's server, and one user of it (JWT version 2, docs.nats.io)."""

import base64
import json
import os
import time
from typing import Any

import nkeys


class Key:
    """An nkey of a kind."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind).decode()
        self.public = nkeys.from_seed(bytearray(self.seed.encode())).public_key.decode()

    def token(self, kind: str, subject: str, **nats: Any) -> str:
        """A JWT about ``subject``, signed with this key."""
        claims = {"jti": "1", "iat": int(time.time()), "iss": self.public, "name": kind, "sub": subject}
        parts = {"typ": "JWT", "alg": "ed25519-nkey"}, {**claims, "nats": {"type": kind, "version": 2, **nats}}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_encoded(nkeys.from_seed(bytearray(self.seed.encode())).sign(text.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def credentials(account: Key, user: Key) -> str:
    """The text of a credentials file."""
    return f"""\
-----BEGIN NATS USER JWT-----
{account.token("user", user.public, subs=-1, data=-1, payload=-1)}
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.

-----BEGIN USER NKEY SEED-----
{user.seed}
------END USER NKEY SEED------
"""


OPERATOR, SYSTEM, ACCOUNT, USER = map(
    Key, (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
)
LIMITS = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}
OPERATED = f"""
operator: {OPERATOR.token("operator", OPERATOR.public)}
resolver: MEMORY
resolver_preload {{
  {SYSTEM.public}: {OPERATOR.token("account", SYSTEM.public, limits=LIMITS)}
  {ACCOUNT.public}: {OPERATOR.token("account", ACCOUNT.public, limits=LIMITS)}
}}
system_account: {SYSTEM.public}
"""
"""The configuration of a server that takes those whom ``ACCOUNT`` signed for."""
