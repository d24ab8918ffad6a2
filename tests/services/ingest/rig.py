"""The ingest service on a real broker and a real port, and a client that may send any bytes."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import msgspec

from services.ingest.main import ingest
from services.ingest.settings import Settings
from tas_mcp import subjects
from tas_mcp.http import application, listening
from tas_mcp.messages import Event, decode_event
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime
from tests.shared.rig import Broker, linked

EVENTS = "/api/v1/events"
BATCH = "/api/v1/events/batch"
GOOD = b'{"event_type":"good","source":"test"}'
ANSWER_SECONDS = 30.0


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: Any


class Rig(NamedTuple):
    """A running ingest service."""

    port: int
    session: aiohttp.ClientSession
    broker: Broker
    grpc_port: int

    async def post(self, body: bytes, path: str = EVENTS, headers: dict[str, str] | None = None) -> Reply:
        sent = {"Content-Type": "application/json"} if headers is None else headers
        async with self.session.post(path, data=io.BytesIO(body), headers=sent, skip_auto_headers=["Content-Type"]) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Reply(answer.status, found, await answer.json(content_type=None))

    async def stored(self) -> list[Event]:
        """The events in the stream."""
        return [decode_event(message.data) for message in await self.broker.messages(subjects.EVENTS)]


@asynccontextmanager
async def serving(url: str, *, lay_out: bool = True, **changes: Any) -> AsyncIterator[Rig]:
    """Serve, the streams in place (where they are not to be made by the test)."""
    settings = Settings(**{"nats_url": url, "auth": "none", "grpc_port": 0, **changes})
    runtime = Runtime("ingest", settings, Ops())
    async with linked(url) as broker, runtime.running():
        if lay_out:
            await broker.lay_out()
        await runtime.connection.ready()
        async with ingest(settings, runtime):
            app = application([*runtime.routes, *runtime.ops.routes(metrics=False)], runtime.max_body, runtime.drains)
            idle, front = settings.idle_seconds, runtime.front
            door = listening(app, "127.0.0.1", 0, what="TAS_HTTP_PORT", drain_seconds=0.5, idle_seconds=idle, front=front)
            async with door as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield Rig(port, session, broker, runtime.ports["grpc"])


class Socket:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def end(self) -> None:
        """Send no more."""
        self._writer.write_eof()

    async def reply(self, seconds: float = ANSWER_SECONDS) -> Reply | None:
        """The next answer, or None when the server closed the connection; a failure when there is neither in time."""
        async with asyncio.timeout(seconds):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await self._reader.readexactly(int(headers.get("content-length", "0")))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
        status = int(first.split(" ")[1])
        return Reply(status, headers, msgspec.json.decode(body) if "json" in headers.get("content-type", "") else body)

    async def closed(self) -> bool:
        """Whether the server closes it, and sends nothing more before."""
        return await self.reply() is None


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Socket]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Socket(reader, writer)
    finally:
        writer.close()


def head(*lines: str, path: str = EVENTS, method: str = "POST", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: test", *lines, "", ""]).encode("latin-1")


def request(body: bytes, *lines: str, path: str = EVENTS) -> bytes:
    """A plain request."""
    return head("Content-Type: application/json", f"Content-Length: {len(body)}", *lines, path=path) + body
