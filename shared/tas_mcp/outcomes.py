"""What was decided and what was tried, on its way to the OUTCOMES stream: collected for a few milliseconds, stored as one
message (as several where the broker does not take so large a one), and only then reported back, so that whoever waits can ack
what the records cover.

Nothing recorded is given up: while OUTCOMES cannot be written the same records are tried again and again, their owners keep what
they hold, and by that stop pulling.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from tas_mcp import telemetry
from tas_mcp.broker import Publisher
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import Attempted, PubAck, Routed, encode

log = telemetry.logger("outcomes")

GROUP_SECONDS = 0.003
GROUP_RECORDS = 500
AGAIN_SECONDS = (0.1, 0.25, 0.5, 1.0)

Record = Routed | Attempted
Stored = Callable[[], None]


class _Group(NamedTuple):
    """Records on their way in one message."""

    records: list[Record]
    stored: list[Stored]
    payload: bytes
    msg_id: str


class Outcomes:
    """Writes records to ``subject``; ``stored`` of a record is called once its group has the broker's ack."""

    def __init__(self, publisher: Publisher, subject: str) -> None:
        self._publisher = publisher
        self._subject = subject
        self._records: list[Record] = []
        self._stored: list[Stored] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._run = secrets.token_hex(6)
        self._groups = itertools.count()
        self._waiting = 0
        self._empty = asyncio.Event()
        self._leaving = False
        self.trouble = ""

    def record(self, record: Record, stored: Stored) -> None:
        """Store ``record`` soon, then call ``stored``."""
        self._records.append(record)
        self._stored.append(stored)
        if len(self._records) >= GROUP_RECORDS:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GROUP_SECONDS, self._flush)

    def tell(self, inbox: str, record: Record) -> None:
        """Let somebody who waits for it know, if that can be done now: below the inbox, at the last word of the subject."""
        with suppress(TasError):
            self._publisher.tell(f"{inbox}.{self._subject.rpartition('.')[2]}", encode(record))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Outcomes"]:
        """Leaving waits until all is stored; the caller bounds the wait."""
        try:
            yield self
            self._leaving = True
            self._flush()
            if self._waiting:
                await self._empty.wait()
        finally:
            for timer in self._timers:
                timer.cancel()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._records:
            records, self._records = self._records, []
            stored, self._stored = self._stored, []
            self._store(records, stored)

    def _store(self, records: list[Record], stored: list[Stored]) -> None:
        self._waiting += 1
        self._publish(_Group(records, stored, encode(records), f"o{self._run}{next(self._groups)}"), 0)

    def _publish(self, group: _Group, tries: int) -> None:
        def settle(answer: PubAck | TasError) -> None:
            if isinstance(answer, Rejected) and len(group.records) > 1:
                self._split(group)
                return
            if isinstance(answer, TasError):
                self._again(group, tries, answer)
                return
            self.trouble = ""
            self._waiting -= 1
            for each in group.stored:
                each()
            if self._leaving and not self._waiting:
                self._empty.set()

        try:
            self._publisher.publish(self._subject, group.payload, settle, msg_id=group.msg_id)
        except TasError as error:
            settle(error)

    def _split(self, group: _Group) -> None:
        """It is too large: try its halves."""
        self._waiting -= 1
        middle = len(group.records) // 2
        self._store(group.records[:middle], group.stored[:middle])
        self._store(group.records[middle:], group.stored[middle:])

    def _again(self, group: _Group, tries: int, error: TasError) -> None:
        if not isinstance(error, Unavailable) or tries >= len(AGAIN_SECONDS):
            self.trouble = f"outcomes cannot be stored: {error}"
            log.error("outcomes not stored", detail=str(error), tries=tries)
        wait = AGAIN_SECONDS[min(tries, len(AGAIN_SECONDS) - 1)]

        def again() -> None:
            self._timers.discard(timer)
            self._publish(group, tries + 1)

        timer = asyncio.get_running_loop().call_later(wait, again)
        self._timers.add(timer)
