"""An identity provider for tests: keys made when they are asked for, tokens signed by them, and its key set over HTTP."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tas_mcp.http import application, listening

ISSUER = "https://id.example/"
AUDIENCE = "tas"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def published(key: Any, algorithm: str, **members: Any) -> dict[str, Any]:
    """The public half of a key as a JWK."""
    found = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
    found.pop("key_ops", None)
    return {**found, **members}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def token(key: Any, algorithm: str = "ES256", kid: str | None = "k1", **claims: Any) -> str:
    """A token for a minute; a claim that is None is left out."""
    now = time.time()
    basis = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 60, "scope": "events:write openid"}
    given = {name: value for name, value in {**basis, **claims}.items() if value is not None}
    return jwt.encode(given, key, algorithm, headers={"kid": kid} if kid is not None else None)


class Provider:
    """What it publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.document = b""
        self.status = 200
        self.asked = 0
        self.url = ""

    async def answer(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        return web.Response(status=self.status, body=self.document, headers={"Location": "/keys"})


@asynccontextmanager
async def providing() -> AsyncIterator[Provider]:
    provider = Provider()
    app = application([web.get("/keys", provider.answer)], 1000)
    async with listening(app, "127.0.0.1", 0, what="port", drain_seconds=1) as port:
        provider.url = f"http://127.0.0.1:{port}/keys"
        yield provider
