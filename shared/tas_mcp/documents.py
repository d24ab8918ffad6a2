"""Documents (targets, schemas, keys) that people edit while the system runs: one key each in a KV bucket, followed by every
replica.

A plain subscription on the bucket's subjects is the hint; the value is read by a direct get; a look at the bucket's last revision
every second, and after each reconnect, finds what no hint told. (nats-py's ``watch`` needs a consumer, and was seen deaf for
20 s after a broker restart.)
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from tas_mcp import subjects, telemetry
from tas_mcp.background import background
from tas_mcp.broker import BrokerError, Connection, JetStream, Message, Publisher
from tas_mcp.errors import Rejected, Unavailable

log = telemetry.logger("documents")

VALID = telemetry.gauge("mcp_document_valid", "0 while the newest revision of a document cannot be used", ["document"])

LOOK_SECONDS = 1.0
SHOWN_FAULTS = 5
WHOLE_SECONDS = 60.0
"""How often a bucket is read whole all the same: what was purged leaves no trace to follow."""
BATCH = 1000


class Document(NamedTuple):
    """The value of a key at a revision (of the bucket); ``value`` is None when the key was deleted."""

    key: str
    revision: int
    value: bytes | None


Changed = Callable[[Sequence[Document]], Awaitable[None]]


def document(message: Message) -> Document:
    """Read a KV message that came by a direct get."""
    headers = message.headers
    gone = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
    key = subjects.text(headers["Nats-Subject"].split(".", 2)[2])
    return Document(key, message.sequence, None if gone else message.data)


async def everything(jetstream: JetStream, bucket: str) -> list[Document]:
    """Every document of a bucket, deleted ones too, read without a consumer. The newest revision among them is what was read: a
    replica of the broker may be behind the last sequence of the stream."""
    stream = subjects.bucket_stream(bucket)
    keys = await jetstream.subjects(stream, subjects.bucket_keys(bucket))
    return [document(message) for message in await jetstream.last_of(stream, list(keys))]


async def newest(jetstream: JetStream, bucket: str, key: str) -> Document | None:
    """The document under a key; None where there never was one."""
    found = await jetstream.last_of(subjects.bucket_stream(bucket), [subjects.bucket_key(bucket, key)])
    return document(found[0]) if found else None


async def write(
    publisher: Publisher, bucket: str, key: str, value: bytes | None, over: int, headers: Mapping[str, str] | None = None
) -> int:
    """Store a document (None: delete it) over the revision ``over`` (0: over nothing); the new revision.

    Raises:
        Rejected: ``STALE_REVISION``: somebody else was faster.
    """
    told = {**(headers or {}), "Nats-Expected-Last-Subject-Sequence": str(over)}
    if value is None:
        told["KV-Operation"] = "DEL"
    return (await publisher.store(subjects.bucket_key(bucket, key), value or b"", headers=told)).seq


class Reader:
    """Reads a bucket whole, when it changed. ``revision`` is the newest that it has read."""

    def __init__(self, jetstream: JetStream, bucket: str) -> None:
        self._jetstream = jetstream
        self._bucket = bucket
        self._last = -1

    @property
    def revision(self) -> int:
        return max(0, self._last)

    async def changed(self) -> list[Document] | None:
        """Every document, deleted ones too; None where nothing changed since the last call."""
        last = (await self._jetstream.stream_info(subjects.bucket_stream(self._bucket)))["state"]["last_seq"]
        if last == self._last:
            return None
        found = await everything(self._jetstream, self._bucket)
        self._last = max((each.revision for each in found), default=0)
        return found


class Faults:
    """The documents of one kind whose newest revision cannot be used, so that their predecessors stay in force."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._details: dict[str, str] = {}

    def use(self, changes: Sequence[Document], change: Callable[[Document], None]) -> int:
        """Have ``change`` take each document; one that it rejects stays a fault until a newer one is taken. The newest revision
        among them, 0 where there is none."""
        for each in changes:
            try:
                change(each)
                self.clear(each.key)
            except Rejected as error:
                self.add(each, error)
        return max((each.revision for each in changes), default=0)

    def clear(self, key: str) -> None:
        """The newest revision is in force."""
        self._details.pop(key, None)
        VALID.labels(f"{self._kind}/{key}").set(1)

    def add(self, found: Document, error: Rejected) -> None:
        """It cannot be used."""
        self._details[found.key] = f"{found.key!r} revision {found.revision}: {error.detail}"
        VALID.labels(f"{self._kind}/{found.key}").set(0)
        log.error(
            "document not valid, the old one stays",
            kind=self._kind,
            document=found.key,
            revision=found.revision,
            detail=error.detail,
        )

    def note(self) -> str:
        """What people should know, or ``""``."""
        if not self._details:
            return ""
        shown = "; ".join(list(self._details.values())[:SHOWN_FAULTS])
        more = f" (and {len(self._details) - SHOWN_FAULTS} more)" if len(self._details) > SHOWN_FAULTS else ""
        return f"not valid, the old ones stay in force: {shown}{more}"


