"""The history of the targets. Each write is a message of the bucket's stream, numbered over all targets, and stays there until
its target has as many younger ones as the bucket keeps (64).

The broker reads a stream forwards only. Where a page of the youngest begins is therefore found by counting what follows.
"""

from datetime import datetime
from typing import Any, NamedTuple

from services.control.store import BUCKET, STREAM, Entry, Store
from services.control.streams import HISTORY
from tas_mcp import subjects, targets
from tas_mcp.audit import Note
from tas_mcp.broker import JetStream, Message
from tas_mcp.documents import document
from tas_mcp.errors import Rejected


class Revision(NamedTuple):
    """One change of one target: what it holds since then."""

    entry: Entry
    at: float
    """Unix seconds, by the broker's clock."""
    note: Note

    @property
    def number(self) -> int:
        return self.entry.revision

    @property
    def change(self) -> str:
        """``saved``; ``removed``: what is queued is still being put away; ``erased``: nothing is left."""
        if self.entry.removed:
            return "removed"
        return "saved" if self.entry.exists else "erased"

    def summary(self) -> dict[str, Any]:
        """As lists show it."""
        who = {"author": self.note.author, "comment": self.note.comment}
        return {"revision": self.number, "target_id": self.entry.id, "at": self.at, **who, "change": self.change}

    def shown(self) -> dict[str, Any] | None:
        """The document as people may read it; None where there is none."""
        if self.entry.target:
            return targets.masked(self.entry.target)
        return {"id": self.entry.id, "invalid": self.entry.flaw} if self.entry.flaw else None


class History:
    """Reads what the bucket remembers."""

    def __init__(self, jetstream: JetStream, store: Store) -> None:
        self._jetstream = jetstream
        self._store = store

    async def page(self, target_id: str | None, before: int | None, limit: int) -> tuple[list[Revision], int | None]:
        """At most ``limit`` revisions of one target or of all, the youngest first, all older than ``before`` (None: than
        nothing); and what to give as ``before`` for the next page."""
        subject = subjects.bucket_keys(BUCKET) if target_id is None else subjects.bucket_key(BUCKET, target_id)
        end = before or (await self._jetstream.stream_info(STREAM))["state"]["last_seq"] + 1
        younger = await self._from(subject, end)
        older = await self._from(subject, 1) - younger
        start = 1 if older <= limit else await self._last_with(subject, younger + limit, end)
        found = await self._between(subject, start, end)
        following = found[0].number if found and older > limit else None
        return found[::-1], following

    async def get(self, target_id: str, number: int) -> Revision:
        """One revision of a target.

        Raises:
            Rejected: ``NOT_FOUND``: it has none of that number, or not any more.
        """
        request = {"seq": number, "next_by_subj": subjects.bucket_key(BUCKET, target_id), "batch": 1}
        for message in await self._jetstream.direct(STREAM, request):
            if (found := self._revision(message)).number == number:
                return found
        raise Rejected("NOT_FOUND", f"target {target_id!r} has no revision {number} among its last {HISTORY}")

    async def at(self, number: int) -> dict[str, Entry | None]:
        """What each target that ever was held at a revision of the bucket; None where that is forgotten.

        Raises:
            Rejected: ``NOT_FOUND``: there was no such revision yet.
        """
        last = (await self._jetstream.stream_info(STREAM))["state"]["last_seq"]
        if number > last:
            raise Rejected("NOT_FOUND", f"there is no revision {number}: the last one is {last}")
        counts = await self._jetstream.subjects(STREAM, subjects.bucket_keys(BUCKET))
        found = [self._store.read(document(message)) for message in await self._jetstream.last_of(STREAM, list(counts), number)]
        known: dict[str, Entry | None] = {entry.id: entry for entry in found}
        for subject, count in counts.items():
            target_id = subjects.target_id(subject)
            known.setdefault(target_id, None if count >= HISTORY else Entry(target_id, 0))
        return known

    async def _from(self, subject: str, start: int) -> int:
        """How many revisions have a number of ``start`` or more."""
        return await self._jetstream.count(STREAM, subject, start)

    async def _last_with(self, subject: str, count: int, end: int) -> int:
        """The largest number below ``end`` from which on there are ``count`` revisions."""
        low, high = 1, end
        while high - low > 1:
            middle = (low + high) // 2
            if await self._from(subject, middle) >= count:
                low = middle
            else:
                high = middle
        return low

    async def _between(self, subject: str, start: int, end: int) -> list[Revision]:
        """The revisions from ``start`` to below ``end``, the oldest first."""
        found: list[Revision] = []
        following: int | None = start
        while following is not None and following < end:
            messages, following = await self._jetstream.page(STREAM, subject, following, 1000)
            found += map(self._revision, messages)
        return [each for each in found if each.number < end]

    def _revision(self, message: Message) -> Revision:
        headers = message.headers
        at = round(datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp(), 3)
        note = Note(headers.get("TAS-Author", ""), headers.get("TAS-Comment", ""))
        return Revision(self._store.read(document(message)), at, note)
