"""A webhook receiver in the test's process: what arrives at ``/<target>`` is written down, then answered as its script says."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import httptools
import msgspec

from tests.ports import free_port


class Reply(NamedTuple):
    """How to answer. ``status`` 0: with a reset of the connection."""

    status: int = 200
    delay: float = 0.0
    headers: str = ""


class Received(NamedTuple):
    """A request; ``status`` is what it was answered. Where nothing but the facts is kept, ``headers`` and ``body`` are empty."""

    target: str
    webhook_id: str
    event_id: str
    payload_hash: str
    at: float
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Script = Callable[[Received], Reply]
Hash = Callable[[str, Mapping[str, str], bytes], str]
"""Makes the hash of a target's request."""


class _Named(msgspec.Struct):
    event_id: str = ""


_event_id = msgspec.json.Decoder(_Named).decode


def first(count: int, reply: Reply, then: Reply = Reply()) -> Script:  # noqa: B008  (immutable)
    """Answer so ``count`` times, then otherwise."""
    left = iter(range(count))
    return lambda _: reply if next(left, None) is not None else then


def digest(target: str, headers: Mapping[str, str], body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=12).hexdigest()


class Receiver:
    """Knows all that it got, in the order of arrival."""

    def __init__(self, port: int, hashed: Hash = digest, keep: bool = True) -> None:
        self.port = port
        self.received: list[Received] = []
        self.hashed = hashed
        self.keep = keep
        self._scripts: dict[str, Script] = {}
        self.links: set[_Link] = set()

    def url(self, target: str) -> str:
        return f"http://127.0.0.1:{self.port}/{target}"

    def script(self, target: str, script: Script) -> None:
        """Answer the requests of ``target`` so from now on; without a script: 200 at once."""
        self._scripts[target] = script

    def of(self, target: str) -> list[Received]:
        return [each for each in self.received if each.target == target]

    def ids(self, target: str) -> list[str]:
        return [each.event_id for each in self.of(target)]

    async def has(self, target: str, *event_ids: str) -> bool:
        """Whether all of these were delivered (2xx)."""
        done = {each.event_id for each in self.received if each.target == target and 200 <= each.status < 300}
        return done.issuperset(event_ids)

    def take(self, target: str, headers: dict[str, str], body: bytes) -> Reply:
        """Write down, and decide what to answer."""
        try:
            event_id = _event_id(body).event_id
        except msgspec.MsgspecError:
            event_id = ""
        webhook_id, hashed = headers.get("webhook-id", ""), self.hashed(target, headers, body)
        kept: tuple[dict[str, str], bytes] = (headers, body) if self.keep else ({}, b"")
        found = Received(target, webhook_id, event_id, hashed, time.time(), 200, *kept)
        reply = self._scripts[target](found) if target in self._scripts else Reply()
        self.received.append(found._replace(status=reply.status))
        return reply


class _Link(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._timers: set[asyncio.TimerHandle] = set()
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._receiver.links.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.links.discard(self)
        for timer in self._timers:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        reply = self._receiver.take(self._url.decode().lstrip("/"), self._headers, b"".join(self._body))
        self._headers, self._body = {}, []
        if reply.delay:
            self._timers.add(asyncio.get_running_loop().call_later(reply.delay, self._answer, reply))
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        if not reply.status:
            self.transport.abort()
            return
        head = f"HTTP/1.1 {reply.status} X\r\n{reply.headers}content-length: 0\r\n\r\n"
        self.transport.write(head.encode())


@asynccontextmanager
async def receiving(hashed: Hash = digest, keep: bool = True) -> AsyncIterator[Receiver]:
    """Receive while inside."""
    receiver = Receiver(free_port(), hashed, keep)
    server = await asyncio.get_running_loop().create_server(lambda: _Link(receiver), "127.0.0.1", receiver.port, backlog=1024)
    try:
        yield receiver
    finally:
        server.close()
        for link in list(receiver.links):
            link.transport.abort()
        await server.wait_closed()
