"""Requests that wait for what becomes of their event: process and forward tell an inbox of this replica, which the event and its
deliveries name. What they tell is lost where the link is: nobody may rely on it, and all waits end in time.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec
from msgspec import Struct

from tas_mcp import subjects, telemetry
from tas_mcp.broker import Connection, Message
from tas_mcp.messages import Attempted, Routed, decode_attempted, decode_routed

log = telemetry.logger("waits")

WAITING = telemetry.gauge("mcp_http_waiting", "Requests that wait for what becomes of their event (Prefer: wait)")

ROUTED = {"queued": "pending", "dropped": "dropped"}
"""What the results of the routing mean for a target; all others mean a dead letter."""
TRIED = {"gone": "pending"}
"""What the results of an attempt mean for a target, where they are not called the same."""
OPEN = frozenset(("pending", "retrying"))


class Progress(Struct):
    """How far a delivery is: ``delivered``, ``dead``, ``dropped``, ``retrying`` or ``pending``; the number of attempts, and the
    status of the last answer (0: there was none)."""

    target_id: str
    status: str
    attempts: int = 0
    response_status: int = 0


class Wait:
    """For one event."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        self._routed = False
        self._deliveries: dict[str, Progress] = {}
        self._done = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether it is known for every target what became of the event, for good."""
        return self._routed and not any(each.status in OPEN for each in self._deliveries.values())

    @property
    def deliveries(self) -> list[Progress]:
        """What is known, by target id."""
        return [self._deliveries[target_id] for target_id in sorted(self._deliveries)]

    def routed(self, record: Routed) -> None:
        for target in record.targets:
            status = ROUTED.get(target.result, "dead")
            self._deliveries.setdefault(target.target_id, Progress(target.target_id, status))  # it may have been tried already
        self._routed = True
        self._look()

    def attempted(self, record: Attempted) -> None:
        status = TRIED.get(record.result, record.result)
        self._deliveries[record.target_id] = Progress(record.target_id, status, record.number, record.status)
        self._look()

    def end(self) -> None:
        """Wait no more."""
        self._done.set()

    async def over(self, seconds: float) -> None:
        """Until it is complete, for so long, or until ``end``."""
        try:
            async with asyncio.timeout(seconds):
                await self._done.wait()
        except TimeoutError:
            return

    def _look(self) -> None:
        if self.complete:
            self._done.set()


class Waits:
    """Those of this replica, at most ``most`` at a time."""

    def __init__(self, connection: Connection, most: int) -> None:
        self._connection = connection
        self._most = most
        self._root = subjects.notices(secrets.token_hex(8))
        self._numbers = itertools.count()
        self._waits: dict[str, Wait] = {}
        self._draining = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Waits"]:
        """Listen while inside."""
        async with self._connection.subscribed(self._root + ".*.*", self._on_notice):
            yield self

    async def drain(self) -> None:
        """End all, and begin none any more."""
        self._draining = True
        for each in self._waits.values():
            each.end()

    @contextmanager
    def opened(self) -> Iterator[Wait | None]:
        """A new one; None where there are enough."""
        if len(self._waits) >= self._most or self._draining:
            yield None
            return
        wait = Wait(f"{self._root}.{next(self._numbers)}")
        self._waits[wait.inbox] = wait
        WAITING.inc()
        try:
            yield wait
        finally:
            del self._waits[wait.inbox]
            WAITING.dec()

    def _on_notice(self, message: Message) -> None:
        inbox, _, kind = message.subject.rpartition(".")
        wait = self._waits.get(inbox)
        if wait is None:  # it is over
            return
        try:
            if kind == "routed":
                wait.routed(decode_routed(message.data))
            elif kind == "attempts":
                wait.attempted(decode_attempted(message.data))
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("a notice cannot be read", subject=message.subject, detail=str(error))
