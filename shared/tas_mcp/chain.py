"""The chain that makes the audit log tell of changes made to it. Pure.

Every process that writes records is a writer of its own, under a name that no other ever has. Each of its records carries the
writer's count (1, 2, 3 ...), the hash of the writer's record before it, the sequence that one got in the stream, and its own
hash. The stream's sequences have no gaps, for nothing can be deleted but the oldest. So whatever is edited, left out, repeated,
put in or moved breaks a hash, a count or a sequence.

A writer that does not know whether a record of its was stored never goes on behind it, but begins anew under another name: a
crash, or an ack that was lost, leaves a chain that ends, and never one that looks edited.

What no chain can show of itself is that its end was cut off, or that all of it was written anew: for that its heads are kept
elsewhere (``Heads``) and held against it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from tas_mcp.messages import AuditRecord


def fingerprint(document: Any) -> str:
    """The SHA-256 of a decoded JSON document, however its members are ordered: 64 hex digits."""
    return hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()


def hashed(record: Mapping[str, Any]) -> str:
    """The hash that a record (decoded JSON) ought to carry: of all of it but ``hash``, and its ``seq`` where it came with one."""
    return fingerprint({name: value for name, value in record.items() if name not in ("hash", "seq")})


class Link(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a writer's chain ends: its last record's count, sequence in the stream, and hash."""

    count: int = 0
    seq: int = 0
    hash: str = ""


def linked(record: AuditRecord, writer: str, last: Link) -> AuditRecord:
    """The record as the next one behind ``last``."""
    places = {"writer": writer, "count": last.count + 1, "previous": last.hash, "previous_seq": last.seq}
    placed = msgspec.structs.replace(record, **places)
    return msgspec.structs.replace(placed, hash=hashed(msgspec.to_builtins(placed)))


class Heads(Struct, forbid_unknown_fields=True):
    """What a log held when it was verified: its last sequence, and where each writer's chain ended."""

    seq: int = 0
    writers: dict[str, Link] = {}


class Fault(NamedTuple):
    """Something that is wrong at a record of the log."""

    seq: int
    detail: str


class Verification:
    """Takes the records of a log one by one, the oldest first. ``known`` is what an earlier verification found; ``heads`` is what
    this one did, ``first`` the sequence that the log begins with, and ``unchained`` how many records are older than the chain."""

    def __init__(self, known: Heads | None = None) -> None:
        self._known = known or Heads()
        self._met: set[str] = set()
        self.heads = Heads(0, {})
        self.first = 0
        self.unchained = 0

    def take(self, record: Mapping[str, Any]) -> Iterator[Fault]:
        """What is wrong with the next record, as the API shows it: decoded JSON, with its sequence as ``seq``."""
        seq = record["seq"]
        last, self.heads.seq = self.heads.seq, seq
        if not self.first:
            self.first = seq
        elif seq <= last:
            yield Fault(seq, f"it comes after {last}")
        elif seq > last + 1:
            yield Fault(seq, f"{_records(last + 1, seq - 1)} before it missing")
        writer = record.get("writer")
        if "writer" not in record and not self.heads.writers:
            self.unchained += 1
        elif not isinstance(writer, str) or not writer:
            yield Fault(seq, "it is no record of any writer")
        else:
            yield from (Fault(seq, detail) for detail in self._linked(writer, seq, record))

    def end(self) -> Iterator[Fault]:
        """What the earlier verification found and this one did not, when all records were taken."""
        if self.heads.seq < self._known.seq:
            yield Fault(self.heads.seq, f"the log ends here, but went on to {self._known.seq} at an earlier verification")
        for writer, link in self._known.writers.items():
            if writer not in self._met and link.seq >= self.first:
                yield Fault(link.seq, f"the record {link.count} of {writer}, known of an earlier verification, is missing")

    def _linked(self, writer: str, seq: int, record: Mapping[str, Any]) -> Iterator[str]:
        name, count, found = repr(writer), record.get("count"), hashed(record)
        if record.get("hash") != found:
            yield "it was edited: its hash is not that of what it says"
        last = self.heads.writers.get(writer)
        said = record.get("previous_seq")
        if last is None and count != 1 and isinstance(said, int) and 0 < said < self.first:
            pass  # what was before it made room for newer ones
        else:
            last = last or Link()
            if count != last.count + 1:
                yield f"{name} wrote its record {count!r} after its record {last.count}"
            if record.get("previous") != last.hash:
                yield f"the record of {name} before it was edited, or is another"
            if said != last.seq:
                yield f"the record of {name} before it had the sequence {said!r}, and not {last.seq}"
        link = Link(count if isinstance(count, int) else 0, seq, found)
        known = self._known.writers.get(writer)
        if known is not None and known.count == link.count:
            self._met.add(writer)
            if known != link:
                yield "it is not what it was at an earlier verification"
        self.heads.writers[writer] = link


def _records(first: int, last: int) -> str:
    return f"the record {first}" + (" is" if first == last else f" to {last} are")
