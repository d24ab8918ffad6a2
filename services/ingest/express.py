"""The express lane: answers plain event POSTs on the socket itself, with no task, future or request object per event.

    bytes -> head (remembered) -> body -> Intake -> the broker's ack -> answer, in the order of the requests

Anything that is not plain (``heads.py``) hands the connection, with its unread bytes, to aiohttp, for good, after the answers
that are still owed on it have gone out. The lane keeps to: at most ``PIPELINED`` requests under way on a connection, at most
``max_connections`` connections, a deadline for each head and body, no reading while the client does not read its answers.
"""

import asyncio
import time
from collections import deque
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from services.ingest import answers, batch
from services.ingest.answers import Answer
from services.ingest.cloudevents import Binary
from services.ingest.forms import BINARY, JSON
from services.ingest.heads import Head, Heads, promising
from services.ingest.intake import Accepted, Counted, Intake
from services.ingest.rates import Addresses
from services.ingest.settings import Settings
from services.ingest.traces import Trace
from tas_mcp import telemetry
from tas_mcp.auth import Authentication
from tas_mcp.errors import Rejected, TasError
from tas_mcp.http import ProtocolFactory, fit_request_id
from tas_mcp.tls import names
from tas_mcp.tracing import trace_id

log = telemetry.logger("express")

PIPELINED = 32
"""How many requests of one connection may wait for their answers before no more are read."""
SWEEP_SECONDS = 0.5
HANDED_REQUESTS = 100
"""After so many requests aiohttp closes a connection that it was handed, so that a proxy's pooled connections come back here."""

CONNECTIONS = telemetry.gauge("mcp_http_connections", "Open connections to the event routes")
HANDED = telemetry.counter("mcp_http_handed_over", "Connections that the express lane handed to aiohttp")

