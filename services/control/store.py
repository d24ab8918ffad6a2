"""The target documents in their bucket: read, and written by compare-and-set."""

from typing import NamedTuple

from tas_mcp import subjects, targets
from tas_mcp.broker import JetStream, Publisher
from tas_mcp.documents import Document, document, everything
from tas_mcp.errors import Rejected
from tas_mcp.targets import AnyTarget, Removed, Stored

BUCKET = subjects.TARGETS_BUCKET
STREAM = subjects.bucket_stream(BUCKET)


class Note(NamedTuple):
    """Who makes a change, and why. It travels as headers of the write, so that the documents stay pure."""

    author: str
    comment: str = ""

    def headers(self) -> dict[str, str]:
        return {"TAS-Author": self.author, "TAS-Comment": self.comment}


SYSTEM = Note("system")
"""What control does of its own accord."""


class Entry(NamedTuple):
    """What the bucket holds for an id. ``revision`` is 0 where it never held anything; ``flaw`` says why the document cannot be
    read."""

    id: str
    revision: int
    stored: Stored | None = None
    flaw: str = ""

    @property
    def exists(self) -> bool:
        """Whether there is a document: a target, a tombstone, or one that cannot be read."""
        return self.stored is not None or bool(self.flaw)

    @property
    def target(self) -> AnyTarget | None:
        return None if isinstance(self.stored, Removed) else self.stored

    @property
    def removed(self) -> Removed | None:
        return self.stored if isinstance(self.stored, Removed) else None


class Store:
    """Reads and writes target documents. Writes raise ``Rejected("STALE_REVISION")`` where somebody else was faster."""

    def __init__(self, jetstream: JetStream, publisher: Publisher) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._known: list[Entry] = []
        self._last = -1

    @property
    def revision(self) -> int:
        """The newest revision that ``all`` has read."""
        return max(0, self._last)

    async def get(self, target_id: str) -> Entry:
        found = await self._jetstream.last_of(STREAM, [subjects.bucket_key(BUCKET, target_id)])
        return read(document(found[0])) if found else Entry(target_id, 0)

    async def all(self) -> list[Entry]:
        """Every document that exists, by id."""
        last = (await self._jetstream.stream_info(STREAM))["state"]["last_seq"]
        if last != self._last:
            found = [read(each) for each in await everything(self._jetstream, BUCKET)]
            self._known = sorted((entry for entry in found if entry.exists), key=lambda entry: entry.id)
            self._last = max((entry.revision for entry in found), default=0)
        return self._known

    async def put(self, target_id: str, stored: Stored, revision: int, note: Note = SYSTEM) -> int:
        """Store a document over ``revision`` (0: over nothing); the new revision."""
        return await self._write(target_id, targets.encode(stored), revision, note.headers())

    async def erase(self, target_id: str, revision: int) -> int:
        """Delete a document of ``revision``."""
        return await self._write(target_id, b"", revision, {"KV-Operation": "DEL", **SYSTEM.headers()})

    async def _write(self, target_id: str, value: bytes, revision: int, headers: dict[str, str]) -> int:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        return (await self._publisher.store(subjects.bucket_key(BUCKET, target_id), value, headers=headers)).seq


def read(found: Document) -> Entry:
    """What a document of the bucket holds."""
    if found.value is None:
        return Entry(found.key, found.revision)
    try:
        return Entry(found.key, found.revision, targets.decode(found.value))
    except Rejected as error:
        return Entry(found.key, found.revision, flaw=error.detail)
