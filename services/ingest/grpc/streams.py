"""Streams of events in: read while there is room, answered as the broker acks.

A client that sends faster than the broker stores is slowed: with ``WINDOW`` events of its stream under way no more is read, and
gRPC's flow control stops it. What is under way ends with the ack that the client has taken, so one that does not read its acks is
slowed too, and so is one that sends more than its rate limits allow.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc

from services.ingest.grpc.batches import Batch
from services.ingest.grpc.calls import STOPPING, Calls
from services.ingest.grpc.client import Client, Context
from services.ingest.grpc.events import decode_event, read
from services.ingest.grpc.live import Live
from services.ingest.intake import Accepted, Counted, Intake
from tas_mcp.callers import Caller
from tas_mcp.errors import Overloaded, TasError, Unavailable
from tas_mcp.v1 import mcp_pb2

WINDOW = 2000
"""How many events of one stream may be under way before no more are read."""

EOF: object = grpc.aio.EOF

Take = Callable[[bytes], Awaitable[None]]


class Inflow:
    """What comes in on one stream."""

    def __init__(self, intake: Intake, calls: Calls, client: Client) -> None:
        self._intake = intake
        self._calls = calls
        self._client = client
        self._under_way = 0
        self._room = asyncio.Event()
        self._reading: asyncio.Task[None]

    async def admitted(self, events: int, size: int) -> Caller:
        """Who has sent a message with so many events, of ``size`` bytes together; after as long as it is too much.

        Raises:
            AuthenticationFailed: they may not come in any more.
            Unavailable: that cannot be known.
        """
        while True:
            try:
                caller = self._client.admit()
                self._intake.admit(caller, events, size)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after)
            else:
                return caller

    def began(self, count: int) -> None:
        self._under_way += count

    def ended(self, count: int) -> None:
        self._under_way -= count
        self._room.set()

    @property
    def over(self) -> bool:
        """Whether nothing more comes, and nothing is under way."""
        return self._reading.done() and not self._under_way

    @asynccontextmanager
    async def reading(self, context: Context, take: Take, told: Callable[[], None]) -> AsyncIterator[None]:
        """Hand each message to ``take`` while inside; ``told`` is called when no more come. Leaving raises what ``take`` raised.

        Raises:
            Unavailable: the server drains, and the client has not said that it has sent all.
        """
        self._reading = asyncio.create_task(self._read(context, take))
        self._reading.add_done_callback(lambda _: told())
        try:
            with self._calls.stopping(self._reading.cancel):
                yield
            if self._reading.cancelled():
                raise Unavailable(STOPPING)
            await self._reading
        finally:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, context: Context, take: Take) -> None:
        while (body := await context.read()) is not EOF:
            while self._under_way >= WINDOW:
                self._room.clear()
                await self._room.wait()
            await self._intake.room()
            await take(body)


class IngestStream:
    """Batches in, an ack for each out, in the order in which they are stored."""

    def __init__(self, inflow: Inflow, intake: Intake, counted: Counted, max_events: int) -> None:
        self._inflow = inflow
        self._intake = intake
        self._counted = counted
        self._max_events = max_events
        self._settled: asyncio.Queue[Batch | None] = asyncio.Queue()

    async def run(self, context: Context) -> None:
        """Serve until the client has sent all, and has its acks."""
        async with self._inflow.reading(context, self._take, partial(self._settled.put_nowait, None)):
            while not self._inflow.over:
                batch = await self._settled.get()
                if batch is not None:
                    await context.write(batch.ack())
                    self._inflow.ended(_weight(batch))

    async def _take(self, body: bytes) -> None:
        batch = Batch(body, self._max_events)
        caller = await self._inflow.admitted(len(batch.events), len(body))
        self._inflow.began(_weight(batch))
        batch.submit(self._intake, caller, self._counted, partial(self._settled.put_nowait, batch))


def _weight(batch: Batch) -> int:
    """How much of the window it takes: an empty one is under way too."""
    return len(batch.events) + 1


class EventStream:
    """Events in, and live ones out to who may read them. The first event that is refused ends the stream: there is nothing
    else by which to say so."""

    def __init__(self, inflow: Inflow, intake: Intake, counted: Counted, live: Live | None) -> None:
        self._live = live
        self._inflow = inflow
        self._intake = intake
        self._counted = counted
        self._number = 0
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    async def run(self, context: Context) -> None:
        """Serve until the client has sent all, and all is stored."""
        if self._live is None:
            await self._run(context)
            return
        async with self._live.listening() as listener:
            telling = asyncio.create_task(self._live.tell(listener, context))
            telling.add_done_callback(self._told)
            try:
                await self._run(context)
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)

    def _told(self, telling: asyncio.Task[None]) -> None:
        """No more events go out. That ends the stream, unless it is its end."""
        if not telling.cancelled():
            self._error = self._error or telling.exception()
        self._changed.set()

    async def _run(self, context: Context) -> None:
        async with self._inflow.reading(context, self._take, self._changed.set):
            while not self._inflow.over and self._error is None:
                self._changed.clear()
                await self._changed.wait()
            if self._error is not None:
                raise self._error

    async def _take(self, body: bytes) -> None:
        event = decode_event(mcp_pb2.Event, body, self._intake.limits)
        caller = await self._inflow.admitted(1, len(body))
        self._number += 1
        self._inflow.began(1)
        self._intake.take(event, len(body), read, caller, self._counted, partial(self._settle, self._number))

    def _settle(self, number: int, answer: Accepted | TasError) -> None:
        self._inflow.ended(1)
        if isinstance(answer, TasError) and self._error is None:
            answer.detail = f"event {number} of the stream: {answer.detail}"
            self._error = answer
        self._changed.set()
