"""Who may send events: both lanes, on real sockets; keys from a real broker."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tas_mcp import subjects
from tas_mcp.auth import keys
from tas_mcp.messages import encode
from tests.nats_server import NatsServer
from tests.services.ingest.lanes import lane
from tests.services.ingest.rig import BATCH, GOOD, Reply, Rig, connected, request, serving
from tests.shared.auth.provider import AUDIENCE, ISSUER, ec_key, key_set, published, token
from tests.shared.rig import Broker, until

ADMIN = "an-admin-key-of-at-least-32-characters"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(params=[True, False], ids=["express", "aiohttp"])
async def rig(request: pytest.FixtureRequest, nats: NatsServer) -> AsyncIterator[Rig]:
    async with serving(nats.url, express=request.param, auth="auto", admin_key=ADMIN) as found:
        yield found


async def save(broker: Broker, **changes: Any) -> str:
    """What control does: a new key."""
    text = keys.text(secrets.token_bytes)
    document = {"name": "shop", "hash": keys.hash_of(text), "scopes": ["events:write"], "created_at": 1, "created_by": "test"}
    await broker.publisher.store(subjects.bucket_key(subjects.KEYS_BUCKET, keys.id_of(text)), encode({**document, **changes}))
    return text


async def send(rig: Rig, key: str, body: bytes = GOOD, path: str = "/api/v1/events") -> Reply:
    return await rig.post(body, path, {**JSON, "Authorization": f"Bearer {key}"})


async def known(rig: Rig, **changes: Any) -> str:
    """A new key, in force."""
    key = await save(rig.broker, **changes)

    async def in_force() -> bool:
        return (await send(rig, key, b"{}")).status != 401

    await until(in_force)
    return key


@pytest.mark.parametrize("express", [True, False], ids=["express", "aiohttp"])
@pytest.mark.parametrize(
    ("line", "status"),
    [
        (f"Authorization: Bearer {ADMIN}", 200),
        (f"authorization: bearer {ADMIN}", 200),
        (f"Authorization: {ADMIN}", 200),
        (f"X-API-Key: {ADMIN}", 200),
        ("X-Other: 1", 401),
        (f"Authorization: Bearer {ADMIN}x", 401),
        (f"Authorization: Basic {ADMIN}", 401),
        (f"X-API-Key: {ADMIN}\r\nX-API-Key: {ADMIN}", 401),
        (f"Authorization: Bearer {ADMIN}\r\nX-API-Key: wrong", 401),
        (f"Cookie: Authorization={ADMIN}", 401),
    ],
)
async def test_where_a_credential_may_stand(express: bool, line: str, status: int) -> None:
    async with lane(express=express, auth="keys", admin_key=ADMIN) as found, connected(found.port) as client:
        for _ in range(2):  # the head is remembered
            client.send(request(GOOD, line))
            reply = await client.reply()
            assert reply is not None
            assert reply.status == status
            if status == 401:
                assert reply.headers["www-authenticate"] == 'Bearer realm="tas-mcp"'
                assert reply.body["code"] == "UNAUTHORIZED"
                assert ADMIN not in json.dumps(reply.body)
        assert len(found.store.payloads) == (2 if status == 200 else 0)


@pytest.mark.parametrize("express", [True, False], ids=["express", "aiohttp"])
async def test_tokens_are_taken_besides_keys(express: bool, tmp_path: Path) -> None:
    key = ec_key()
    (tmp_path / "keys.json").write_bytes(key_set(published(key, "ES256", kid="k1")))
    issuer: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_file": str(tmp_path / "keys.json")}
    async with lane(express=express, auth="auto", **issuer) as found, connected(found.port) as client:
        for given, status in ((token(key), 200), (token(key, scope="events:read"), 403), (token(ec_key()), 401)):
            client.send(request(GOOD, f"Authorization: Bearer {given}"))
            reply = await client.reply()
            assert reply is not None
            assert reply.status == status
            assert given not in json.dumps(reply.body)


@pytest.mark.parametrize("path", ["/api/v1/events", BATCH])
async def test_nothing_is_read_of_an_event_that_nobody_may_send(rig: Rig, path: str) -> None:
    for body in (GOOD, b"not JSON"):
        assert (await rig.post(body, path)).status == 401
    reader = await known(rig, scopes=["events:read"])
    found = await send(rig, reader, b"not JSON", path)
    assert (found.status, found.body["code"]) == (403, "FORBIDDEN")
    assert "events:write" in found.body["detail"]
    assert await rig.stored() == []


async def test_a_key_may_send_what_its_patterns_say(rig: Rig) -> None:
    key = await known(rig, event_types=["order.*"], sources=["shop"])
    order = b'{"event_type":"order.made","source":"shop"}'
    assert (await send(rig, key, order)).status == 200
    found = await send(rig, key, b'{"event_type":"user.made","source":"shop"}')
    assert (found.status, found.body["code"]) == (403, "FORBIDDEN")
    assert "order.*" in found.body["detail"]
    found = await send(rig, key, b'[%s,{"event_type":"order.made","source":"x"}]' % order, BATCH)
    assert (found.status, [each["status"] for each in found.body["results"]]) == (200, ["accepted", "rejected"])
    assert found.body["results"][1]["error"]["code"] == "FORBIDDEN"
    assert [(each.event_type, each.source) for each in await rig.stored()] == [("order.made", "shop")] * 2


async def test_a_revoked_key_is_refused_while_requests_flow_and_the_other_goes_on(rig: Rig) -> None:
    """Two keys of one name: that is how they are changed. The connection stays, its head is remembered."""
    old, new = await known(rig), await known(rig)
    async with connected(rig.port) as client:

        async def status() -> int:
            client.send(request(GOOD, f"Authorization: Bearer {old}"))
            reply = await client.reply()
            assert reply is not None
            return reply.status

        assert [await status() for _ in range(3)] == [200, 200, 200]
        subject = subjects.bucket_key(subjects.KEYS_BUCKET, keys.id_of(old))
        await rig.broker.publisher.store(subject, b"", headers={"KV-Operation": "DEL"})
        async with asyncio.timeout(60):
            while await status() == 200:
                pass
        assert await status() == 401
    assert (await send(rig, new)).status == 200


async def test_a_key_expires_between_two_requests(rig: Rig) -> None:
    """Its time is over at once on both lanes, whatever is remembered."""
    key = await known(rig)
    assert (await send(rig, key)).status == 200
    document = {"name": "shop", "hash": keys.hash_of(key), "scopes": ["events:write"], "created_at": 1, "created_by": "test"}
    subject = subjects.bucket_key(subjects.KEYS_BUCKET, keys.id_of(key))
    await rig.broker.publisher.store(subject, encode({**document, "expires_at": 2.0}))

    async def expired() -> bool:
        found = await send(rig, key)
        return found.status == 401 and "has expired" in found.body["detail"]

    await until(expired)


async def test_without_the_keys_nobody_with_one_is_refused_for_good(nats: NatsServer) -> None:
    """The bucket is not there yet: come again."""
    async with serving(nats.url, lay_out=False, auth="keys", admin_key=ADMIN) as rig:
        found = await send(rig, keys.text(secrets.token_bytes))
        assert (found.status, found.headers["retry-after"]) == (503, "1")