_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Express:
    """The front of the ingest port (``tas_mcp.http.Front``)."""

    def __init__(self, settings: Settings, intake: Intake, auth: Authentication, addresses: Addresses | None = None) -> None:
        self.intake = intake
        self.auth = auth
        self.addresses = addresses
        self.heads = Heads(min(settings.express_bytes, settings.max_batch_bytes), auth.origin.header)
        self.counted = {form.protocol: Counted(form.protocol) for form in (JSON, BINARY)}
        self.batch_limits = settings.max_batch_bytes, settings.max_batch_events
        self.body_seconds = settings.body_seconds
        self.idle_seconds = settings.idle_seconds
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self._max_connections = settings.max_connections
        self._handed: dict[RequestHandler, int] = {}
        self._empty = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        self.next: ProtocolFactory | None = None

    def attach(self, factory: ProtocolFactory) -> ProtocolFactory:
        self.next = factory
        self._tick()
        self._sweeper = asyncio.create_task(self._sweep())
        return partial(Connection, self)

    async def drain(self) -> None:
        self.draining = True
        try:
            for connection in list(self.connections):
                connection.finish()
            if self.connections:
                await self._empty.wait()
        finally:
            for connection in list(self.connections):
                connection.abort()
            if self._sweeper is not None:
                self._sweeper.cancel()

    def opened(self, connection: "Connection") -> bool:
        """Count a connection; False where there are too many, those that aiohttp has included."""
        if self.draining or len(self.connections) + len(self._handed) >= self._max_connections:
            return False
        self.connections.add(connection)
        return True

    def hand_over(self, connection: "Connection") -> RequestHandler:
        """Who has the connection from now on."""
        assert self.next is not None  # noqa: S101  (attach came first)
        HANDED.inc()
        handler = cast(RequestHandler, self.next())
        self._handed[handler] = 0
        self.closed(connection)
        return handler

    def spent(self, request: web.Request) -> bool:
        """Count a request to an event route that aiohttp serves; whether its connection has had enough of them."""
        handler = request.protocol
        if handler in self._handed:
            self._handed[handler] += 1
        return self._handed.get(handler, 0) >= HANDED_REQUESTS

    def closed(self, connection: "Connection") -> None:
        """A connection ended, or is aiohttp's now."""
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self._empty.set()

    def _tick(self) -> None:
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()

    async def _sweep(self) -> None:
        """Keep the deadlines of all connections."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._tick()
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check_deadline(now)
            for handler in [each for each in self._handed if each.transport is None]:
                del self._handed[handler]
            CONNECTIONS.set(len(self.connections) + len(self._handed))


class Connection(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "_buffer",
        "_ending",
        "_express",
        "_handing",
        "_names",
        "_owed",
        "_peer",
        "_reading",
        "_since",
        "_transport",
        "_waiting_for",
        "_writable",
    )

    def __init__(self, express: Express) -> None:
        self._express = express
        self._buffer = b""
        self._owed: deque[_Slot] = deque()
        self._handing = False
        self._ending = False
        self._reading = True
        self._writable = True
        self._since = time.monotonic()
        self._waiting_for: Head | None = None
        self._transport: asyncio.Transport
        self._peer = ""
        self._names: tuple[str, ...] = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = peer(transport)
        self._names = names(transport)
        if not self._express.opened(self):
            log.warning("a connection was closed at once: there are too many, or none are taken any more")
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._owed.clear()
        self._express.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if not self._handing:
            self._take()

    def eof_received(self) -> bool:
        """The client sends no more; it still gets what it is owed."""
        self._ending = True
        return bool(self._owed) and self._transport.get_extra_info("sslcontext") is None  # TLS cannot be closed halfway

    def pause_writing(self) -> None:
        self._writable = False
        self._regulate()

    def resume_writing(self) -> None:
        self._writable = True
        self._regulate()

    def finish(self) -> None:
        """Answer what is in flight, then close."""
        if not self._owed:
            self._transport.close()
        self._ending = True

    def abort(self) -> None:
        """Close at once."""
        self._ending = True
        self._transport.abort()

    def check_deadline(self, now: float) -> None:
        """Close what is idle or slow: no head within the header deadline, no body within its own."""
        if self._owed or self._handing:
            return
        if self._waiting_for is not None:
            if now - self._since > self._express.body_seconds:
                error = Rejected("TIMEOUT", f"the body did not arrive within {self._express.body_seconds:g} s")
                self._ending = True
                slot = _Slot(self, self._waiting_for)
                self._owed.append(slot)
                slot.settle(error)
        elif now - self._since > self._express.idle_seconds:
            if self._transport.get_write_buffer_size():  # it does not read its answers: closing would wait for that
                self.abort()
            else:
                self._transport.close()

    def _take(self) -> None:
        """Take all whole requests of the buffer. It is empty meanwhile: what is settled at once flushes, and must find nothing to
        take."""
        if self._handing:
            return
        buffer, start = self._buffer, 0
        self._buffer = b""
        heads = self._express.heads
        while self._writable and not (self._ending or self._full()):
            head = self._waiting_for
            if head is None:
                end = buffer.find(b"\r\n\r\n", start)
                if end < 0:
                    self._handing = start < len(buffer) and not promising(buffer[start:])
                    break
                head = heads.read(buffer[start : end + 4])
                if head is None:
                    self._handing = True
                    break
                start = end + 4
                self._waiting_for = head
                self._since = time.monotonic()
            if len(buffer) - start < head.length:
                break
            body = buffer[start : start + head.length]
            start += head.length
            self._waiting_for = None
            self._since = time.monotonic()
            self._submit(head, body)
        self._buffer = buffer[start:] if start else buffer
        if self._handing and not self._owed:
            self._hand_over()
        else:
            self._regulate()

    def _full(self) -> bool:
        """Whether what comes next has to wait: too much is under way, or a batch is, which is to be stored before it."""
        owed = self._owed
        return bool(owed) and (len(owed) >= PIPELINED or owed[-1].task is not None)

    def _submit(self, head: Head, body: bytes) -> None:
        express = self._express
        slot = _Slot(self, head)
        self._owed.append(slot)
        form = head.form
        counted = express.counted[form.protocol]
        try:
            client = express.auth.origin.client(self._peer, head.forwarded)
            if express.addresses is not None:
                express.addresses.admit(client, self._since)
            caller = express.auth.identify(head.credential, client, self._names)
        except TasError as error:
            counted.count(error)
            slot.settle(error)
            return
        if form.split is None:
            given = Binary(head.attributes, head.content_type, body) if form is BINARY else body
            slot.trace = express.intake.trace(counted, head.traceparent)
            express.intake.submit(given, len(body), form.read, caller, counted, slot.settle, trace=slot.trace)
            return
        try:
            caller.require("events:write")
            entries = form.split(body, *express.batch_limits)
        except Rejected as error:
            slot.settle(error)
            return
        slot.task = asyncio.create_task(batch.submit(entries, express.intake, caller, counted, form.read, head.traceparent))
        slot.task.add_done_callback(slot.settle_batch)

    def flush(self) -> None:
        """Write the answers whose turn it is."""
        owed = self._owed
        parts = []
        while owed and owed[0].answer is not None:
            slot = owed.popleft()
            last = self._ending and not owed and not self._handing
            parts.append(_raw(slot, self._express.date, close=last))
        if not parts or self._transport.is_closing():
            return
        self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
        if owed:
            return
        self._since = time.monotonic()
        if self._handing:
            self._hand_over()
        elif self._ending:
            self._transport.close()
        elif self._buffer:
            self._take()
        else:
            self._regulate()

    def _regulate(self) -> None:
        """Read only when what is read can be dealt with."""
        wanted = self._writable and not self._handing and not self._full()
        if wanted and not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()
            if self._buffer and not self._ending:
                asyncio.get_running_loop().call_soon(self._take)
        elif not wanted and self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _hand_over(self) -> None:
        """Make the connection aiohttp's."""
        handler = self._express.hand_over(self)
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        if not self._reading:
            self._transport.resume_reading()
        buffer, self._buffer = self._buffer, b""
        if buffer:
            handler.data_received(buffer)


