"""The end of a target: its tombstone stays until nothing is owed to it any more, then its consumer and the document go.

tombstone -> no process replica routes to it -> its queue is dead-lettered by forward, or discarded here -> deleted
"""

from services.control.lanes import Lanes
from services.control.parked import Parked
from services.control.store import Entry, Store
from tas_mcp import subjects, telemetry
from tas_mcp.broker import JetStream
from tas_mcp.errors import Rejected
from tas_mcp.presence import Presences
from tas_mcp.statuses import StatusBucket

log = telemetry.logger("removal")

DISCARDED = telemetry.counter(
    "mcp_discarded_deliveries", "Deliveries dropped because their target was deleted with queue=discard"
)

ROUND_SECONDS = 0.1
"""How long the janitor waits for the process replicas: it comes again."""


class Removals:
    """Finishes what a tombstone has begun; may be called at any time, by any replica, again and again."""

    def __init__(
        self,
        jetstream: JetStream,
        store: Store,
        lanes: Lanes,
        parked: Parked,
        presences: Presences,
        statuses: StatusBucket,
    ) -> None:
        self._jetstream = jetstream
        self._store = store
        self._lanes = lanes
        self._parked = parked
        self._presences = presences
        self._statuses = statuses

    async def finish_all(self) -> None:
        """One step forward for every tombstone."""
        tombstones = [entry for entry in await self._store.all() if entry.removed]
        if tombstones:
            await self._presences.in_force(max(entry.revision for entry in tombstones), ROUND_SECONDS)
        for entry in tombstones:
            if self._presences.has(entry.revision):
                await self.finish(entry)

    async def finish(self, entry: Entry) -> bool:
        """One step forward for a tombstone that every process replica has in force; whether that was the last."""
        removed = entry.removed
        if removed is None:
            return False
        if removed.queue == "discard":
            await self._discard(entry.id)
        else:
            await self._parked.hasten(entry.id)
        if await self._owed(entry.id):
            return False
        await self._lanes.delete(entry.id)
        await self._statuses.erase(entry.id)
        try:
            await self._store.erase(entry.id, entry.revision)
        except Rejected as error:
            log.info("removal finished by somebody else", target=entry.id, detail=error.detail)
        log.info("target removed", target=entry.id)
        return True

    async def _discard(self, target_id: str) -> None:
        purged = 0
        for subject in (subjects.all_retries(target_id), subjects.deliveries(target_id)):
            purged += await self._jetstream.purge(subjects.DELIVERIES, subject=subject)
        if purged:
            DISCARDED.inc(purged)
            log.warning("queue discarded", target=target_id, deliveries=purged)

    async def _owed(self, target_id: str) -> bool:
        """Whether anything waits (acked messages leave the stream) or is parked; looked at so that nothing can hide by moving
        from one to the other."""
        for subject in (subjects.deliveries(target_id), subjects.all_retries(target_id), subjects.deliveries(target_id)):
            if await self._jetstream.count(subjects.DELIVERIES, subject):
                return True
        return False
