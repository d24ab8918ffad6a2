"""The consumers ``fwd_<target>`` on DELIVERIES: one for each target document, made before it, deleted after it."""

import time
from collections.abc import Callable
from datetime import datetime

from services.control.settings import Settings
from services.control.store import Store
from services.control.streams import forward_consumer
from tas_mcp import subjects, telemetry
from tas_mcp.broker import BrokerError, JetStream
from tas_mcp.broker.jetstream import CONSUMER_NOT_FOUND
from tas_mcp.errors import Rejected
from tas_mcp.targets import Removed

log = telemetry.logger("lanes")

ORPHAN_SECONDS = 60.0
"""A consumer without a document is left alone for so long: its document may be about to be written."""


class Lanes:
    """Makes and deletes the targets' consumers."""

    def __init__(self, jetstream: JetStream, store: Store, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._jetstream = jetstream
        self._store = store
        self._settings = settings
        self._clock = clock

    async def ensure(self, target_id: str) -> None:
        """Make the target's consumer, where there is none."""
        try:
            await self._jetstream.consumer_info(subjects.DELIVERIES, subjects.forward_consumer(target_id))
        except BrokerError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise
            await self._jetstream.ensure_consumer(subjects.DELIVERIES, forward_consumer(self._settings, target_id))

    async def delete(self, target_id: str) -> None:
        await self._jetstream.delete_consumer(subjects.DELIVERIES, subjects.forward_consumer(target_id))

    async def mend(self) -> None:
        """Make the consumers that are missing (state in memory is lost with the server), delete those that belong to nothing, and
        give deliveries that belong to nothing a tombstone, so that they become dead letters like those of a deleted target."""
        consumers = {info["name"]: info for info in await self._jetstream.consumers(subjects.DELIVERIES)}
        waiting = await self._jetstream.subjects(subjects.DELIVERIES, subjects.ALL_DELIVERIES)
        known = {entry.id for entry in await self._store.all()}
        for target_id in known:
            if subjects.forward_consumer(target_id) not in consumers:
                await self._jetstream.ensure_consumer(subjects.DELIVERIES, forward_consumer(self._settings, target_id))
                log.warning("a missing consumer was made", target=target_id)
        strays = set(map(_target_id, waiting)) - known
        for target_id in filter(None, strays):
            await self._bury(target_id)
        owned = {subjects.forward_consumer(target_id) for target_id in known | strays}
        for name, info in consumers.items():
            if name.startswith(subjects.FORWARD_PREFIX) and name not in owned:
                await self._delete_orphan(name, info["created"])

    async def _bury(self, target_id: str) -> None:
        entry = await self._store.get(target_id)
        if entry.exists:
            return
        try:
            await self._store.put(target_id, Removed(id=target_id), entry.revision)
        except Rejected as error:
            log.debug("no tombstone", target=target_id, detail=error.detail)  # somebody made that target this moment
            return
        await self.ensure(target_id)
        log.warning("deliveries without a target become dead letters", target=target_id)

    async def _delete_orphan(self, name: str, created: str) -> None:
        if self._clock() - datetime.fromisoformat(created).timestamp() > ORPHAN_SECONDS:
            await self._jetstream.delete_consumer(subjects.DELIVERIES, name)
            log.warning("a consumer without a target was deleted", consumer=name)


def _target_id(subject: str) -> str:
    """Whose delivery it is; ``""`` for a subject that none of ours made."""
    try:
        return subjects.target_id(subject)
    except ValueError:
        return ""
