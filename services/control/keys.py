"""The API keys in their bucket: made, shown without their secret, changed for new ones, revoked; each change is waited for until
every service that asks for keys has it in force."""

import secrets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from tas_mcp import subjects, telemetry
from tas_mcp.audit import Audit, Change, Note
from tas_mcp.auth import keys
from tas_mcp.auth.keys import Grant, Key
from tas_mcp.broker import JetStream, Publisher
from tas_mcp.chain import fingerprint
from tas_mcp.documents import Document, Reader, newest, write
from tas_mcp.errors import Rejected
from tas_mcp.messages import encode
from tas_mcp.presence import Presences

log = telemetry.logger("keys")

BUCKET = subjects.KEYS_BUCKET
TRIES = 5
"""How often a change is made anew on what somebody else wrote in between."""


class Entry(NamedTuple):
    """What the bucket holds under an id; ``flaw`` says why it cannot be read."""

    id: str
    revision: int
    key: Key | None = None
    flaw: str = ""

    @property
    def exists(self) -> bool:
        return self.key is not None or bool(self.flaw)

    @property
    def order(self) -> str:
        """Those of one name stand together."""
        return f"{self.key.name if self.key else ''}/{self.id}"

    def shown(self) -> dict[str, Any]:
        """All but the hash; of one that cannot be read only what is wrong with it."""
        if self.key is None:
            return {"id": self.id, "invalid": self.flaw}
        fields = msgspec.to_builtins(self.key)
        del fields["hash"]
        return {"id": self.id, **fields}


class Made(NamedTuple):
    """A new key: its text, which is shown this once, and whether it is in force everywhere."""

    text: str
    entry: Entry
    in_force: bool


class Keys:
    """All keys; ``presences`` are those of the services that ask for them."""

    def __init__(
        self,
        jetstream: JetStream,
        publisher: Publisher,
        presences: Presences,
        audit: Audit,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._presences = presences
        self._audit = audit
        self._clock = clock
        self._reader = Reader(jetstream, BUCKET)
        self._known: list[Entry] = []

    async def all(self) -> list[Entry]:
        """Every key that is not revoked, by name."""
        if (found := await self._reader.changed()) is not None:
            self._known = sorted((entry for entry in map(_entry, found) if entry.exists), key=lambda entry: entry.order)
        return self._known

    async def get(self, key_id: str) -> Entry:
        """
        Raises:
            Rejected: ``NOT_FOUND``.
        """
        found = await newest(self._jetstream, BUCKET, key_id)
        entry = _entry(found) if found else Entry(key_id, 0)
        if not entry.exists:
            raise Rejected("NOT_FOUND", f"there is no key {key_id!r}")
        return entry

    async def create(self, grant: Grant, lifetime: float | None, note: Note) -> Made:
        """A new key, for ``lifetime`` seconds (None: until it is revoked)."""
        text = keys.text(secrets.token_bytes)
        now = self._clock()
        key = Key(
            **{name: getattr(grant, name) for name in Grant.__struct_fields__},
            hash=keys.hash_of(text),
            created_at=now,
            created_by=note.author,
            expires_at=None if lifetime is None else now + lifetime,
        )
        entry = Entry(keys.id_of(text), 0, key)
        written = await self._write(entry, key, "created", note)
        return Made(text, written, await self._presences.in_force(written.revision))

    async def rotate(self, key_id: str, overlap: float, lifetime: float | None, note: Note) -> tuple[Made, Entry]:
        """A new key for what the old one is for, and the old one, which lets in for ``overlap`` seconds more at most. Without a
        ``lifetime`` the new one has that of the old.

        Raises:
            Rejected: ``NOT_FOUND``; ``CONFLICT`` where the old one cannot be read.
        """
        for _ in range(TRIES):
            old = await self.get(key_id)
            if old.key is None:
                raise Rejected("CONFLICT", f"key {key_id!r} cannot be read: {old.flaw}")
            ends = self._clock() + overlap
            expires = ends if old.key.expires_at is None else min(ends, old.key.expires_at)
            try:
                ending = await self._write(old, msgspec.structs.replace(old.key, expires_at=expires), "rotated", note)
            except Rejected as error:
                _only_stale(error)
                continue
            if lifetime is None and old.key.expires_at is not None:
                lifetime = old.key.expires_at - old.key.created_at
            return await self.create(old.key, lifetime, note), ending
        raise _contended(key_id)

    async def revoke(self, key_id: str, note: Note) -> bool:
        """End a key. Whether that is in force everywhere.

        Raises:
            Rejected: ``NOT_FOUND``.
        """
        for _ in range(TRIES):
            entry = await self.get(key_id)
            try:
                written = await self._write(entry, None, "revoked", note)
            except Rejected as error:
                _only_stale(error)
                continue
            return await self._presences.in_force(written.revision)
        raise _contended(key_id)

    async def _write(self, entry: Entry, key: Key | None, done: str, note: Note) -> Entry:
        value = None if key is None else encode(key)
        revision = await write(self._publisher, BUCKET, entry.id, value, entry.revision, note.headers())
        log.info("key changed", key=entry.id, done=done, revision=revision)
        change = Change(_hash(entry.key if entry.revision else None), _hash(key))
        known = key or entry.key
        await self._audit.record("keys", done, entry.id, note, change, revision=revision, name=known.name if known else "")
        return Entry(entry.id, revision, key)


def _hash(key: Key | None) -> str:
    return fingerprint(msgspec.to_builtins(key)) if key is not None else ""


def _only_stale(error: Rejected) -> None:
    if error.code != "STALE_REVISION":
        raise error


def _contended(key_id: str) -> Rejected:
    return Rejected("CONFLICT", f"key {key_id!r} is being changed by others all the time; try again")


def _entry(found: Document) -> Entry:
    if found.value is None:
        return Entry(found.key, found.revision)
    try:
        return Entry(found.key, found.revision, keys.decode(found.value))
    except Rejected as error:
        return Entry(found.key, found.revision, flaw=error.detail)
