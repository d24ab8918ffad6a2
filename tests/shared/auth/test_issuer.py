"""The keys of an identity provider: from a file, over HTTP, changed, and not to be had."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tas_mcp.auth import Authentication, AuthenticationFailed
from tas_mcp.auth.issuer import Issuer
from tas_mcp.auth.tokens import KeySet
from tas_mcp.broker import Connection
from tas_mcp.errors import Misconfigured, Unavailable
from tas_mcp.settings import PublicSettings
from tests.shared.auth.provider import AUDIENCE, ISSUER, ec_key, key_set, providing, published, token
from tests.shared.rig import until


@asynccontextmanager
async def authentication(**settings: Any) -> AsyncIterator[Authentication]:
    """Without a broker: tokens need none."""
    connection = Connection(["nats://127.0.0.1:1"], "test")
    async with connection.running():
        given = PublicSettings(**{"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, **settings})
        async with Authentication(connection, given).running() as found:
            yield found


def outcome(auth: Authentication, given: str) -> str:
    try:
        return auth.identify(given).name
    except (AuthenticationFailed, Unavailable) as error:
        return type(error).__name__


async def test_keys_change_and_tokens_of_the_old_ones_end(tmp_path: Path) -> None:
    old, new = ec_key(), ec_key()
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(published(old, "ES256", kid="k1")))
    async with authentication(jwt_jwks_file=str(path)) as auth:
        before, after = token(old), token(new, kid="k2")
        assert outcome(auth, before) == "jwt:ada"
        (tmp_path / "next").write_bytes(key_set(published(new, "ES256", kid="k2")))
        (tmp_path / "next").replace(path)
        await until(lambda: outcome(auth, after) == "jwt:ada")
        assert outcome(auth, before) in {"AuthenticationFailed", "UnknownKey", "Unavailable"}
        path.write_text("broken")
        await until(lambda: auth.note)
        assert outcome(auth, after) == "jwt:ada"


async def test_made_up_tokens_do_not_have_the_keys_fetched_without_end() -> None:
    old, new = ec_key(), ec_key()
    async with providing() as provider:
        provider.document = key_set(published(old, "ES256", kid="k1"))
        async with authentication(jwt_jwks_url=provider.url) as auth:
            await until(lambda: outcome(auth, token(old)) == "jwt:ada")
            asked = provider.asked
            provider.document = key_set(published(old, "ES256", kid="k1"), published(new, "ES256", kid="k2"))
            assert {outcome(auth, token(new, kid=f"made-up-{number}")) for number in range(100)} == {"UnknownKey"}
            assert provider.asked == asked, "it was looked at within the last ten seconds"


async def test_a_key_that_is_not_known_yet_is_asked_for() -> None:
    found: list[KeySet] = []
    async with providing() as provider:
        provider.document = key_set(published(ec_key(), "ES256", kid="k1"))
        async with Issuer(provider.url, "", found.append, pause=0.0).running() as issuer:
            await until(lambda: found)
            provider.document = key_set(published(ec_key(), "ES256", kid="k2"))
            assert issuer.want()
            await until(lambda: len(found) == 2)
    assert [sorted(each) for each in found] == [["k1"], ["k2"]]


async def test_nobody_is_refused_for_good_before_the_keys_were_had() -> None:
    key = ec_key()
    async with providing() as provider:
        provider.status = 503
        async with authentication(jwt_jwks_url=provider.url) as auth:
            await until(lambda: "answered 503" in auth.note)
            assert outcome(auth, token(key)) == "Unavailable"


@pytest.mark.parametrize("status", [200, 301])
async def test_an_answer_that_holds_no_keys(status: int) -> None:
    async with providing() as provider:
        provider.document, provider.status = b"x" * 2_000_000, status
        async with authentication(jwt_jwks_url=provider.url) as auth:
            await until(lambda: auth.note)
            assert outcome(auth, token(ec_key())) == "Unavailable"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"jwt_audience": ""}, "TAS_JWT_AUDIENCE"),
        ({}, "TAS_JWT_JWKS_URL or TAS_JWT_JWKS_FILE"),
        ({"jwt_jwks_url": "http://id.example/keys"}, "TAS_JWT_JWKS_URL"),
        ({"jwt_jwks_url": "file:///etc/keys"}, "TAS_JWT_JWKS_URL"),
        ({"jwt_jwks_file": "/no/such/file"}, "TAS_JWT_JWKS_FILE"),
        ({"jwt_issuer": "", "jwt_jwks_file": "/no/such/file"}, "TAS_JWT_AUDIENCE"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], named: str) -> None:
    given = PublicSettings(**{"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, **settings})
    with pytest.raises(Misconfigured) as caught:
        Authentication(Connection([], "test"), given)
    assert caught.value.detail.startswith(named)


def test_a_file_without_keys_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": []}))
    with pytest.raises(Misconfigured, match="none of its 0 keys"):
        Authentication(Connection([], "test"), PublicSettings(jwt_issuer=ISSUER, jwt_audience="a", jwt_jwks_file=str(path)))


async def test_a_provider_that_is_away_keeps_no_key_out() -> None:
    async with authentication(admin_key="x" * 32, jwt_jwks_url="http://127.0.0.1:1/keys") as auth:
        assert outcome(auth, "x" * 32) == "bootstrap"
        assert outcome(auth, "a.b.c") == "Unavailable"
