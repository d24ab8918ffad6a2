"""The chain of the audit log: whatever is done to a log, it shows."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.chain import Fault, Heads, Link, Verification, fingerprint, linked
from tas_mcp.messages import AuditRecord, encode

Log = list[dict[str, Any]]
"""Records, as they are read."""

DETAILS = st.dictionaries(st.text(max_size=3), st.none() | st.integers(-(2**53), 2**53) | st.text(max_size=5), max_size=2)
RECORDS = st.builds(
    AuditRecord,
    at=st.floats(0, 2e9),
    kind=st.just("targets"),
    action=st.sampled_from(("created", "deleted")),
    id=st.text(max_size=5),
    author=st.text(max_size=5),
    details=DETAILS,
)
WRITTEN = st.lists(st.tuples(st.sampled_from("abc"), RECORDS), min_size=1, max_size=12)
"""Who writes what, in the order in which it is stored."""


def written(entries: Iterable[tuple[str, AuditRecord]], first: int = 1) -> Log:
    """The log that these writers leave, each linking its own."""
    ends: dict[str, Link] = {}
    log: Log = []
    for seq, (writer, record) in enumerate(entries, first):
        placed = linked(record, writer, ends.get(writer, Link()))
        ends[writer] = Link(placed.count, seq, placed.hash)
        log.append({**msgspec.json.decode(encode(placed)), "seq": seq})
    return log


def faults(log: Log, known: Heads | None = None) -> list[Fault]:
    verification = Verification(known)
    found = [fault for record in log for fault in verification.take(record)]
    return [*found, *verification.end()]


def heads(log: Log) -> Heads:
    verification = Verification()
    assert [fault for record in log for fault in verification.take(record)] == []
    return verification.heads


def renumbered(log: Log) -> Log:
    """As somebody leaves it who makes the stream anew, so that its sequences show nothing."""
    return [{**record, "seq": seq} for seq, record in enumerate(log, 1)]


@given(WRITTEN)
def test_what_was_written_is_intact(entries: list[tuple[str, AuditRecord]]) -> None:
    log = written(entries)
    assert faults(log) == []
    assert faults(log, heads(log)) == []


@given(WRITTEN, st.data())
def test_every_edit_is_found(entries: list[tuple[str, AuditRecord]], data: st.DataObject) -> None:
    log = written(entries)
    record = data.draw(st.sampled_from(log))
    name = data.draw(st.sampled_from(sorted(record.keys() - {"seq"})))
    value = data.draw(st.text() | st.integers() | st.none() | st.just({"more": 1}))
    if json.dumps(value) != json.dumps(record[name]):
        record[name] = value
        assert record["seq"] in [fault.seq for fault in faults(log)]


@given(WRITTEN, st.data())
def test_an_edit_that_mends_its_own_hash_breaks_the_next_record(
    entries: list[tuple[str, AuditRecord]], data: st.DataObject
) -> None:
    log = written([*entries, entries[0]])
    record = next(record for record in log if record["writer"] == entries[0][0])
    record["author"] += "x"
    record["hash"] = fingerprint({name: value for name, value in record.items() if name not in ("hash", "seq")})
    assert any("was edited, or is another" in fault.detail for fault in faults(log))


@given(WRITTEN, st.data())
def test_every_gap_is_found_also_in_a_stream_made_anew(entries: list[tuple[str, AuditRecord]], data: st.DataObject) -> None:
    log = written([*entries, *entries])
    gone = data.draw(st.integers(0, len(log) - 2))
    if gone:
        assert faults(log[:gone] + log[gone + 1 :]) != []
    last = max(place for place, record in enumerate(log) if record["writer"] == log[gone]["writer"])
    if gone < last:
        assert faults(renumbered(log[:gone] + log[gone + 1 :])) != []


@given(WRITTEN, st.data())
def test_what_is_repeated_is_found(entries: list[tuple[str, AuditRecord]], data: st.DataObject) -> None:
    log = written(entries)
    again = data.draw(st.integers(0, len(log) - 1))
    where = data.draw(st.integers(0, len(log)))
    assert faults(renumbered([*log[:where], log[again], *log[where:]])) != []


@given(WRITTEN, st.data())
def test_what_was_moved_is_found(entries: list[tuple[str, AuditRecord]], data: st.DataObject) -> None:
    """Of each writer the stream holds a later record, which knows the places of the earlier ones."""
    closing = [(writer, entries[0][1]) for writer in "abc"]
    log = written([*entries, *closing])
    one, other = data.draw(st.lists(st.integers(0, len(entries) - 1), min_size=2, max_size=2))
    if one != other:
        log[one], log[other] = log[other], log[one]
        assert faults(log) != []
        assert faults(renumbered(log)) != []


@given(WRITTEN, st.data())
def test_all_of_it_is_found_with_the_heads_of_an_earlier_verification(
    entries: list[tuple[str, AuditRecord]], data: st.DataObject
) -> None:
    log = written(entries)
    known = heads(log)
    cut = data.draw(st.integers(0, len(log) - 1))
    assert faults(log[:cut], known) != []
    another = [(writer, msgspec.structs.replace(record, author=record.author + "x")) for writer, record in entries]
    assert faults(written(another), known) != []
    assert faults(written([*entries, *entries]), known) == []


@given(WRITTEN, st.data())
def test_a_log_whose_oldest_records_made_room_is_intact(entries: list[tuple[str, AuditRecord]], data: st.DataObject) -> None:
    log = written(entries)
    start = data.draw(st.integers(0, len(log) - 1))
    assert faults(log[start:]) == []
    assert faults(log[start:], heads(log)) == []


def test_what_cannot_be_told() -> None:
    """The end of a log, where nobody kept its heads; which of the last records of two writers was first."""
    record = AuditRecord(at=1.0, kind="targets", action="created", id="", author="")
    log = written([("a", record), ("b", record), ("b", record)])
    assert faults(log[:2]) == []
    assert faults(renumbered([log[1], log[0]])) == []


def test_records_from_before_the_chain_are_counted_and_only_at_the_start() -> None:
    old = {"seq": 1, "at": 1.0, "kind": "targets", "action": "created", "id": "", "author": "", "comment": "", "details": {}}
    record = AuditRecord(at=1.0, kind="targets", action="created", id="", author="")
    [new] = written([("a", record)], 2)
    verification = Verification()
    assert [*verification.take(old), *verification.take(new)] == []
    assert verification.unchained == 1
    assert [fault.seq for fault in verification.take({**old, "seq": 3})] == [3]


@pytest.mark.parametrize("writer", ["", None, 7, []])
def test_a_record_without_a_writer_is_a_fault(writer: Any) -> None:
    assert faults([{"seq": 1, "writer": writer}]) == [Fault(1, "it is no record of any writer")]


def test_a_fingerprint_does_not_depend_on_the_order_of_members() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
