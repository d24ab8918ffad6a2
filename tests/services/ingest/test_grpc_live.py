"""Stored and live events out of a real broker."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc
from tests.nats_server import NatsServer
from tests.services.ingest.calls import connected
from tests.services.ingest.rig import Rig, serving
from tests.shared.rig import until

EVERYTHING = mcp_pb2.StreamEventsRequest()


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with serving(nats.url) as found:
        yield found


@pytest.fixture
async def stub(rig: Rig) -> AsyncIterator[Any]:
    async with connected(rig.grpc_port) as channel:
        yield mcp_pb2_grpc.MCPServiceStub(channel)


async def send(stub: Any, *ids: str, event_type: str = "a.b", **members: Any) -> None:
    events = [mcp_pb2.Event(event_id=each, event_type=event_type, source="s", **members) for each in ids]
    await stub.IngestBatch(mcp_pb2.EventBatch(events=events))


async def some(call: Any, count: int) -> list[str]:
    """The ids of the next events of a stream."""
    return [(await call.read()).event_id for _ in range(count)]


async def test_stored_events_come_as_they_were_sent(stub: Any) -> None:
    await send(stub, "e1", data='{"n": 1.0}', timestamp=7, metadata={"k": "v"})
    [event] = [each async for each in stub.StreamEvents(EVERYTHING)]
    assert event == mcp_pb2.Event(
        event_id="e1", event_type="a.b", source="s", timestamp=7, data='{"n": 1.0}', metadata={"k": "v"}
    )  # fmt: skip


async def test_what_came_by_http_goes_out_by_grpc(rig: Rig, stub: Any) -> None:
    """A time in words, and data in the classic form."""
    body = b'{"event_id":"e","event_type":"a","source":"s","timestamp":"2001-09-09T01:46:40.5Z","data":"{\\"n\\": 1}"}'
    assert (await rig.post(body)).status == 200
    [event] = [each async for each in stub.StreamEvents(EVERYTHING)]
    assert (event.timestamp, event.data) == (1_000_000_000, '{"n": 1}')


async def test_only_the_types_that_are_asked_for(stub: Any) -> None:
    await send(stub, "e1", event_type="order.created")
    await send(stub, "e2", event_type="user.created")
    await send(stub, "e3", event_type="order.paid")
    found = stub.StreamEvents(mcp_pb2.StreamEventsRequest(event_types=["order.*", "none"]))
    assert [each.event_id async for each in found] == ["e1", "e3"]


async def test_only_what_was_stored_since_a_time(stub: Any) -> None:
    await send(stub, "e1")
    later = mcp_pb2.StreamEventsRequest(start_timestamp=4_000_000_000)
    assert [each.event_id async for each in stub.StreamEvents(later)] == []
    since = mcp_pb2.StreamEventsRequest(start_timestamp=1_000_000_000)
    assert [each.event_id async for each in stub.StreamEvents(since)] == ["e1"]


async def test_who_follows_goes_on_with_what_comes(stub: Any) -> None:
    await send(stub, "e1", "e2")
    call = stub.StreamEvents(mcp_pb2.StreamEventsRequest(follow=True))
    assert await some(call, 2) == ["e1", "e2"]
    await send(stub, "e3", "e4")
    assert await some(call, 2) == ["e3", "e4"]
    call.cancel()


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        (
            mcp_pb2.StreamEventsRequest(start_timestamp=-1),
            "/start_timestamp: -1 is not between 0 and 253402300799 (Unix seconds)",
        ),
        (mcp_pb2.StreamEventsRequest(event_types=["a"] * 101), "the filter is not valid: at most 100 patterns are allowed"),
    ],
)
async def test_a_request_that_is_not_valid(stub: Any, request_: mcp_pb2.StreamEventsRequest, detail: str) -> None:
    call = stub.StreamEvents(request_)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await call.details()).startswith(detail)


async def test_an_event_stream_gives_what_all_send(stub: Any) -> None:
    call = stub.EventStream()
    await call.write(mcp_pb2.Event(event_id="mine", event_type="a", source="s"))
    assert await some(call, 1) == ["mine"]
    await send(stub, "another")
    assert await some(call, 1) == ["another"]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_sender_that_does_not_read_is_not_held_up(rig: Rig, stub: Any) -> None:
    """All that it sends is stored, although what comes out fills the connection."""
    call = stub.EventStream()
    for number in range(1000):
        await call.write(mcp_pb2.Event(event_id=f"e{number}", event_type="a", source="s", data=f'"{"x" * 500}"'))

    async def all_stored() -> bool:
        return len(await rig.stored()) == 1000

    await until(all_stored)
    await call.done_writing()
    seen = [event.event_id async for event in call]
    assert seen == [f"e{number}" for number in range(len(seen))]
    assert await call.code() is grpc.StatusCode.OK


async def test_no_more_may_listen_than_allowed(nats: NatsServer) -> None:
    async with serving(nats.url, max_listeners=1) as rig, connected(rig.grpc_port) as channel:
        stub: Any = mcp_pb2_grpc.MCPServiceStub(channel)
        await send(stub, "e1")
        follow = mcp_pb2.StreamEventsRequest(follow=True)
        first, second = stub.StreamEvents(follow), stub.StreamEvents(follow)
        assert await some(first, 1) == ["e1"]
        assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()


async def test_a_drain_ends_who_follows(nats: NatsServer) -> None:
    async with serving(nats.url) as rig:
        channel = connected(rig.grpc_port)
        stub: Any = mcp_pb2_grpc.MCPServiceStub(await channel.__aenter__())
        await send(stub, "e1")
        call = stub.StreamEvents(mcp_pb2.StreamEventsRequest(follow=True))
        assert await some(call, 1) == ["e1"]
        code = asyncio.ensure_future(call.code())
    assert await code is grpc.StatusCode.UNAVAILABLE
    assert "the server is stopping" in await call.details()
    await channel.__aexit__(None, None, None)
