"""What happens on a connection where no handler can do anything about it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tas_mcp.http import application, json_response, listening
from tests.services.ingest.rig import Reply, Socket, connected, head

GET = head(method="GET", path="/wait")


class Served:
    """A route that answers when it may, and tells what it was sent."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def wait(self, request: web.Request) -> web.StreamResponse:
        self.asked.set()
        body = await request.read()
        await self.go.wait()
        return json_response(body.decode())


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    found = Served()
    app = application([web.route("*", "/wait", found.wait)], 1000)
    async with listening(app, "127.0.0.1", 0, what="TAS_HTTP_PORT", drain_seconds=0.1) as found.port:
        yield found


async def reply(socket: Socket) -> Reply:
    found = await socket.reply()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (head("nothing", method="GET"), "Invalid header"),
        (head("A: b\x01c", method="GET"), "Invalid header"),
        (head("Content-Length: 1", "Content-Length: 2"), "Duplicate Content-Length"),
        (b"\x16\x03\x01\r\n\r\n", "HTTPS"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", "more than 8190 bytes"),
    ],
)
async def test_what_is_no_request_is_a_problem(served: Served, sent: bytes, why: str) -> None:
    async with connected(served.port) as socket:
        socket.send(sent)
        found = await reply(socket)
        assert (found.status, found.headers["content-type"]) == (400, "application/problem+json")
        assert (found.body["code"], found.body["request_id"]) == ("INVALID_REQUEST", found.headers["x-request-id"])
        assert why in found.body["detail"]
        assert await socket.closed()


@pytest.mark.parametrize(
    ("sent", "told"), [(GET, ""), (head("Content-Length: 2", path="/wait") + b"ab", "ab")], ids=["without a body", "with one"]
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_who_ends_after_a_request_is_answered(served: Served, sent: bytes, told: str, at_once: bool) -> None:
    async with connected(served.port) as socket:
        socket.send(sent)
        if not at_once:
            await served.asked.wait()
        socket.end()
        served.go.set()
        found = await reply(socket)
        assert (found.status, found.body) == (200, told)
        assert await socket.closed()


async def test_all_requests_before_the_end_are_answered(served: Served) -> None:
    async with connected(served.port) as socket:
        socket.send(GET * 3)
        await served.asked.wait()
        socket.end()
        served.go.set()
        assert [(await reply(socket)).status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    "sent", [b"", b"GET /wa", GET[:-2], head("Content-Length: 5", path="/wait") + b"ab"], ids=["nothing", "line", "head", "body"]
)
async def test_who_ends_halfway_is_let_go(served: Served, sent: bytes) -> None:
    async with connected(served.port) as socket:
        socket.send(sent)
        if b"Length" in sent:
            await served.asked.wait()
        socket.end()
        assert await socket.closed()


async def test_a_websocket_that_sends_no_more_has_ended() -> None:
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def talk(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        ended.set_result((await socket.receive()).type)
        return socket

    app = application([web.get("/ws", talk)], 1000)
    async with listening(app, "127.0.0.1", 0, what="TAS_HTTP_PORT", drain_seconds=0.1) as port, connected(port) as socket:
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        socket.send(head("Connection: Upgrade", "Upgrade: websocket", key, "Sec-WebSocket-Version: 13", method="GET", path="/ws"))
        assert (await reply(socket)).status == 101
        socket.end()
        async with asyncio.timeout(60):
            assert await ended is not None
