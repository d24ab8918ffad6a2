"""Tokens by client credentials, from a real token endpoint."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.forward.guard import Guard
from services.forward.oauth import Tokens, open_tokens
from services.forward.verdict import Failed, Refused
from tas_mcp.targets import OAuth2
from tests.services.forward.rig import OPEN
from tests.services.forward.token_endpoint import TokenEndpoint, issuing
from tests.shared.rig import until


@asynccontextmanager
async def tokens_of(endpoint: TokenEndpoint, guard: Guard = OPEN, **given: Any) -> AsyncIterator[Tokens]:
    asked = {"token_url": f"http://127.0.0.1:{endpoint.port}/token", "client_id": "me", "client_secret": "s", **given}
    async with open_tokens(OAuth2(**asked), "", guard, 5.0) as tokens:
        yield tokens


@pytest.fixture
async def endpoint() -> AsyncIterator[TokenEndpoint]:
    async with issuing() as found:
        yield found


async def test_what_the_token_endpoint_sees(endpoint: TokenEndpoint) -> None:
    given: dict[str, Any] = {"client_id": "a:b c", "client_secret": "d%ü", "scope": "read write", "audience": "https://api"}
    async with tokens_of(endpoint, **given) as tokens:
        assert await tokens.get() == "t1"
    async with tokens_of(endpoint, **given, token_endpoint_auth_method="client_secret_post") as tokens:
        assert await tokens.get() == "t2"
    (headers, form), (posted_headers, posted) = endpoint.seen
    assert form == {"grant_type": "client_credentials", "scope": "read write", "audience": "https://api"}
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == b"a%3Ab+c:d%25%C3%BC"
    assert posted == {**form, "client_id": "a:b c", "client_secret": "d%ü"}
    assert "authorization" not in posted_headers


async def test_a_token_is_kept_while_it_holds(endpoint: TokenEndpoint) -> None:
    async with tokens_of(endpoint) as tokens:
        assert [await tokens.get() for _ in range(3)] == ["t1"] * 3
        tokens.drop("another")
        assert await tokens.get() == "t1"
        tokens.drop("t1")
        assert await tokens.get() == "t2"


@pytest.mark.parametrize(("expires_in", "kept"), [(0, False), (-5, False), ("3600", True), (10**9, True)])
async def test_a_token_is_exchanged_before_its_end(endpoint: TokenEndpoint, expires_in: Any, kept: bool) -> None:
    endpoint.expires_in = expires_in
    async with tokens_of(endpoint) as tokens:
        await tokens.get()
        assert await tokens.get() == ("t1" if kept else "t2")


async def test_all_who_need_one_share_one_request(endpoint: TokenEndpoint) -> None:
    endpoint.go_on.clear()
    async with tokens_of(endpoint) as tokens:
        asking = [asyncio.create_task(tokens.get()) for _ in range(20)]
        await until(lambda: endpoint.seen)
        asking[0].cancel()
        endpoint.go_on.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == ["t1"] * 19
        assert len(endpoint.seen) == 1


@pytest.mark.parametrize(
    ("status", "answer", "problem"),
    [
        (401, {"error": "invalid_client"}, r'it answered 401: \{"error": "invalid_client"\}'),
        (503, {}, "it answered 503"),
        (302, {}, "it answered 302"),
        (200, [], "no token"),
        (200, {"token": "x"}, "no token"),
        (200, {"access_token": "sec\nret"}, "cannot be sent"),
        (200, {"access_token": ""}, "cannot be sent"),
        (200, {"access_token": "x", "expires_in": "soon"}, "no token"),
        (200, {"access_token": "x", "expires_in": None}, "no token"),
        (200, {"access_token": "x", "expires_in": 10**400}, "no token"),
        (200, {"access_token": "x", "token_type": "mac"}, "not Bearer"),
    ],
)
async def test_a_failure_is_tried_again_later(endpoint: TokenEndpoint, status: int, answer: Any, problem: str) -> None:
    endpoint.status, endpoint.answer = status, answer
    async with tokens_of(endpoint) as tokens:
        with pytest.raises(Failed, match=problem) as caught:
            await tokens.get()
        assert caught.value.status == 0
        assert f":{endpoint.port}/token" in caught.value.detail
        assert "ret" not in caught.value.detail
        endpoint.status, endpoint.answer = 200, None
        assert await tokens.get() == "t2"


async def test_a_long_token(endpoint: TokenEndpoint) -> None:
    endpoint.answer = {"access_token": "x" * 20_000}
    async with tokens_of(endpoint) as tokens:
        assert await tokens.get() == "x" * 20_000


async def test_the_guard_looks_at_the_token_endpoint_too(endpoint: TokenEndpoint) -> None:
    async with tokens_of(endpoint, Guard()) as tokens:
        with pytest.raises(Refused, match="loopback"):
            await tokens.get()
    async with tokens_of(endpoint, Guard(), token_url=f"http://localhost:{endpoint.port}/token") as tokens:
        with pytest.raises(Failed, match=r"no token from .*loopback"):
            await tokens.get()
    assert endpoint.seen == []


async def test_nobody_there() -> None:
    async with tokens_of(TokenEndpoint(), token_url="http://127.0.0.1:1/token") as tokens:
        with pytest.raises(Failed, match=r"no token from http://127\.0\.0\.1:1/token: no connection"):
            await tokens.get()


async def test_closing_gives_up_what_is_under_way(endpoint: TokenEndpoint) -> None:
    endpoint.go_on.clear()
    async with tokens_of(endpoint) as tokens:
        asking = asyncio.create_task(tokens.get())
        await until(lambda: endpoint.seen)
    with pytest.raises(asyncio.CancelledError):
        await asking
