"""Delivery connections: an HTTP/1.1 client for requests to one endpoint, a seventh of the cost of a general one.

It does what a delivery needs and nothing else: one write per request, keep-alive, answers read by llhttp (strict), the first
bytes of a body kept, the rest read up to a bound. What it will not do: redirects, cookies, compression, proxies, pipelining.

The host is resolved by the guard, and the address that it looked at is the one that is connected to.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools
from msgspec import Struct

from services.forward.guard import AddrInfo, Guard
from services.forward.verdict import Failed

KEPT_BYTES = 1024
"""How much of an answer's body is kept, unless told otherwise."""
BODY_BYTES = 65_536
"""How much of an answer's body is read so that its connection can be used again; a longer one costs the connection."""
HEAD_BYTES = 65_536
"""The largest head of an answer, interim answers included."""
IDLE_SECONDS = 20.0
AGE_SECONDS = 600.0
"""A connection lives no longer, so that a changed DNS entry or load balancer is noticed."""
DNS_SECONDS = 30.0
HAPPY_EYEBALLS_SECONDS = 0.25
TOLD_LENGTHS = frozenset(map(len, ("retry-after", "content-length", "transfer-encoding")))
"""Most headers are of no interest, which is told fastest by their lengths."""


class Endpoint(NamedTuple):
    """Where to connect to; ``tls`` is None for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, tls: ssl.SSLContext | None) -> "Endpoint":
        """Where a URL leads to."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls)


class Answer(Struct, frozen=True, gc=False):
    """A target's answer: its status, the value of Retry-After, and the beginning of its body."""

    status: int
    retry_after: str
    body: bytes


class Lost(Exception):
    """The connection ended before an answer was whole; ``untouched``: before any of it had come."""

    def __init__(self, detail: str, *, untouched: bool) -> None:
        super().__init__(detail)
        self.untouched = untouched


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    _bytes: int
    _body_bytes: int

    def __init__(self, loop: asyncio.AbstractEventLoop, kept_bytes: int = KEPT_BYTES) -> None:
        self._loop = loop
        self._kept_bytes = kept_bytes
        self.born = self.used = time.monotonic()
        self.reusable = True
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._headed and not self._framed:  # a body that ends with its connection
            self._finish()
        else:
            self._fail(f"the connection was lost: {error}" if error else "the target closed the connection")

    def request(self, data: bytes) -> "asyncio.Future[Answer]":
        """Send a whole request; the future gets the answer, or ``Lost``."""
        self._reset()
        self._answer = self._loop.create_future()
        if self._transport.is_closing():
            self._fail("the target closed the connection")
            return self._answer
        self._transport.write(data)
        return self._answer

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.reusable = False
        self._answer = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.abort()
            return
        self._touched = True
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the answer is no HTTP/1.1: {error}")
            self.abort()
            return
        if not self._headed and self._bytes > HEAD_BYTES:
            self._fail(f"the answer's head is larger than {HEAD_BYTES} bytes")
            self.abort()
        elif self._bytes > HEAD_BYTES + BODY_BYTES:  # by its trailers, or what is around its chunks
            self._cut()

    # What llhttp tells.

    def on_message_begin(self) -> None:
        if self._answer is None:  # a second answer to one request
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:  # a trailer
            return
        if len(name) not in TOLD_LENGTHS:
            return
        lower = name.lower()
        if lower == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif lower == b"content-length" or (lower == b"transfer-encoding" and value.lower().endswith(b"chunked")):
            self._framed = True

    def on_headers_complete(self) -> None:
        self._headed = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if len(self._body) < self._kept_bytes:
            self._body += body[: self._kept_bytes - len(self._body)]
        if self._body_bytes > BODY_BYTES:
            self._cut()

    def on_message_complete(self) -> None:
        if not self._headed:  # an interim answer (1xx): the real one follows
            self._framed, self._retry_after = False, ""
            return
        if not self._parser.should_keep_alive() or self._transport.get_write_buffer_size():
            self.reusable = False  # it said so; or it answered before it had the whole request
        self._finish()

    def _reset(self) -> None:
        self._headed = False
        self._framed = False
        self._touched = False
        self._bytes = 0
        self._body_bytes = 0
        self._retry_after = ""
        self._body = b""

    def _cut(self) -> None:
        """Its status counts; of the rest there is too much."""
        self.reusable = False
        self._finish()

    def _finish(self) -> None:
        future, self._answer = self._answer, None
        if future is not None and not future.done():
            future.set_result(Answer(self._parser.get_status_code(), self._retry_after, self._body))

    def _fail(self, detail: str) -> None:
        future, self._answer = self._answer, None
        self.reusable = False
        if future is not None and not future.done():
            future.set_exception(Lost(detail, untouched=not self._touched))


