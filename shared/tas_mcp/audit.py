"""Writing the audit log: what was done, by whom, from where and when, into the stream AUDIT, each record linked to the one before
it (``tas_mcp.chain``).

A record is written after its change is stored. Where it cannot be, the change stands: an error in the logs holds the record then.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from tas_mcp import subjects, telemetry
from tas_mcp.broker import Publisher
from tas_mcp.chain import Link, linked
from tas_mcp.errors import TasError
from tas_mcp.messages import AuditRecord, encode

log = telemetry.logger("audit")

RECORD_SECONDS = 3.0
"""How long a caller waits for the record of a change at most: a broker that chooses a new leader is back by then."""
FAILURES = telemetry.counter("mcp_audit_failures", "Records that could not be written to the audit log")

Kind = Literal["targets", "schemas", "keys", "secrets", "dead_letters", "rejected", "authentication"]


class Note(NamedTuple):
    """Who does a thing, why, and from where. Author and comment of a changed document travel as headers of its write, so that the
    documents stay pure."""

    author: str
    comment: str = ""
    address: str = ""
    request_id: str = ""

    def headers(self) -> dict[str, str]:
        return {"TAS-Author": self.author, "TAS-Comment": self.comment}


SYSTEM = Note("system")
"""What a service does of its own accord."""


class Change(NamedTuple):
    """The hashes of a document (see ``chain.fingerprint``) before and after it was changed; ``""``: there was none."""

    before: str = ""
    after: str = ""


UNCHANGED = Change()


class Audit:
    """Writes the records of one process. ``details`` hold ids, revisions, counts and filters, never what is in a document or an
    event."""

    def __init__(self, publisher: Publisher, service: str, suffix: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:
        self._publisher = publisher
        self._service = service
        self._suffix = suffix
        self._turn = asyncio.Lock()
        self._lost = 0
        self._begin()

    def _begin(self) -> None:
        self._writer, self._last = f"{self._service}-{self._suffix()}", Link()

    async def record(
        self, kind: Kind, action: str, subject_id: str, note: Note, change: Change = UNCHANGED, **details: Any
    ) -> bool:
        """Say that something was done (``action``, in the past tense) to what has this id (``""``: to many). Never raises;
        whether it is in the log."""
        return await self.write(_record(time.time(), kind, action, subject_id, note, change, details))

    async def write(self, record: AuditRecord, msg_id: str = "") -> bool:
        """As ``record``. Of records with the same ``msg_id``, of all processes, only the first is kept."""
        try:
            async with asyncio.timeout(RECORD_SECONDS), self._turn:
                if self._lost:
                    await self._store(_lost(record.kind, self._lost), "")
                    self._lost = 0
                await self._store(record, msg_id)
        except (TasError, TimeoutError) as error:
            self._lost += 1
            FAILURES.inc()
            why = error.detail if isinstance(error, TasError) else f"no ack within {RECORD_SECONDS:g} s"
            log.error("not in the audit log", why=why, record=msgspec.to_builtins(record))
            return False
        return True

    async def _store(self, record: AuditRecord, msg_id: str) -> None:
        """Store it as the next of the chain. Where it is not known whether that was done, the chain ends."""
        placed = linked(record, self._writer, self._last)
        try:
            ack = await self._publisher.store(subjects.audit(record.kind), encode(placed), msg_id=msg_id)
        except BaseException:
            self._begin()
            raise
        if not ack.duplicate:
            self._last = Link(placed.count, ack.seq, placed.hash)


def _lost(kind: str, count: int) -> AuditRecord:
    """What was not written before, of whatever kind. It goes where the next record goes: other subjects may be closed to us."""
    return AuditRecord(at=time.time(), kind=kind, action="lost", id="", author=SYSTEM.author, details={"records": count})


def _record(
    at: float, kind: Kind, action: str, subject_id: str, note: Note, change: Change, details: dict[str, Any]
) -> AuditRecord:
    return AuditRecord(
        at=at,
        kind=kind,
        action=action,
        id=subject_id,
        author=note.author,
        comment=note.comment,
        address=note.address,
        request_id=note.request_id,
        before=change.before,
        after=change.after,
        details=details,
    )
