"""What this replica and the others found out about the targets, shared through the bucket ``tas_status``.

Sharing is a help, not a promise: while the bucket is away each replica goes by what it knows itself.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tas_mcp import status, telemetry
from tas_mcp.background import background
from tas_mcp.broker import BrokerError
from tas_mcp.documents import Document
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.status import NONE, Status
from tas_mcp.statuses import Known, StatusBucket

log = telemetry.logger("status")

WRITE_SECONDS = 1.0
"""How often the status of a target is written at most, save for what cannot wait."""

Heard = Callable[[Status], None]


class Statuses:
    """The statuses of all targets. ``instance`` names this replica."""

    def __init__(self, bucket: StatusBucket) -> None:
        self.instance = secrets.token_hex(6)
        self._bucket = bucket
        self._known: dict[str, Known] = {}
        self._listeners: dict[str, Heard] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self._noted = asyncio.Event()

    def of(self, target_id: str) -> Status:
        return self._known.get(target_id, (0, NONE))[1]

    def listen(self, target_id: str, heard: Heard) -> None:
        """Tell ``heard`` each change of a target's status."""
        self._listeners[target_id] = heard

    def forget(self, target_id: str) -> None:
        self._listeners.pop(target_id, None)
        self._notes.pop(target_id, None)

    async def use(self, changes: Sequence[Document]) -> None:
        """Take account of changed documents."""
        for change in changes:
            if change.revision >= self._known.get(change.key, (0, NONE))[0]:
                found = status.decode(change.value)
                self._known[change.key] = change.revision, found
                if change.key in self._listeners:
                    self._listeners[change.key](found)

    def note(self, target_id: str, **changes: Any) -> None:
        """Have members of a status changed within a second or so; later notes win."""
        self._notes.setdefault(target_id, {}).update(changes)
        self._noted.set()

    async def change(self, target_id: str, change: Callable[[Status], Status | None]) -> bool:
        """Change a status now: see ``StatusBucket``."""
        self._known[target_id], changed = await self._bucket.change(target_id, self._known.get(target_id, (0, NONE)), change)
        return changed

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Statuses"]:
        """Write what is noted while inside."""
        async with background(self._write()):
            yield self

    async def _write(self) -> None:
        while True:
            await self._noted.wait()
            self._noted.clear()
            notes, self._notes = self._notes, {}
            for target_id, changes in notes.items():
                try:
                    await self.change(target_id, lambda old, changes=changes: msgspec.structs.replace(old, **changes))  # type: ignore[misc]
                except (Unavailable, Rejected, BrokerError) as error:
                    log.debug("status not written", target=target_id, detail=error.detail)
            await asyncio.sleep(WRITE_SECONDS)