class Pool:
    """The connections to one endpoint. The last used is used first, so that those not needed go idle and are closed."""

    def __init__(self, endpoint: Endpoint, connect_seconds: float, guard: Guard, kept_bytes: int = KEPT_BYTES) -> None:
        self._endpoint = endpoint
        self._connect_seconds = connect_seconds
        self._guard = guard
        self._kept_bytes = kept_bytes
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._addresses: Sequence[AddrInfo] = ()
        self._resolved_at = float("-inf")

    async def request(self, data: bytes) -> Answer:
        """Send a whole request and read its answer. Cancelling closes the connection that it is on.

        A connection that the target closed while it was idle is no failure: the request goes out again on a new one, once,
        when nothing of an answer had come.

        Raises:
            Failed: no connection, or no whole answer.
            Refused: the guard does not let it through.
        """
        connection = self._last_used()
        fresh = connection is None
        while True:
            if connection is None:
                connection = await self._connect()
            try:
                answer = await connection.request(data)
            except Lost as lost:
                self._drop(connection)
                if fresh or not lost.untouched:
                    raise Failed(0, str(lost)) from None
                connection, fresh = None, True
            except asyncio.CancelledError:
                self._drop(connection)
                raise
            else:
                self._keep(connection)
                return answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Pool"]:
        """Close what is idle too long while inside; leaving closes all."""
        try:
            yield self
        finally:
            if self._sweeper is not None:
                self._sweeper.cancel()
            for connection in list(self._open):
                self._drop(connection)

    def _keep(self, connection: Connection) -> None:
        """It is free again, if it can be used again."""
        connection.used = now = time.monotonic()
        if not connection.reusable or now - connection.born > AGE_SECONDS:
            self._drop(connection)
            return
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweep_later()

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _last_used(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> Connection:
        endpoint = self._endpoint
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                sock = await aiohappyeyeballs.start_connection(
                    await self._resolve(), happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, loop=loop
                )
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                name = endpoint.host if endpoint.tls else None
                make = partial(Connection, loop, self._kept_bytes)
                _, connection = await loop.create_connection(make, sock=sock, ssl=endpoint.tls, server_hostname=name)
        except ssl.SSLError as error:
            raise Failed(0, f"TLS with {endpoint.host} failed: {error}") from None
        except TimeoutError:
            raise Failed(0, f"no connection to {endpoint.host}:{endpoint.port} within {self._connect_seconds:g} s") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
            self._resolved_at = float("-inf")
            raise Failed(0, f"no connection to {endpoint.host}:{endpoint.port}: {error}") from None
        self._open.add(connection)
        return connection

    async def _resolve(self) -> Sequence[AddrInfo]:
        if time.monotonic() - self._resolved_at > DNS_SECONDS:
            self._addresses = await self._guard.resolve(self._endpoint.host, self._endpoint.port)
            self._resolved_at = time.monotonic()
        return self._addresses

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(IDLE_SECONDS / 4, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long; again as long as there are connections: of a thousand targets most have none."""
        now = time.monotonic()
        for connection in [each for each in self._idle if not each.reusable or now - each.used > IDLE_SECONDS]:
            self._idle.remove(connection)
            self._drop(connection)
        self._sweeper = None
        if self._idle:
            self._sweep_later()
