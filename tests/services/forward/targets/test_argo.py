"""The Argo Events sender: on a bus laid out as its controller does, and at a webhook that answers as its EventSource does."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from msgspec import structs

from services.forward.targets import TextSender, open_sender
from services.forward.verdict import Refused
from tas_mcp import targets
from tas_mcp.http import application, listening
from tas_mcp.messages import webhook_id
from tests.contracts.target import event
from tests.nats_server import NatsServer
from tests.services.forward.rig import OPEN
from tests.shared.rig import Broker, linked


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Broker]:
    async with linked(nats.url) as broker:
        await broker.stream("default", subjects=["default.*.*"])  # pkg/eventbus/jetstream/base/jetstream.go of argo-events
        yield broker


def on_bus(nats: NatsServer, target_id: str = "t") -> targets.AnyTarget:
    config = {"event_source": "tas", "event_name": "orders"}
    return targets.check({"id": target_id, "type": "argo-events", "endpoint": nats.url, "config": config})[0]


async def test_what_a_sensor_reads(nats: NatsServer, bus: Broker) -> None:
    async with open_sender(on_bus(nats), OPEN) as sender:
        assert await sender.send(event()) == 200
    [found] = await bus.messages("default")
    assert found.subject == "default.tas.orders"
    assert found.headers["Nats-Msg-Id"] == f"{webhook_id(event())}:t"
    body = json.loads(found.data)
    assert base64.b64decode(body.pop("data_base64")) == b'{"b": 1, "a":[1.0,"\xc3\xa9"]}'
    assert body == {
        "specversion": "1.0",
        "id": webhook_id(event()),
        "source": "tas",
        "subject": "orders",
        "type": "user.created",
        "time": "2023-12-19T15:53:54Z",
        "datacontenttype": "application/json",
        "region": "eu",
        "eventid": "e1",
        "eventsource": "auth",
    }
    read = from_http_event(HTTPMessage(headers={"content-type": "application/cloudevents+json"}, body=found.data))
    assert (read.get_source(), read.get_subject()) == ("tas", "orders")


async def test_events_of_two_sources_with_one_id_differ_for_a_sensor(nats: NatsServer, bus: Broker) -> None:
    async with open_sender(on_bus(nats), OPEN) as sender:
        await sender.send(event())
        await sender.send(event())
        await sender.send(structs.replace(event(), source="other"))
    found = [json.loads(message.data)["id"] for message in await bus.messages("default")]
    assert len(found) == len(set(found)) == 2


async def test_the_text_of_a_template_is_the_data(nats: NatsServer, bus: Broker) -> None:
    async with open_sender(on_bus(nats), OPEN) as sender:
        assert isinstance(sender, TextSender)
        await sender.send_text(event(), '{"a": 1}', None)
    [found] = await bus.messages("default")
    assert base64.b64decode(json.loads(found.data)["data_base64"]) == b'{"a": 1}'


class EventSource:
    """A webhook EventSource with an auth secret (pkg/eventsources/common/webhook/webhook.go of argo-events)."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[tuple[str, bytes]] = []

    async def take(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer s3cr3t":
            return web.Response(status=401, text="Invalid Auth token")
        self.seen.append((request.content_type, await request.read()))
        return web.Response(text="success")

    def target(self, **config: Any) -> targets.AnyTarget:
        endpoint = f"http://127.0.0.1:{self.port}/orders"
        return targets.check({"id": "t", "type": "argo-events", "endpoint": endpoint, "config": config})[0]


@asynccontextmanager
async def event_source() -> AsyncIterator[EventSource]:
    found = EventSource()
    app = application([web.post("/orders", found.take)], 10_000_000)
    async with listening(app, "127.0.0.1", 0, what="X", drain_seconds=0.1) as found.port:
        yield found


@pytest.mark.parametrize(
    ("format", "content_type", "part"),
    [
        ("cloudevents", "application/cloudevents+json", b'"specversion":"1.0"'),
        ("tas", "application/json", b'"event_id":"e1"'),
        ("data", "application/json", b'{"b": 1'),
    ],
)
async def test_a_webhook(format: str, content_type: str, part: bytes) -> None:
    async with event_source() as found:
        async with open_sender(found.target(format=format, token="s3cr3t"), OPEN) as sender:
            assert await sender.send(event()) == 200
        [(kind, body)] = found.seen
        assert kind == content_type
        assert part in body
        async with open_sender(found.target(token="wrong"), OPEN) as sender:
            with pytest.raises(Refused) as caught:
                await sender.send(event())
        assert caught.value.status == 401
