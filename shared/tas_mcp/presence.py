"""Replicas tell the others that they live, and which revision of their documents they have in force: every second, after each
change, and when asked."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from tas_mcp import subjects, telemetry
from tas_mcp.background import background
from tas_mcp.broker import Connection, Message
from tas_mcp.errors import Unavailable
from tas_mcp.messages import Presence, decode_presence, encode

log = telemetry.logger("presence")

BEAT_SECONDS = 1.0
LIVE_SECONDS = 3.0
"""A replica that was silent for so long is gone."""
ANSWER_SECONDS = 0.2
"""How long to wait for the first answer when no replica is known."""
MAX_REPLICAS = 10_000


class Announcer:
    """Announces one replica. ``revision`` says what it has in force."""

    def __init__(self, connection: Connection, service: str, revision: Callable[[], int]) -> None:
        self._connection = connection
        self._revision = revision
        self._service = service
        self._instance = secrets.token_hex(6)

    def announce(self, leaving: bool = False) -> None:
        """Tell it now; without a link nobody would hear it."""
        presence = Presence(self._service, self._instance, self._revision(), leaving)
        try:
            self._connection.send(subjects.presence(self._service, self._instance), encode(presence))
        except Unavailable:
            return

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Announcer"]:
        async with self._connection.subscribed(subjects.PRESENCE_QUERY, lambda _: self.announce()):
            try:
                async with background(self._beat()):
                    yield self
            finally:
                self.announce(leaving=True)

    async def _beat(self) -> None:
        while True:
            self.announce()
            await asyncio.sleep(BEAT_SECONDS)


class Presences:
    """Knows which replicas of a service live, and whether all of them have a revision in force."""

    def __init__(self, connection: Connection, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._service = service
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._heard = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Presences"]:
        async with self._connection.subscribed(subjects.presence(self._service, "*"), self._hear):
            with self._connection.watched(up=self._ask):
                yield self

    def live(self) -> dict[str, int]:
        """The live replicas of the service, each with its revision."""
        since = self._clock() - LIVE_SECONDS
        self._seen = {instance: seen for instance, seen in self._seen.items() if seen[1] > since}
        return {instance: revision for instance, (revision, _) in self._seen.items()}

    def has(self, revision: int) -> bool:
        """Whether every replica that is known to live has ``revision`` in force."""
        return all(known >= revision for known in self.live().values())

    async def in_force(self, revision: int, timeout: float = 1.0) -> bool:
        """Whether every live replica has ``revision`` in force, waiting for it at most ``timeout`` seconds. Where none lives, and
        none answers, nothing runs that could see an older one."""
        if not self.live() and not await self._answered(min(timeout, ANSWER_SECONDS)):
            return True
        try:
            async with asyncio.timeout(timeout):
                while not self.has(revision):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return self.has(revision)
        return True

    async def _answered(self, timeout: float) -> bool:
        self._ask()
        try:
            async with asyncio.timeout(timeout):
                while not self.live():
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return False
        return True

    def _ask(self) -> None:
        try:
            self._connection.send(subjects.PRESENCE_QUERY)
        except Unavailable as error:
            log.debug("replicas not asked", detail=error.detail)  # asked again after the next connect

    def _hear(self, message: Message) -> None:
        try:
            said: Presence = decode_presence(message.data)
        except msgspec.MsgspecError as error:
            log.warning("a presence that cannot be read", subject=message.subject, detail=str(error))
            return
        if said.service != self._service:
            return
        if said.leaving:
            self._seen.pop(said.instance, None)
        elif said.instance in self._seen or len(self._seen) < MAX_REPLICAS:
            self._seen[said.instance] = said.revision, self._clock()
        self._heard.set()
