"""The audit log: what was changed, by whom and when, in the stream AUDIT.

A record is written after its change is stored. Where it cannot be, the change stands: an error in the logs holds the record then.
"""

import asyncio
import time
from typing import Any, Literal, NamedTuple

import msgspec

from services.control.store import SYSTEM, Note
from tas_mcp import subjects, telemetry
from tas_mcp.broker import JetStream, Message, Publisher
from tas_mcp.errors import TasError
from tas_mcp.messages import AuditRecord, decode_audit, encode
from tas_mcp.status import Status
from tas_mcp.statuses import StatusBucket

log = telemetry.logger("audit")

RECORD_SECONDS = 1.0
"""How long a caller waits for the record of a change at most."""
FAILURES = telemetry.counter("mcp_audit_failures", "Records that could not be written to the audit log")

Kind = Literal["targets", "schemas", "dead_letters", "rejected"]


class Audit:
    """Writes records. ``details`` hold ids, revisions, counts and filters, never what is in a document or an event."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def record(self, kind: Kind, action: str, subject_id: str, note: Note, **details: Any) -> bool:
        """Say that something was done (``action``, in the past tense) to what has this id (``""``: to many). Never raises;
        whether it is in the log."""
        return await self._write(AuditRecord(time.time(), kind, action, subject_id, note.author, note.comment, details))

    async def gone(self, target_id: str, status: Status) -> bool:
        """Say that a target was found gone. Said again by another replica, it is in the log once."""
        at = status.last_error_at
        record = AuditRecord(at, "targets", "gone", target_id, SYSTEM.author, SYSTEM.comment, {})
        return await self._write(record, f"gone:{subjects.token(target_id)}:{at}")

    async def _write(self, record: AuditRecord, msg_id: str = "") -> bool:
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                await self._publisher.store(subjects.audit(record.kind), encode(record), msg_id=msg_id)
        except (TasError, TimeoutError) as error:
            FAILURES.inc()
            why = error.detail if isinstance(error, TasError) else f"no ack within {RECORD_SECONDS:g} s"
            log.error("not in the audit log", why=why, record=msgspec.to_builtins(record))
            return False
        return True


class Logged(NamedTuple):
    """A record and its sequence in AUDIT."""

    seq: int
    record: AuditRecord

    def shown(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"seq": self.seq, **msgspec.to_builtins(self.record)}


class AuditLog:
    """Reads the records."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream

    async def page(self, kind: str | None, start: int, limit: int) -> tuple[list[Logged], int | None]:
        """At most ``limit`` records from sequence ``start`` on, of one kind or of all, and where the next page starts."""
        subject = subjects.ALL_AUDIT if kind is None else subjects.audit(kind)
        found, following = await self._jetstream.page(subjects.AUDIT, subject, start, limit)
        return [Logged(message.sequence, _record(message)) for message in found], following


class GoneTargets:
    """Records each target that was found gone (410) once: its status remembers that it was."""

    def __init__(self, jetstream: JetStream, statuses: StatusBucket, audit: Audit) -> None:
        self._jetstream = jetstream
        self._statuses = statuses
        self._audit = audit
        self._last = -1

    async def record(self) -> None:
        """Look at the statuses, where any changed since the last look, and record what is new."""
        last = (await self._jetstream.stream_info(subjects.bucket_stream(subjects.STATUS_BUCKET)))["state"]["last_seq"]
        if last == self._last:
            return
        written = True
        for target_id, known in (await self._statuses.all()).items():
            if _unrecorded(known[1]):
                if await self._audit.gone(target_id, known[1]):
                    await self._statuses.change(target_id, known, _recorded)
                else:
                    written = False
        if written:
            self._last = last


def _unrecorded(status: Status) -> bool:
    return status.gone and not status.gone_recorded


def _recorded(status: Status) -> Status | None:
    return msgspec.structs.replace(status, gone_recorded=True) if _unrecorded(status) else None


def _record(message: Message) -> AuditRecord:
    try:
        return decode_audit(message.data)
    except msgspec.MsgspecError as error:
        kind = message.headers["Nats-Subject"].rpartition(".")[2]
        return AuditRecord(0.0, kind, "unreadable", "", "", "", {"detail": str(error)})
