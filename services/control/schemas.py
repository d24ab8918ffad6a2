"""The schema documents in their bucket: read, changed by compare-and-set, waited for until ingest has them in force, and held
against events that are to be submitted again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from services.control.requests import Precondition
from tas_mcp import schemas, subjects, telemetry
from tas_mcp.audit import Audit, Change, Note
from tas_mcp.broker import JetStream, Publisher
from tas_mcp.chain import fingerprint
from tas_mcp.documents import Document, Reader, newest, write
from tas_mcp.errors import Rejected
from tas_mcp.messages import Event, encode
from tas_mcp.presence import Presences
from tas_mcp.routing import View
from tas_mcp.schemas import Schema, SchemaBook

log = telemetry.logger("schemas")

BUCKET = subjects.SCHEMAS_BUCKET
STREAM = subjects.bucket_stream(BUCKET)
TRIES = 5
"""How often a change is made anew on what somebody else wrote in between."""


class Entry(NamedTuple):
    """What the bucket holds under a name. ``revision`` is 0 where it never held anything; ``flaw`` says why the document cannot
    be read."""

    name: str
    revision: int
    schema: Schema | None = None
    flaw: str = ""

    @property
    def exists(self) -> bool:
        return self.schema is not None or bool(self.flaw)


class Saved(NamedTuple):
    revision: int
    in_force: bool


class Schemas:
    """All schemas; ``presences`` are those of ingest."""

    def __init__(self, jetstream: JetStream, publisher: Publisher, presences: Presences, audit: Audit) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._presences = presences
        self._audit = audit
        self._known: list[Entry] = []
        self._book = SchemaBook()
        self._reader = Reader(jetstream, BUCKET)

    async def get(self, name: str) -> Entry:
        found = await newest(self._jetstream, BUCKET, name)
        return _entry(found) if found else Entry(name, 0)

    async def all(self) -> list[Entry]:
        """Every document that exists, by name."""
        if (found := await self._reader.changed()) is not None:
            self._known = sorted((entry for entry in map(_entry, found) if entry.exists), key=lambda entry: entry.name)
            self._book = SchemaBook(entry.schema for entry in self._known if entry.schema)
        return self._known

    async def put(self, name: str, given: Any, check: Precondition, note: Note) -> Saved:
        """Store a schema (decoded JSON), new or over the old one.

        Raises:
            Rejected: ``INVALID_SCHEMA``, ``PRECONDITION_FAILED``.
        """
        schema = schemas.check(name, given)
        value = encode(schema.document)
        return await self._write(name, value, note, lambda entry: check(entry.revision if entry.exists else 0))

    async def remove(self, name: str, check: Precondition, note: Note) -> Saved:
        """Delete a schema.

        Raises:
            Rejected: ``NOT_FOUND``, ``PRECONDITION_FAILED``.
        """

        def there(entry: Entry) -> None:
            if not entry.exists:
                raise missing(name)
            check(entry.revision)

        return await self._write(name, None, note, there)

    async def admit(self, event: Event) -> None:
        """Hold an event against the schema of its type, as ingest does.

        Raises:
            Rejected: ``SCHEMA_VIOLATION``; ``CONFLICT`` where the schema of its type cannot be read.
        """
        for entry in await self.all():
            if entry.flaw and schemas.matches(entry.name, event.event_type):
                raise Rejected("CONFLICT", f"the schema {entry.name!r} cannot be read, and has to be mended first: {entry.flaw}")
        schema = self._book.find(event.event_type)
        if schema is not None and schema.enforced and (flaws := schema.flaws(View(event).data, len(event.data))):
            raise schemas.violation(schema, flaws)

    async def _write(self, name: str, value: bytes | None, note: Note, check: Callable[[Entry], None]) -> Saved:
        """Without a ``value`` the schema is deleted."""
        for _ in range(TRIES):
            entry = await self.get(name)
            check(entry)
            try:
                revision = await write(self._publisher, BUCKET, name, value, entry.revision, note.headers())
            except Rejected as error:
                if error.code != "STALE_REVISION":
                    raise
                continue
            log.info("schema changed", schema=name, revision=revision, deleted=value is None)
            done = "deleted" if value is None else "updated" if entry.exists else "created"
            change = Change(_hash(encode(entry.schema.document) if entry.schema else None), _hash(value))
            await self._audit.record("schemas", done, name, note, change, revision=revision)
            return Saved(revision, await self._presences.in_force(revision))
        raise Rejected("CONFLICT", f"schema {name!r} is being changed by others all the time; try again")


def _hash(value: bytes | None) -> str:
    return fingerprint(msgspec.json.decode(value)) if value is not None else ""


def missing(name: str) -> Rejected:
    return Rejected("NOT_FOUND", f"there is no schema {name!r}")


def _entry(found: Document) -> Entry:
    if found.value is None:
        return Entry(found.key, found.revision)
    try:
        return Entry(found.key, found.revision, schemas.decode(found.key, found.revision, found.value))
    except Rejected as error:
        return Entry(found.key, found.revision, flaw=error.detail)
