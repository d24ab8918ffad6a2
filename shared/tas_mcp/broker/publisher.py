"""Durable publishes: many in flight, each settled exactly once by the broker's answer, a deadline, or the loss of the link.

One wildcard inbox takes all answers; the last token of the reply subject is the number of the publish. No task, no future and no
timer per message: nats-py's ``js.publish`` waits a round trip each, and its ``publish_async`` has futures without a deadline.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from tas_mcp import telemetry
from tas_mcp.broker.connection import Connection
from tas_mcp.broker.jetstream import STALE_REVISION
from tas_mcp.broker.wire import Message
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import PubAck

TICKS = 20
"""A deadline is kept to a twentieth of its length: reading the clock for each publish would cost more than this."""

PENDING = telemetry.gauge("mcp_broker_pending_publishes", "Publishes that wait for the broker's ack")

Settle = Callable[[PubAck | TasError], None]


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(PubAck):
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Answer).decode


_Pending = tuple[int, int, Settle]
"""The tick of its deadline, its size, and whom to tell."""


class Publisher:
    """Publishes into streams and reports what came of it.

    ``window`` and ``window_bytes`` bound what waits for an ack; beyond them, and while the broker is away, a publish is refused
    at once. ``deadline`` is in seconds.
    """

    def __init__(
        self, connection: Connection, *, window: int = 4096, window_bytes: int = 32 * 1024 * 1024, deadline: float = 5.0
    ) -> None:
        self._connection = connection
        self._window = window
        self._window_bytes = window_bytes
        self._deadline = deadline
        self._inbox = connection.new_inbox()
        self._prefix = len(self._inbox) + 1
        self._numbers = itertools.count()
        self._pending: dict[str, _Pending] = {}
        self._bytes = 0
        self._told = 0
        self._tick = 0
        self._drained: asyncio.Event | None = None
        self._room = asyncio.Event()

    def publish(
        self, subject: str, payload: bytes, settle: Settle, *, msg_id: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send ``payload`` to be stored; ``settle`` is called once, later: with the ``PubAck``, with ``Unavailable`` (whether it
        was stored is not known: publish again with the same ``msg_id``), or with ``Rejected``.

        Raises:
            Unavailable: nothing was sent: the broker is away or too much is in flight.
            Rejected: ``TOO_LARGE``: more than the broker takes.
        """
        size = len(payload)
        if len(self._pending) >= self._window or (self._bytes and self._bytes + size > self._window_bytes):
            raise Unavailable(f"{len(self._pending)} publishes ({self._bytes} bytes) already wait for the broker's ack")
        if msg_id:
            headers = {**headers, "Nats-Msg-Id": msg_id} if headers else {"Nats-Msg-Id": msg_id}
        number = str(next(self._numbers))
        self._connection.send(subject, payload, f"{self._inbox}.{number}", headers)
        self._bytes += size
        self._pending[number] = self._tick + TICKS, size, settle

    def tell(self, subject: str, payload: bytes) -> None:
        """Send ``payload`` to whoever listens; it is not stored, and nobody answers. Raises as ``publish`` does."""
        self._connection.send(subject, payload)

    async def store(self, subject: str, payload: bytes, *, msg_id: str = "", headers: dict[str, str] | None = None) -> PubAck:
        """As ``publish``, waiting for the answer.

        Raises:
            Unavailable: not stored, or not known to be.
            Rejected: the broker will never take it.
        """
        future: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()

        def settle(answer: PubAck | TasError) -> None:
            if future.done():  # the waiting task was cancelled
                return
            if isinstance(answer, TasError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self.publish(subject, payload, settle, msg_id=msg_id, headers=headers)
        return await future

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def crowded(self) -> bool:
        """Whether more than half of the window is used, by number or by size."""
        return len(self._pending) * 2 > self._window or self._bytes * 2 > self._window_bytes

    async def room(self) -> None:
        """Wait until it is not crowded, or the broker is away: for those who publish many at once."""
        while self.crowded and self._connection.connected:
            self._room.clear()
            await self._room.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Publisher"]:
        """Listen for answers and keep the deadlines; on leaving, wait for what is pending (at most one deadline)."""
        async with self._connection.subscribed(self._inbox + ".*", self._on_answer):
            with self._connection.watched(down=self._fail_all):
                sweeper = asyncio.create_task(self._sweep())
                try:
                    yield self
                    self._drained = asyncio.Event()
                    if self._pending:
                        await self._drained.wait()
                finally:
                    sweeper.cancel()
                    self._fail_all()
                    self._tell(0)

    def _on_answer(self, message: Message) -> None:
        pending = self._pending.pop(message.subject[self._prefix :], None)
        if pending is None:  # later than its deadline
            return
        _, size, settle = pending
        self._bytes -= size
        settle(_verdict(message))
        if not self.crowded:
            self._room.set()
        if not self._pending and self._drained:
            self._drained.set()

    def _fail_all(self) -> None:
        pending, self._pending, self._bytes = self._pending, {}, 0
        self._room.set()
        for _, _, settle in pending.values():
            settle(Unavailable("the connection to the broker was lost before its ack came"))
        if self._drained:
            self._drained.set()

    def _tell(self, pending: int) -> None:
        """There may be other publishers: the metric is their sum."""
        PENDING.inc(pending - self._told)
        self._told = pending

    async def _sweep(self) -> None:
        """Count ticks. All deadlines are equally long, so the oldest publish, the first of the dict, is the first to expire."""
        while True:
            await asyncio.sleep(self._deadline / TICKS)
            self._tick += 1
            self._tell(len(self._pending))
            while self._pending:
                number, (deadline, size, settle) = next(iter(self._pending.items()))
                if deadline > self._tick:
                    break
                del self._pending[number]
                self._bytes -= size
                settle(Unavailable(f"no ack from the broker within {self._deadline:g} s"))
                self._room.set()
            if not self._pending and self._drained:
                self._drained.set()


def _verdict(message: Message) -> PubAck | TasError:
    if message.status == "503":
        return Unavailable("no stream takes this subject")
    try:
        answer = _decode(message.data)
    except msgspec.MsgspecError:
        return Unavailable(f"an ack that cannot be read: {message.data[:100]!r}")
    if answer.error is None:
        return answer
    error = answer.error
    if error.err_code == 10054:  # message size exceeds maximum allowed
        return Rejected("TOO_LARGE", f"the broker refused it: {error.description}")
    if error.err_code == STALE_REVISION:
        return Rejected("STALE_REVISION", f"changed by somebody else meanwhile: {error.description}")
    full = error.err_code in (10077, 10047, 10023, 10002)
    return Unavailable(f"the broker refused it: {error.description} ({error.err_code})", 5.0 if full else 1.0)