class _Slot:
    """The place of one request's answer in the order of its connection."""

    __slots__ = ("_connection", "_head", "answer", "task", "trace")

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._head = head
        self.answer: Answer | Accepted | None = None
        self.trace: Trace | None = None
        self.task: asyncio.Task[list[Accepted | TasError]] | None = None

    def settle(self, answer: Accepted | TasError) -> None:
        if isinstance(answer, TasError):
            self.answer = answers.refused(answer, fit_request_id(self._head.request_id))
        else:
            self.answer = answer
        self._connection.flush()

    def settle_batch(self, task: "asyncio.Task[list[Accepted | TasError]]") -> None:
        if task.cancelled():  # the loop ends
            return
        rid = fit_request_id(self._head.request_id)
        if error := task.exception():
            log.error("batch failed", request_id=rid, trace_id=trace_id(self._head.traceparent), exc_info=error)
            problem = TasError(f"internal error ({type(error).__name__}): see the log for this request_id")
            self.answer = answers.refused(problem, rid)
        else:
            self.answer = answers.batch(task.result(), rid)
        self._connection.flush()


def peer(transport: asyncio.BaseTransport) -> str:
    """The address at the other end of a connection; none for a Unix socket."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def _raw(slot: _Slot, date: bytes, *, close: bool) -> bytes:
    """An answer as the bytes of HTTP/1.1."""
    answer = slot.answer
    ending = b"Connection: close\r\n" if close else b""
    if slot.trace is not None:
        ending += b"traceparent: %s\r\n" % slot.trace.traceparent.encode()
    if isinstance(answer, Accepted):
        body = answers.encode(answer)
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nLocation: %s\r\n%s%s\r\n%s" % (
            len(body), answers.location(answer.event_id).encode(), date, ending, body,
        )  # fmt: skip
    assert answer is not None  # noqa: S101  (flush looked)
    extra = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items()).encode()
    return b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%s%s\r\n%s" % (
        _STATUS[answer.status].encode(), answer.content_type.encode(), len(answer.body), extra, date, ending, answer.body,
    )  # fmt: skip
