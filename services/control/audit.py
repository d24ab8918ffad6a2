"""The audit log as it is read, and the record of what no person does: a target found gone."""

from typing import Any, NamedTuple

import msgspec

from tas_mcp import subjects
from tas_mcp.audit import SYSTEM, Audit
from tas_mcp.broker import JetStream, Message
from tas_mcp.messages import AuditRecord
from tas_mcp.status import Status
from tas_mcp.statuses import StatusBucket


class Logged(NamedTuple):
    """A record, decoded as it is stored (see ``tas_mcp.chain``), and its sequence in AUDIT."""

    seq: int
    record: dict[str, Any]

    def shown(self) -> dict[str, Any]:
        """As the API shows it."""
        return {**self.record, "seq": self.seq}


class AuditLog:
    """Reads the records."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream

    async def page(self, kind: str | None, start: int, limit: int) -> tuple[list[Logged], int | None]:
        """At most ``limit`` records from sequence ``start`` on, of one kind or of all, and where the next page starts."""
        subject = subjects.ALL_AUDIT if kind is None else subjects.audit(kind)
        found, following = await self._jetstream.page(subjects.AUDIT, subject, start, limit)
        return [Logged(message.sequence, _decoded(message)) for message in found], following


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
                if await self._audit.write(_gone(target_id, known[1]), _once(target_id, known[1])):
                    await self._statuses.change(target_id, known, _recorded)
                else:
                    written = False
        if written:
            self._last = last


def _unrecorded(status: Status) -> bool:
    return status.gone and not status.gone_recorded


def _recorded(status: Status) -> Status | None:
    return msgspec.structs.replace(status, gone_recorded=True) if _unrecorded(status) else None


def _gone(target_id: str, status: Status) -> AuditRecord:
    at = status.last_error_at
    return AuditRecord(at=at, kind="targets", action="gone", id=target_id, author=SYSTEM.author)


def _once(target_id: str, status: Status) -> str:
    """The id that makes the record of several replicas one."""
    return f"gone:{subjects.token(target_id)}:{status.last_error_at}"


def _decoded(message: Message) -> dict[str, Any]:
    try:
        return msgspec.json.decode(message.data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        kind = message.headers["Nats-Subject"].rpartition(".")[2]
        unreadable = AuditRecord(at=0.0, kind=kind, action="unreadable", id="", author="", details={"detail": str(error)})
        return msgspec.to_builtins(unreadable)  # type: ignore[no-any-return]
