"""Tells the others that this replica lives, and which revision of its documents it has in force: every second, after each change,
and when asked."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tas_mcp import subjects
from tas_mcp.broker import Connection
from tas_mcp.errors import Unavailable
from tas_mcp.messages import Presence, encode

BEAT_SECONDS = 1.0


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
            task = asyncio.create_task(self._beat())
            try:
                yield self
            finally:
                task.cancel()
                self.announce(leaving=True)

    async def _beat(self) -> None:
        while True:
            self.announce()
            await asyncio.sleep(BEAT_SECONDS)
