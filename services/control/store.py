"""The target documents in their bucket: read, and written by compare-and-set."""

from typing import NamedTuple

from tas_mcp import subjects, targets
from tas_mcp.audit import SYSTEM, Note
from tas_mcp.broker import JetStream, Publisher
from tas_mcp.documents import Document, Reader, newest, write
from tas_mcp.errors import Rejected
from tas_mcp.sealing import NO_KEYS, SecretKeys
from tas_mcp.targets import AnyTarget, Removed, Stored

BUCKET = subjects.TARGETS_BUCKET
STREAM = subjects.bucket_stream(BUCKET)


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
    """Reads and writes target documents, whose secrets it opens and seals with ``keys``. Writes raise
    ``Rejected("STALE_REVISION")`` where somebody else was faster."""

    def __init__(self, jetstream: JetStream, publisher: Publisher, keys: SecretKeys = NO_KEYS) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._reader = Reader(jetstream, BUCKET)
        self.keys = keys
        self._known: list[Entry] = []

    @property
    def revision(self) -> int:
        """The newest revision that ``all`` has read."""
        return self._reader.revision

    def read(self, found: Document) -> Entry:
        """What a document of the bucket holds."""
        if found.value is None:
            return Entry(found.key, found.revision)
        try:
            return Entry(found.key, found.revision, targets.decode(found.value, self.keys))
        except Rejected as error:
            return Entry(found.key, found.revision, flaw=error.detail)

    async def get(self, target_id: str) -> Entry:
        found = await newest(self._jetstream, BUCKET, target_id)
        return self.read(found) if found else Entry(target_id, 0)

    async def all(self) -> list[Entry]:
        """Every document that exists, by id."""
        if (found := await self._reader.changed()) is not None:
            self._known = sorted((entry for entry in map(self.read, found) if entry.exists), key=lambda entry: entry.id)
        return self._known

    async def put(self, target_id: str, stored: Stored, revision: int, note: Note = SYSTEM) -> int:
        """Store a document over ``revision`` (0: over nothing); the new revision."""
        return await write(self._publisher, BUCKET, target_id, targets.sealed(stored, self.keys), revision, note.headers())

    async def reseal(self, target_id: str, note: Note) -> int:
        """Seal a document's secrets with the first key, where they are not; its new revision, or 0 where there was nothing to do.

        Raises:
            Rejected: it is not valid, or a secret cannot be opened.
        """
        found = await newest(self._jetstream, BUCKET, target_id)
        if found is None or found.value is None or not targets.outdated(found.value, self.keys):
            return 0
        return await self.put(target_id, targets.decode(found.value, self.keys), found.revision, note)

    async def erase(self, target_id: str, revision: int) -> int:
        """Delete a document of ``revision``."""
        return await write(self._publisher, BUCKET, target_id, None, revision, SYSTEM.headers())