async def changes(jetstream: JetStream, bucket: str, after: int) -> list[Document]:
    """The documents of a bucket that changed after a revision, each as it is now, in the order of their revisions."""
    stream, keys = subjects.bucket_stream(bucket), subjects.bucket_keys(bucket)
    found: dict[str, Document] = {}
    start: int | None = after + 1
    while start is not None:
        messages, start = await jetstream.page(stream, keys, start, BATCH)
        for each in map(document, messages):
            found.pop(each.key, None)
            found[each.key] = each
    return list(found.values())


class Follower:
    """Follows one bucket. ``changed`` gets every document (there may be none) once at the start, then each change, in the order
    of revisions, one call at a time. ``trouble`` says why the bucket cannot be read, or ``""``; ``loaded`` is set after the first
    whole read."""

    def __init__(self, connection: Connection, bucket: str, changed: Changed) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._bucket = bucket
        self._stream = subjects.bucket_stream(bucket)
        self._changed = changed
        self._known: dict[str, int] = {}
        self._last = 0
        self._whole_at = float("-inf")
        self._look = asyncio.Event()
        self.loaded = asyncio.Event()
        self.trouble = f"bucket {bucket} was not read yet"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Follower"]:
        """Follow while inside; does not wait for the first read."""
        async with self._connection.subscribed(subjects.bucket_keys(self._bucket), lambda _: self._look.set()):
            with self._connection.watched(up=self._look.set):
                async with background(self._follow()):
                    yield self

    async def first(self, seconds: float) -> None:
        """Wait until the bucket was read once, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.loaded.wait()

    async def _follow(self) -> None:
        while True:
            self._look.clear()
            try:
                if self._connection.connected:
                    await self._read()
                    self.trouble = ""
                    self.loaded.set()
            except (BrokerError, Unavailable) as error:
                self.trouble = f"bucket {self._bucket}: {error}"
            except Exception:
                log.exception("documents not applied", bucket=self._bucket)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _read(self) -> None:
        last = (await self._jetstream.stream_info(self._stream))["state"]["last_seq"]
        whole = last < self._last or time.monotonic() - self._whole_at > WHOLE_SECONDS
        if last == self._last and not whole:
            return
        found = await (everything(self._jetstream, self._bucket) if whole else changes(self._jetstream, self._bucket, self._last))
        new = sorted((each for each in found if self._known.get(each.key) != each.revision), key=lambda each: each.revision)
        gone = dict.fromkeys(self._known.keys() - {each.key for each in found}, last) if whole else {}
        new += [Document(key, revision, None) for key, revision in gone.items()]
        if new or not self.loaded.is_set():
            await self._changed(new)
        for key in gone:
            del self._known[key]
        self._known.update((each.key, each.revision) for each in found)
        self._last = max(self._known.values(), default=last)
        if whole:
            self._whole_at = time.monotonic()
