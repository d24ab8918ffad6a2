"""Pulling from a durable consumer: credit asked for ahead of time, messages handed to a callback, acks grouped per loop turn.

nats-py's ``fetch`` costs a task and a timer per message and is known to stall. Here one inbox takes the messages of all requests,
and only one number matters: how many messages the server still may send (the *credit*). What the server answers, and what it
does to the credit (nats-server 2.15, tried):

    a message                    -1
    408 expired, 409 shutdown    minus the Nats-Pending-Messages that it names
    404, 409 without a count     the credit is gone: reset
    503, 409 consumer deleted    the consumer is missing: wait until it is back, then reset
    nothing (kill -9)            reset on reconnect, or after silence

A reset starts a new inbox, so that late statuses of the old requests are not counted twice.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from tas_mcp import telemetry
from tas_mcp.broker.connection import Connection
from tas_mcp.broker.jetstream import BrokerError, JetStream
from tas_mcp.broker.wire import Message
from tas_mcp.errors import Unavailable

log = telemetry.logger("puller")

EXPIRES_SECONDS = 30
HEARTBEAT_SECONDS = 10
SILENCE_SECONDS = 2.5 * HEARTBEAT_SECONDS
LOOK_SECONDS = 1.0
PAUSE_SECONDS = 0.1

REDELIVERED = telemetry.counter("mcp_redelivered", "Messages that the broker delivered more than once", ["stream"])

REACKED = 2000
"""How many acks are sent again after each connect: the last ones may have been lost with the link, or with the server's memory,
and what they were for would be handed out again after ack_wait. An ack that is not needed does no harm."""

ACK = b"+ACK"
NAK = b"-NAK"
IN_PROGRESS = b"+WPI"


class Pulled:
    """A message to be handled: ``seq`` is its stream sequence, ``delivered`` how often the broker has handed it out.

    Handling ends, now or later, with one call of ``ack`` or ``nak``.
    """

    __slots__ = ("_message", "_puller", "data", "delivered", "reply", "seq", "subject", "touched")

    def __init__(self, puller: "Puller", message: Message) -> None:
        self._puller = puller
        self.subject = message.subject
        self.data = message.data
        self._message = message
        self.reply = message.reply
        self.delivered, self.seq = _position(message.reply)
        self.touched = time.monotonic()

    @property
    def headers(self) -> dict[str, str]:
        return self._message.headers

    def header(self, name: str) -> str:
        """The value of one header, or ``""``; one that is not there costs next to nothing."""
        return self._message.header(name)

    def ack(self) -> None:
        """It is done: never hand it out again. Without a link the ack is sent after the next connect."""
        self._puller.end(self, ACK)

    def nak(self) -> None:
        """Not here: hand it out again, to whoever asks."""
        self._puller.end(self, NAK)


class Puller:
    """Pulls from one consumer and hands each message to ``handle``, which must not wait.

    At most ``limit`` messages and about ``limit_bytes`` are held (asked for or not yet ended). What is held for longer than a
    third of the consumer's ack_wait is marked in progress, so that the broker does not hand it out twice; a message that is
    handed out again all the same while it is held only renews its ack address.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        handle: Callable[[Pulled], None],
        *,
        limit: int,
        limit_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._stream = stream
        self._consumer = consumer
        self._handle = handle
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._root = connection.new_inbox()
        self._epoch = 0
        self._credit = 0
        self._held: dict[int, Pulled] = {}
        self._held_bytes = 0
        self._owed: list[tuple[str, bytes]] = []
        self._acked: deque[str] = deque(maxlen=REACKED)
        self._heard = 0.0
        self._ack_wait = 30.0
        self._paused = False
        self._stopping = False
        self._look = asyncio.Event()
        self._after: asyncio.Event | None = None
        self._empty = asyncio.Event()
        self._redelivered = REDELIVERED.labels(stream)
        self.trouble = "waits for its consumer"

    @property
    def held(self) -> int:
        return len(self._held)

    def end(self, pulled: Pulled, answer: bytes) -> None:
        """Answer the broker for ``pulled`` and make room for the next."""
        if self._held.pop(pulled.seq, None) is not None:
            self._held_bytes -= len(pulled.data)
            if self._stopping and not self._held:
                self._empty.set()
        try:
            self._connection.send(pulled.reply, answer)
            if answer is ACK:
                self._acked.append(pulled.reply)
        except Unavailable:
            self._owed.append((pulled.reply, answer))
        self._refill()

    def after(self, ready: asyncio.Event) -> None:
        """Ask for nothing before ``ready`` is set. To be said before ``running`` is entered."""
        self._after = ready

    def resize(self, limit: int) -> None:
        """Hold at most ``limit`` messages from now on."""
        self._limit = limit
        self._refill()

    def pause(self) -> None:
        """Ask for no more; what was asked for still comes."""
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._refill()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Puller"]:
        """Pull while inside. Leaving ends the pull, gives back what still arrives, and waits for what is held; the caller bounds
        the wait."""
        with self._connection.watched(up=self._on_up):
            async with self._connection.subscribed(self._root + ".*", self._on_message):
                keeper = asyncio.create_task(self._keep())
                try:
                    yield self
                finally:
                    self._paused = self._stopping = True
                    keeper.cancel()
            if self._held:
                await self._empty.wait()

    def _on_up(self) -> None:
        for reply in self._acked:
            self._connection.send(reply, ACK)
        owed, self._owed = self._owed, []
        for reply, answer in owed:
            self._connection.send(reply, answer)
        self._look.set()

    def _on_message(self, message: Message) -> None:
        self._heard = time.monotonic()
        if not message.reply:
            self._on_status(message)
            return
        self._credit = max(0, self._credit - 1)
        pulled = Pulled(self, message)
        if pulled.delivered > 1:
            self._redelivered.inc()
        held = self._held.get(pulled.seq)
        if held is not None:
            held.reply = pulled.reply
            return
        if self._stopping:
            pulled.nak()
            return
        self._held[pulled.seq] = pulled
        self._held_bytes += len(pulled.data)
        self._refill()
        self._handle(pulled)

    def _on_status(self, message: Message) -> None:
        if message.subject != f"{self._root}.{self._epoch}" or message.status == "100":
            return
        pending = message.headers.get("Nats-Pending-Messages")
        if pending is not None:
            self._credit = max(0, self._credit - int(pending))
            self._refill()
            return
        if message.status not in ("404", "408"):
            self.trouble = f"pull from {self._stream}/{self._consumer} ended: {message.status} {message.description}".rstrip()
        self._credit = 0
        self._look.set()

    def _refill(self) -> None:
        """Keep at least half of the room asked for."""
        if self._paused or self.trouble:
            return
        room = self._limit - len(self._held) - self._credit
        room_bytes = self._limit_bytes - self._held_bytes
        if (room * 2 < self._limit and self._credit) or room <= 0 or room_bytes <= 0:
            return
        request = {
            "batch": room,
            "max_bytes": max(room_bytes, self._connection.max_payload + 1024),
            "expires": EXPIRES_SECONDS * 1_000_000_000,
            "idle_heartbeat": HEARTBEAT_SECONDS * 1_000_000_000,
        }
        try:
            self._connection.send(self._next, msgspec.json.encode(request), f"{self._root}.{self._epoch}")
        except Unavailable:
            return
        self._credit += room

    async def _keep(self) -> None:
        """Find the consumer, ask, watch for silence, mark what takes long; again after each reset."""
        if self._after is not None:
            await self._after.wait()
        while True:
            try:
                async with asyncio.timeout(min(self._ack_wait / 6, HEARTBEAT_SECONDS)):
                    await self._look.wait()
            except TimeoutError:
                self._mark_in_progress()
                silent = time.monotonic() - self._heard > SILENCE_SECONDS
                if not (silent and self._credit and self._connection.connected):
                    continue
                log.warning("a pull went silent", consumer=self._consumer)
            if self._look.is_set() and self._credit == 0 and self.trouble:
                await asyncio.sleep(PAUSE_SECONDS)
            self._look.clear()
            if not self._connection.connected:
                continue  # _on_up sets look
            try:
                info = await self._jetstream.consumer_info(self._stream, self._consumer)
            except (BrokerError, Unavailable) as error:
                if self._connection.connected:
                    self.trouble = f"consumer {self._consumer} of {self._stream}: {error}"
                    await asyncio.sleep(LOOK_SECONDS)
                self._look.set()
                continue
            self._ack_wait = info["config"].get("ack_wait", 30_000_000_000) / 1e9
            self._epoch += 1
            self._credit, self.trouble, self._heard = 0, "", time.monotonic()
            self._refill()

    def _mark_in_progress(self) -> None:
        now = time.monotonic()
        for pulled in list(self._held.values()):
            if now - pulled.touched > self._ack_wait / 3:
                pulled.touched = now
                try:
                    self._connection.send(pulled.reply, IN_PROGRESS)
                except Unavailable:
                    return


def _position(reply: str) -> tuple[int, int]:
    """How often delivered, and the stream sequence, of an ack address: ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.
    <consumer seq>.<time>.<pending>``, or the same behind two more tokens (v2, ADR-15)."""
    tokens = reply.split(".")
    at = 4 if len(tokens) <= 9 else 6
    return int(tokens[at]), int(tokens[at + 1])
