"""Changes of targets, each by compare-and-set: checked whole, the consumer made first, then the document, then waited for until
the process replicas have it in force."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from services.control.lanes import Lanes
from services.control.removal import Removals
from services.control.requests import Precondition
from services.control.store import Entry, Store
from tas_mcp import targets, telemetry
from tas_mcp.audit import Audit, Change, Note
from tas_mcp.chain import fingerprint
from tas_mcp.errors import Rejected
from tas_mcp.presence import Presences
from tas_mcp.targets import AnyTarget, Removed

log = telemetry.logger("editing")

TRIES = 5
"""How often a change is made anew on what somebody else wrote in between."""

ROLLED_BACK = "rolled_back"
"""What the audit log calls going back to an earlier revision."""

Queue = Literal["dead", "discard"]


class Saved(NamedTuple):
    target_id: str
    revision: int
    in_force: bool


class Editor:
    """Creates, replaces and removes targets. ``locked`` says why people may not (``""``: they may)."""

    def __init__(
        self, store: Store, lanes: Lanes, presences: Presences, removals: Removals, audit: Audit, locked: str = ""
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._presences = presences
        self._removals = removals
        self._audit = audit
        self._locked = locked

    async def create(self, document: Any, note: Note) -> Saved:
        """Store a new target.

        Raises:
            Rejected: ``INVALID_TARGET``, or ``CONFLICT`` where the id is taken; as every change by people, ``READ_ONLY``.
        """
        self.unlocked()
        target, _ = targets.check(document)

        def build(entry: Entry) -> AnyTarget:
            if entry.exists and not entry.removed:
                raise Rejected("CONFLICT", f"target {target.id!r} exists already; change it with PUT")
            return target

        return await self._saved(target.id, await self.save(target.id, build, note))

    async def replace(self, target_id: str, document: Any, check: Precondition, note: Note) -> Saved:
        """Store a target, new or over the old one. The id is ``target_id`` whatever the document says.

        Raises:
            Rejected: ``INVALID_TARGET``, ``CONFLICT`` (it is being removed), ``PRECONDITION_FAILED``.
        """
        self.unlocked()
        if isinstance(document, dict):
            document = {**{key: value for key, value in document.items() if key != "status"}, "id": target_id}

        def build(entry: Entry) -> AnyTarget:
            return targets.check(targets.unmask(document, entry.target))[0]

        return await self._saved(target_id, await self.save(target_id, build, note, check))

    async def change(self, target_id: str, changes: dict[str, Any], check: Precondition, note: Note, action: str = "") -> Saved:
        """Store an existing target with some of its members changed; ``action`` is what the audit log calls that. Where people
        may not change targets, one that has them so already is left as it is."""
        if self._locked:
            return await self._as_it_is(target_id, changes, check)

        def build(entry: Entry) -> AnyTarget:
            if entry.target is None:
                raise missing(target_id)
            return msgspec.structs.replace(entry.target, **changes)

        return await self._saved(target_id, await self.save(target_id, build, note, check, action))

    async def _as_it_is(self, target_id: str, changes: dict[str, Any], check: Precondition) -> Saved:
        entry = await self._store.get(target_id)
        if entry.target is None:
            raise missing(target_id)
        check(entry.revision)
        if msgspec.structs.replace(entry.target, **changes) != entry.target:
            self.unlocked()
        return await self._saved(target_id, entry.revision)

    async def put_back(self, target: AnyTarget, check: Precondition, note: Note) -> Saved:
        """Store a target as an earlier revision had it, whether it is there now or not."""
        self.unlocked()
        return await self._saved(target.id, await self.save(target.id, lambda _: target, note, check, ROLLED_BACK))

    async def remove(self, target_id: str, queue: Queue, check: Precondition, note: Note) -> Saved:
        """Remove a target: at once where nothing is owed to it, else behind a tombstone. Asked again with ``discard``, a removal
        under way drops what is still queued."""
        self.unlocked()
        tombstone = await self.bury(target_id, queue, note, check)
        in_force = await self.in_force(tombstone.revision)
        if in_force:
            await self._removals.finish(tombstone)
        return Saved(target_id, tombstone.revision, in_force)

    def unlocked(self) -> None:
        """Say by ``Rejected`` that people may not change targets, where that is so."""
        if self._locked:
            raise Rejected("READ_ONLY", self._locked)

    async def bury(self, target_id: str, queue: Queue, note: Note, check: Precondition = lambda _: None) -> Entry:
        """Write a target's tombstone, not waiting for anything; the janitor does the rest."""
        for _ in range(TRIES):
            entry = await self._store.get(target_id)
            under_way = entry.removed is not None and not (entry.removed.queue == "dead" and queue == "discard")
            if not entry.exists or under_way:
                raise missing(target_id)
            check(entry.revision)
            removed = Removed(id=target_id, queue=queue)
            try:
                revision = await self._store.put(target_id, removed, entry.revision, note)
            except Rejected as error:
                _only_stale(error)
                continue
            log.info("target deleted", target=target_id, revision=revision, queue=queue)
            change = Change(_hash(entry.target), "")
            await self._audit.record("targets", "deleted", target_id, note, change, revision=revision, queue=queue)
            return Entry(target_id, revision, removed)
        raise _contended(target_id)

    async def save(
        self,
        target_id: str,
        build: Callable[[Entry], AnyTarget],
        note: Note,
        check: Precondition = lambda _: None,
        action: str = "",
    ) -> int:
        """Store what ``build`` makes of what is there, not waiting until it is in force; its revision. ``action`` is what the
        audit log calls that, ``""``: created, or updated."""
        for _ in range(TRIES):
            entry = await self._store.get(target_id)
            if entry.removed:
                raise Rejected("CONFLICT", f"target {target_id!r} is being removed: what was queued for it is not done yet")
            check(entry.revision if entry.exists else 0)
            target = build(entry)
            await self._lanes.ensure(target.id)
            try:
                revision = await self._store.put(target.id, target, entry.revision, note)
            except Rejected as error:
                _only_stale(error)
                continue
            log.info("target saved", target=target.id, revision=revision)
            done = action or ("updated" if entry.exists else "created")
            change = Change(_hash(entry.target), _hash(target))
            await self._audit.record("targets", done, target.id, note, change, revision=revision)
            return revision
        raise _contended(target_id)

    async def reseal(self, target_id: str, note: Note) -> bool:
        """Seal a target's secrets with the first key; whether there was anything to do. The target stays what it is, so this may
        be done where people may not change targets."""
        for _ in range(TRIES):
            try:
                revision = await self._store.reseal(target_id, note)
            except Rejected as error:
                _only_stale(error)
                continue
            if revision:
                await self._audit.record("secrets", "rotated", target_id, note, revision=revision)
            return revision > 0
        raise _contended(target_id)

    async def in_force(self, revision: int) -> bool:
        """Whether every process replica works by a revision, waiting for it a second at most."""
        return await self._presences.in_force(revision)

    async def _saved(self, target_id: str, revision: int) -> Saved:
        return Saved(target_id, revision, await self.in_force(revision))


def _hash(target: AnyTarget | None) -> str:
    """What the audit log holds of a document. Its secrets are masked before: of a hash, a weak one could be guessed."""
    return fingerprint(targets.masked(target)) if target is not None else ""


def missing(target_id: str) -> Rejected:
    return Rejected("NOT_FOUND", f"there is no target {target_id!r}")


def _only_stale(error: Rejected) -> None:
    if error.code != "STALE_REVISION":
        raise error


def _contended(target_id: str) -> Rejected:
    return Rejected("CONFLICT", f"target {target_id!r} is being changed by others all the time; try again")
