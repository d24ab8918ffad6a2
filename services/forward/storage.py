"""Where the deliveries of one target go that are not done at once: parked until their next attempt, or to the dead letters."""

import asyncio
import time

from services.forward.retry import rfc3339
from tas_mcp import subjects, telemetry
from tas_mcp.broker import JetStream, Publisher
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.messages import DeadLetter, Delivery, Event, PubAck, encode, without_data

log = telemetry.logger("storage")

AGAIN_SECONDS = 0.5


class Storage:
    """Each call returns when the broker has stored it, however long that takes."""

    def __init__(self, jetstream: JetStream, publisher: Publisher, target_id: str) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._target_id = target_id

    async def park(self, delivery: Delivery, at: float) -> None:
        """Have the broker put the delivery back at a time. The same subject replaces a schedule of the same delivery, hence no
        message id: one would be taken for a duplicate when an attempt is made twice, and not be stored.

        Raises:
            Rejected: it is too large, with its history.
        """
        headers = {
            "Nats-Schedule": "@at " + rfc3339(at),
            "Nats-Schedule-Target": subjects.deliveries(self._target_id),
        }
        await self._store(subjects.retries(self._target_id, delivery.event_seq), encode(delivery), headers=headers)

    async def bury(self, delivery: Delivery, event: Event, reason: str, detail: str, msg_id: str = "") -> None:
        """Store the delivery as a dead letter."""
        letter = DeadLetter(
            target_id=self._target_id,
            event_id=event.event_id,
            reason=reason,
            detail=detail,
            at=time.time(),
            delivery=delivery,
        )
        subject = subjects.dead(self._target_id)
        msg_id = msg_id or f"{delivery.event_seq}:{self._target_id}:d{delivery.redrives}"
        try:
            ack = await self._store(subject, encode(letter), msg_id=msg_id)
        except Rejected as error:  # too large by its history: keep all but the data, which is still in EVENTS
            letter = without_data(letter, event, error.detail)
            ack = await self._store(subject, encode(letter))
        if ack.duplicate and await self._jetstream.message(subjects.DEAD, ack.seq) is None:
            await self._store(subject, encode(letter))  # the twin was redriven or discarded meanwhile

    async def _store(self, subject: str, payload: bytes, *, msg_id: str = "", headers: dict[str, str] | None = None) -> PubAck:
        while True:
            try:
                return await self._publisher.store(subject, payload, msg_id=msg_id, headers=headers)
            except Unavailable as error:
                log.warning("not stored, trying again", subject=subject, detail=error.detail)
                await asyncio.sleep(AGAIN_SECONDS)
