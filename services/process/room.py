"""Room in DELIVERIES, looked at every second: which targets have a full queue, and whether the whole stream is too full to go on.

A queue counts what waits and what is parked. Between two looks a target may go over its ``max_queue`` by what is routed to it in
that second, in each replica.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.process.rulebook import Rules
from tas_mcp import subjects, telemetry
from tas_mcp.background import background
from tas_mcp.broker import BrokerError, JetStream
from tas_mcp.errors import Unavailable

log = telemetry.logger("room")

LOOK_SECONDS = 1.0


class Room:
    """Knows which queues are full. ``high`` is called after each look: whether DELIVERIES is above its high-water mark."""

    def __init__(self, jetstream: JetStream, rules: Rules, high: Callable[[bool], None]) -> None:
        self._jetstream = jetstream
        self._rules = rules
        self._high = high
        self._full: frozenset[str] = frozenset()
        self.trouble = ""

    def full(self, target_id: str) -> bool:
        """Whether the target's queue is full."""
        return target_id in self._full

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Room"]:
        async with background(self._watch()):
            yield self

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except (Unavailable, BrokerError) as error:
                log.debug("room not known", detail=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        info = await self._jetstream.stream_info(subjects.DELIVERIES)
        mark = int(info["config"].get("metadata", {}).get(subjects.HIGH_WATER, 0))
        held = info["state"]["bytes"]
        self.trouble = (
            f"DELIVERIES holds {held} bytes, above its mark of {mark}: no event is taken on" if mark and held > mark else ""
        )
        self._high(bool(self.trouble))
        self._full = await self._full_targets(info["state"]["messages"])

    async def _full_targets(self, messages: int) -> frozenset[str]:
        limits = {key: target.delivery.max_queue for key, target in self._rules.targets.items()}
        if not any(messages >= limit for limit in limits.values()):
            return frozenset()  # the usual case: not even all together reach the smallest limit
        waiting = await self._jetstream.subjects(subjects.DELIVERIES, subjects.ALL_DELIVERIES)
        full = set()
        for key, limit in limits.items():
            if messages >= limit:
                owed = waiting.get(subjects.deliveries(key), 0)
                if owed < limit:
                    owed += await self._jetstream.count(subjects.DELIVERIES, subjects.all_retries(key))
                if owed >= limit:
                    full.add(key)
        return frozenset(full)
