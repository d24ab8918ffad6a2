"""Who may hold a connection open, and for how long: WebSockets and streams with keys from a real broker."""

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tas_mcp import subjects
from tas_mcp.auth import keys
from tests.nats_server import NatsServer
from tests.services.ingest.rig import Rig, serving
from tests.services.ingest.test_auth import ADMIN, known, send
from tests.services.ingest.test_sse import STREAM, stream
from tests.services.ingest.test_websocket import WS, client, event
from tests.shared.rig import until

READER = ["events:read"]


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with serving(nats.url, auth="auto", admin_key=ADMIN) as found:
        yield found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def revoke(rig: Rig, key: str) -> None:
    """Return when it is in force."""
    subject = subjects.bucket_key(subjects.KEYS_BUCKET, keys.id_of(key))
    await rig.broker.publisher.store(subject, b"", headers={"KV-Operation": "DEL"})

    async def refused() -> bool:
        return (await send(rig, key)).status == 401

    await until(refused)


async def store(rig: Rig, name: str, event_type: str) -> None:
    assert (await send(rig, ADMIN, json.dumps(event(name, event_type)).encode())).status == 200


async def test_nobody_without_a_key(rig: Rig) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await rig.session.ws_connect(WS)
    assert caught.value.status == 401
    async with rig.session.get(STREAM) as answer:
        assert answer.status == 401


async def test_a_browser_says_its_key_as_a_subprotocol(rig: Rig) -> None:
    async with client(rig, protocols=("tas.v1", f"tas.bearer.{ADMIN}")) as socket:
        assert socket.socket.protocol == "tas.v1"
        assert (await socket.ask(type="event", event=event("e")))["type"] == "ack"


async def test_who_may_only_write_and_who_may_only_read(rig: Rig) -> None:
    writer, reader = await known(rig), await known(rig, scopes=READER)
    async with client(rig, headers=bearer(writer)) as socket:
        assert (await socket.ask(type="event", event=event("e")))["type"] == "ack"
        assert (await socket.ask(type="subscribe"))["problem"]["code"] == "FORBIDDEN"
    async with client(rig, headers=bearer(reader)) as socket:
        for frame in ({"type": "event", "event": event("e")}, {"type": "batch", "events": [event("e")]}):
            assert (await socket.ask(**frame))["problem"]["code"] == "FORBIDDEN"
        assert (await socket.ask(type="subscribe"))["type"] == "ack"
    async with rig.session.get(STREAM, headers=bearer(writer)) as answer:
        assert answer.status == 403


async def test_a_reader_hears_what_its_patterns_say(rig: Rig) -> None:
    key = await known(rig, scopes=READER, event_types=["order.*"])
    async with client(rig, headers=bearer(key)) as socket, stream(rig, **bearer(key)) as found:
        assert (await socket.ask(type="subscribe", event_types=["*.made"]))["type"] == "ack"
        for name in ("user.made", "order.made", "order.paid"):
            await store(rig, name, name)
        assert (await socket.hear())["event"]["event_type"] == "order.made"
        assert await found.events(2) == ["order.made", "order.paid"]


async def test_a_revoked_key_sends_no_more(rig: Rig) -> None:
    key = await known(rig)
    async with client(rig, headers=bearer(key)) as socket:
        assert (await socket.ask(type="event", event=event("e")))["type"] == "ack"
        await revoke(rig, key)
        answer = await socket.ask(type="event", id=1, event=event("late"))
        assert (answer["id"], answer["problem"]["code"]) == (1, "UNAUTHORIZED")
        assert await socket.hear() == aiohttp.WSCloseCode.POLICY_VIOLATION
    assert "late" not in [stored.event_id for stored in await rig.stored()]


async def test_a_revoked_key_hears_no_more(rig: Rig) -> None:
    key = await known(rig, scopes=READER)
    async with client(rig, headers=bearer(key)) as socket, stream(rig, **bearer(key)) as found:
        assert (await socket.ask(type="subscribe", id="s"))["type"] == "ack"
        await store(rig, "seen", "seen")
        assert (await socket.hear())["event"]["event_type"] == "seen"
        assert await found.events(1) == ["seen"]
        await revoke(rig, key)
        await store(rig, "unseen", "unseen")
        assert (await socket.hear())["problem"]["code"] == "UNAUTHORIZED"
        assert await socket.hear() == aiohttp.WSCloseCode.POLICY_VIOLATION
        assert await found.block() is None


async def test_a_page_of_any_name_may_come_with_a_key_but_not_from_elsewhere(rig: Rig) -> None:
    async with client(rig, headers={**bearer(ADMIN), "Host": "tas.example"}) as socket:
        assert (await socket.ask(type="event", event=event("e")))["type"] == "ack"
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await rig.session.ws_connect(WS, headers={**bearer(ADMIN), "Origin": "https://evil.example"})
    assert caught.value.status == 403
