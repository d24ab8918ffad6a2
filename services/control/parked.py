"""Parked retries (``tas.retries.>``): those that should have fired and did not are rewritten, which makes them fire.

What fell due while the broker's store was full never fires by itself. A rewrite says which message it replaces, so that a retry
which fires at the same moment is not delivered twice.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import datetime

from tas_mcp import subjects, telemetry
from tas_mcp.broker import JetStream, Message, Publisher
from tas_mcp.errors import Rejected

log = telemetry.logger("parked")

NOW = "@at 1970-01-01T00:00:00Z"
"""A schedule that is always due."""
OVERDUE_SECONDS = 10.0
"""Longer than a burst of retries, or a change of the stream's leader, holds firing up."""
BATCH = 500
BATCH_BYTES = 4 * 1024 * 1024
BATCHES = 4
"""How many batches are read in one run."""

SWEPT = telemetry.counter("mcp_swept_retries", "Parked retries that were overdue and made to fire")


class Parked:
    """Makes parked retries fire."""

    def __init__(self, jetstream: JetStream, publisher: Publisher, clock: Callable[[], float] = time.time) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._clock = clock
        self._next = 1

    async def sweep(self) -> None:
        """Look at some of all parked retries, going on where the last run ended, and rewrite the overdue ones."""
        for _ in range(BATCHES):
            messages = await self._read(subjects.ALL_RETRIES, self._next)
            since = self._clock() - OVERDUE_SECONDS
            swept = await self._rewrite(message for message in messages if _due(message) < since)
            if swept:
                SWEPT.inc(swept)
                log.warning("overdue retries were made to fire", retries=swept)
            self._next = messages[-1].sequence + 1 if messages and _left(messages[-1]) else 1
            if self._next == 1:
                return

    async def hasten(self, target_id: str) -> None:
        """Make the parked retries of one target fire now, a bounded number of them in one run."""
        start = 1
        for _ in range(BATCHES):
            messages = await self._read(subjects.all_retries(target_id), start)
            await self._rewrite(message for message in messages if message.headers.get("Nats-Schedule") != NOW)
            if not messages or not _left(messages[-1]):
                return
            start = messages[-1].sequence + 1

    async def _read(self, subject: str, start: int) -> list[Message]:
        request = {"seq": start, "next_by_subj": subject, "batch": BATCH, "max_bytes": BATCH_BYTES}
        return await self._jetstream.direct(subjects.DELIVERIES, request)

    async def _rewrite(self, messages: Iterable[Message]) -> int:
        return sum(await asyncio.gather(*map(self._rewrite_one, messages)))

    async def _rewrite_one(self, message: Message) -> bool:
        found = message.headers
        subject = found["Nats-Subject"]
        headers = {
            "Nats-Schedule": NOW,
            "Nats-Schedule-Target": found.get("Nats-Schedule-Target") or subjects.deliveries(subjects.target_id(subject)),
            "Nats-Expected-Last-Subject-Sequence": str(message.sequence),
        }
        try:
            await self._publisher.store(subject, message.data, headers=headers)
        except Rejected as error:
            log.debug("a retry fired meanwhile", subject=subject, detail=error.detail)
            return False
        return True


def _left(message: Message) -> int:
    return int(message.headers.get("Nats-Num-Pending", 0))


def _due(message: Message) -> float:
    """Since when it could have fired: its time, or when it was written if that is later. Never, if it says no time."""
    headers = message.headers
    kind, _, at = headers.get("Nats-Schedule", "").partition(" ")
    if kind != "@at":
        return float("inf")
    return max(datetime.fromisoformat(each).timestamp() for each in (at, headers["Nats-Time-Stamp"]))
