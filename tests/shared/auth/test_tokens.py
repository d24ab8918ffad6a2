"""Which tokens are taken, and which are not: each by one thing that is wrong with it."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.auth import AuthenticationFailed
from tas_mcp.auth.tokens import Tokens, UnknownKey, read_keys
from tas_mcp.settings import PublicSettings
from tests.shared.auth.provider import AUDIENCE, ISSUER, ec_key, ed_key, key_set, published, rsa_key, token

EC, RSA, ED = ec_key(), rsa_key(), ed_key()
SETTINGS = PublicSettings(jwt_issuer=ISSUER, jwt_audience=f"other, {AUDIENCE}")


def tokens(*keys: dict[str, Any], settings: PublicSettings = SETTINGS) -> Tokens:
    found = Tokens(settings)
    found.keys = read_keys(key_set(*(keys or (published(EC, "ES256", kid="k1"),))))
    return found


def forged(text: str, **header: Any) -> str:
    """The token with another header, and its old signature."""
    _, payload, signature = text.split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "ES256", "kid": "k1", **header}).encode()).decode().rstrip("=")
    return f"{head}.{payload}.{signature}"


@pytest.mark.parametrize(
    ("key", "algorithm", "members"),
    [
        (EC, "ES256", {}),
        (EC, "ES256", {"alg": "ES256", "use": "sig"}),
        (RSA, "RS256", {}),
        (RSA, "PS512", {"alg": "PS512"}),
        (ED, "EdDSA", {}),
    ],
)
def test_each_kind_of_key(key: Any, algorithm: str, members: dict[str, str]) -> None:
    found = tokens(published(key, algorithm, kid="k1", **members)).verify(token(key, algorithm), time.time())
    assert found.caller.name == "jwt:ada"
    assert found.caller.scopes == {"events:write"}


@pytest.mark.parametrize("claim", ["targets:read events:read other", ["targets:read", "events:read", 1, None]])
def test_scopes_are_words_or_a_list_under_the_claim_that_is_set(claim: Any) -> None:
    settings = PublicSettings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_scope_claim="permissions")
    found = tokens(settings=settings).verify(token(EC, permissions=claim, scope="admin"), time.time())
    assert found.caller.scopes == {"targets:read", "events:read"}


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"iss": "https://other.example/"}, "`iss`"),
        ({"aud": "someone"}, "`aud`"),
        ({"aud": None}, "`aud`"),
        ({"exp": None}, "`exp`"),
        ({"sub": None}, "`sub`"),
        ({"sub": ""}, "`sub`"),
        ({"sub": "a\nb"}, "`sub`"),
        ({"sub": "a" * 129}, "`sub`"),
        ({"exp": 1}, "has expired"),
        ({"exp": float("nan")}, "`exp` is no time"),
        ({"exp": float("inf")}, "`exp` is no time"),
        ({"exp": 10**400}, "`exp` is no time"),
        ({"nbf": time.time() + 3600}, "`nbf`"),
    ],
)
def test_a_claim_that_is_not_right(claims: dict[str, Any], detail: str) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        tokens().verify(token(EC, **claims), time.time())
    assert detail in caught.value.detail


def test_clocks_may_differ_by_the_leeway() -> None:
    now = time.time()
    given = token(EC, nbf=now, exp=now + 100)
    for moment, fits in ((now - 31, False), (now - 29, True), (now + 129, True), (now + 131, False)):
        try:
            found = tokens().verify(given, moment)
        except AuthenticationFailed:
            assert not fits
        else:
            assert fits
            assert found.until == pytest.approx(now + 130)


def test_another_signature() -> None:
    with pytest.raises(AuthenticationFailed, match="its signature is wrong"):
        tokens().verify(token(ec_key()), time.time())


def test_an_algorithm_that_the_key_is_not_for() -> None:
    """Among them the classic attacks: no signature at all, and the public key as the secret of a symmetric one."""
    public = EC.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    ours = published(EC, "ES256", kid="k1")
    attempts = [
        jwt.encode({"sub": "ada"}, "", "none", headers={"kid": "k1"}),
        jwt.encode({"sub": "ada"}, public, "HS256", headers={"kid": "k1"}),
        token(RSA, "PS256"),
        *(forged(token(EC), alg=alg) for alg in ("none", "HS256", "RS256", "ES384", "EdDSA", "ES256K")),
    ]
    for attempt in attempts:
        with pytest.raises(AuthenticationFailed, match="by an algorithm that its key is not for"):
            tokens(ours).verify(attempt, time.time())
    with pytest.raises(AuthenticationFailed):
        tokens(published(RSA, "RS256", kid="k1")).verify(token(RSA, "PS256"), time.time())


def test_a_key_is_found_by_its_id_or_is_the_only_one() -> None:
    two = tokens(published(EC, "ES256", kid="k1"), published(ED, "EdDSA", kid="k2"))
    assert two.verify(token(ED, "EdDSA", "k2"), time.time())
    for kid in ("k3", None):
        with pytest.raises(UnknownKey):
            two.verify(token(EC, kid=kid), time.time())
    assert tokens(published(EC, "ES256")).verify(token(EC, kid=None), time.time())


@pytest.mark.parametrize(
    "keys",
    [
        [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "HS256"}],
        [published(EC, "ES256", use="enc")],
        [{**published(EC, "ES256"), "d": "AAAA"}],
        [published(rsa_key(1024), "RS256")],
        [{"kty": "new"}, "text", {}],
        [],
    ],
)
def test_keys_that_are_not_used(keys: list[Any]) -> None:
    with pytest.raises(ValueError, match="can be used"):
        read_keys(json.dumps({"keys": keys}).encode())


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff"])
def test_what_is_no_key_set(document: bytes) -> None:
    with pytest.raises(ValueError, match="no JWK Set"):
        read_keys(document)


PARTS = st.binary(max_size=40) | st.sampled_from([b'{"alg":"ES256","kid":"k1"}', b"[" * 5000, b'{"alg":"ES256","kid":1}', b"{}"])


@given(st.lists(PARTS.map(lambda part: base64.urlsafe_b64encode(part).decode().rstrip("=")), min_size=1, max_size=4))
def test_whatever_comes_is_refused_in_good_order(parts: list[str]) -> None:
    text = ".".join(parts)
    with pytest.raises(AuthenticationFailed) as caught:
        tokens().verify(text, 0.0)
    assert len(text) < 12 or text not in caught.value.detail
