"""The schemas in force at ingest: followed, and held against each event before it is stored.

A refused event is kept in REJECTED, for people, where that is possible: the answer never waits for it, and a record that cannot
be stored is counted and gone.
"""

import time
from collections.abc import Sequence

from msgspec import Raw

from tas_mcp import schemas, subjects, telemetry
from tas_mcp.broker import Publisher
from tas_mcp.documents import Document, Faults
from tas_mcp.errors import Flaw, Rejected, TasError, Unavailable
from tas_mcp.messages import Event, EventError, PubAck, RefusedEvent, encode
from tas_mcp.schemas import Schema, SchemaBook

log = telemetry.logger("schemas")

VIOLATIONS = telemetry.counter("mcp_schema_violations", "Events that broke their schema, by its mode", ["mode"])
UNRECORDED = telemetry.counter("mcp_refused_events_unrecorded", "Events refused by a schema that could not be kept in REJECTED")
LOG_SECONDS = 10.0
"""At most so often is it logged that events break a schema that only warns."""


class Schemas:
    """Follows the schema documents. ``active`` is False where there is none, so that an event costs no more than one look;
    ``revision`` is the newest that it takes account of."""

    def __init__(self, publisher: Publisher) -> None:
        self.active = True
        self.revision = 0
        self.faults = Faults("schemas")
        self._publisher = publisher
        self._book: SchemaBook | None = None
        self._schemas: dict[str, Schema] = {}
        self._refused = VIOLATIONS.labels("enforce")
        self._warned = VIOLATIONS.labels("warn")
        self._unlogged = 0
        self._logged = float("-inf")

    def use(self, changes: Sequence[Document]) -> None:
        """Take account of changed documents. One that is not valid leaves its predecessor in force."""
        self.revision = max(self.revision, self.faults.use(changes, self._change))
        self._book = SchemaBook(self._schemas.values())
        self.active = bool(self._book)

    def check(self, event: Event, data: object) -> None:
        """Hold an event with its decoded data against its schema, if it has one.

        Raises:
            Rejected: ``SCHEMA_VIOLATION``.
            Unavailable: the schemas were never read yet.
        """
        if self._book is None:
            raise Unavailable("the schemas were not read yet: what they refuse must not be accepted")
        schema = self._book.find(event.event_type)
        if schema is None:
            return
        flaws = schema.flaws(data, len(event.data))
        if not flaws:
            return
        error = schemas.violation(schema, flaws)
        if schema.enforced:
            self._refused.inc()
            self._record(event, schema, flaws)
            raise error
        self._warned.inc()
        self._warn(event, error)

    def _change(self, change: Document) -> None:
        if change.value is None:
            self._schemas.pop(change.key, None)
        else:
            self._schemas[change.key] = schemas.decode(change.key, change.revision, change.value)

    def _record(self, event: Event, schema: Schema, flaws: list[Flaw]) -> None:
        errors = [EventError(flaw.pointer, flaw.detail) for flaw in flaws]
        record = RefusedEvent(
            event=Raw(encode(event)), errors=errors, schema=schema.name, revision=schema.revision, at=time.time()
        )
        try:
            self._publisher.publish(subjects.rejected(event.event_type), encode(record), _recorded)
        except TasError:
            UNRECORDED.inc()

    def _warn(self, event: Event, error: Rejected) -> None:
        self._unlogged += 1
        if time.monotonic() < self._logged + LOG_SECONDS:
            return
        log.warning("events break a schema", events=self._unlogged, event_type=event.event_type, detail=error.detail)
        self._unlogged, self._logged = 0, time.monotonic()


def _recorded(answer: PubAck | TasError) -> None:
    if isinstance(answer, TasError):
        UNRECORDED.inc()
