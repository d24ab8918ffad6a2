"""The events that a schema refused: read, submitted again after a fix, thrown away."""

import time
from typing import Any, NamedTuple

import msgspec

from services.control.schemas import Schemas
from tas_mcp import subjects, telemetry
from tas_mcp.broker import JetStream, Message, Publisher
from tas_mcp.errors import Rejected
from tas_mcp.messages import Event, RefusedEvent, decode_event, decode_refused, encode, event_key

log = telemetry.logger("rejected")

RESUBMITTED = telemetry.counter("mcp_resubmitted_events", "Events refused by a schema that were accepted when submitted again")


class Refusal(NamedTuple):
    """A record of REJECTED. ``body`` and ``event`` are None where it cannot be read (``flaw`` says why)."""

    seq: int
    event_type: str
    body: RefusedEvent | None = None
    event: Event | None = None
    flaw: str = ""

    def shown(self) -> dict[str, Any]:
        """As the API shows it."""
        found: dict[str, Any] = {"id": str(self.seq), "event_type": self.event_type}
        if self.body is None or self.event is None:
            return {**found, "event_id": "", "event": None, "errors": [], "schema": None, "detail": self.flaw, "at": None}
        body = self.body
        return {
            **found,
            "event_id": self.event.event_id,
            "event": body.event,
            "errors": body.errors,
            "schema": body.schema,
            "revision": body.revision,
            "at": body.at,
        }


class RejectedEvents:
    """The refused events, by their sequence in REJECTED."""

    def __init__(self, jetstream: JetStream, publisher: Publisher, schemas: Schemas) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._schemas = schemas

    async def page(self, event_type: str | None, start: int, limit: int) -> tuple[list[Refusal], int | None]:
        """At most ``limit`` records from sequence ``start`` on, of one event type or of all, and where the next page starts."""
        subject = subjects.ALL_REJECTED if event_type is None else subjects.rejected(event_type)
        found, following = await self._jetstream.page(subjects.REJECTED, subject, start, limit)
        refusals = [_refusal(each.sequence, each.headers["Nats-Subject"], each) for each in found]
        return refusals, following

    async def get(self, seq: int) -> Refusal:
        """One record.

        Raises:
            Rejected: ``NOT_FOUND``.
        """
        message = await self._jetstream.message(subjects.REJECTED, seq)
        if message is None:
            raise missing(seq)
        return _refusal(seq, message.subject, message)

    async def discard(self, seq: int) -> None:
        if not await self._jetstream.delete_message(subjects.REJECTED, seq):
            raise missing(seq)

    async def resubmit(self, refusal: Refusal) -> bool:
        """Store the event as ingest would, then delete the record; whether it had been stored before. It counts as accepted now.

        Raises:
            Rejected: ``SCHEMA_VIOLATION``: it still breaks its schema; ``CONFLICT``: it cannot be submitted, and why.
        """
        if refusal.event is None:
            raise Rejected("CONFLICT", f"rejected event {refusal.seq} cannot be read: {refusal.flaw}")
        event = msgspec.structs.replace(refusal.event, accepted_at=time.time_ns())
        await self._schemas.admit(event)
        key = event_key(event.source, event.event_id)
        ack = await self._publisher.store(subjects.events(event.event_type), encode(event), msg_id=key)
        await self._jetstream.delete_message(subjects.REJECTED, refusal.seq)
        RESUBMITTED.inc()
        log.info("rejected event accepted", id=refusal.seq, event_id=event.event_id, duplicate=ack.duplicate)
        return ack.duplicate


def _refusal(seq: int, subject: str, message: Message) -> Refusal:
    event_type = subjects.event_type(subject)
    try:
        body = decode_refused(message.data)
        return Refusal(seq, event_type, body, decode_event(body.event))
    except (msgspec.MsgspecError, ValueError) as error:
        return Refusal(seq, event_type, flaw=str(error))


def missing(seq: int) -> Rejected:
    return Rejected("NOT_FOUND", f"there is no rejected event {seq}")
