"""The messages on the broker come back as they were sent, the sender's own text to the byte."""

import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tas_mcp.messages import (
    JSON_NULL,
    Attempt,
    Attempted,
    DeadLetter,
    Delivery,
    Event,
    Routed,
    RoutedTo,
    decode_dead_letter,
    decode_delivery,
    decode_event,
    encode,
    event_key,
    lacks_data,
    webhook_id,
    without_data,
)

NAMES = st.text(min_size=1, max_size=30)
LONGS = st.integers(min_value=0, max_value=2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
PAYLOADS = st.builds(
    lambda value, indent, ascii_only: Raw(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()),
    VALUES,
    st.none() | st.integers(min_value=0, max_value=3),
    st.booleans(),
)

EVENTS = st.builds(
    Event,
    event_id=NAMES,
    event_type=NAMES,
    source=NAMES,
    timestamp=st.integers(min_value=-(2**63), max_value=2**63 - 1) | st.text(alphabet=string.printable),
    accepted_at=LONGS,
    data=PAYLOADS,
    metadata=st.dictionaries(st.text(), st.text(), max_size=4),
)
ATTEMPTS = st.builds(Attempt, number=LONGS, at=FLOATS, duration_ms=FLOATS, status=st.integers(0, 999), error=st.text(max_size=20))
DELIVERIES = st.builds(
    Delivery,
    event=EVENTS.map(encode).map(Raw),
    event_seq=LONGS,
    revision=LONGS,
    rule_id=st.text(max_size=10),
    redrives=LONGS,
    attempts=st.lists(ATTEMPTS, max_size=3),
)
DEAD_LETTERS = st.builds(
    DeadLetter, target_id=NAMES, event_id=NAMES, reason=NAMES, detail=st.text(), at=FLOATS, delivery=DELIVERIES
)
ROUTED_TO = st.builds(RoutedTo, target_id=NAMES, revision=LONGS, rule_id=st.text(), result=NAMES)
ROUTED = st.builds(Routed, event_seq=LONGS, event_id=NAMES, accepted_at=LONGS, at=FLOATS, targets=st.lists(ROUTED_TO, max_size=3))
ATTEMPTED = st.builds(
    Attempted,
    event_seq=LONGS,
    event_id=NAMES,
    accepted_at=LONGS,
    target_id=NAMES,
    revision=LONGS,
    number=LONGS,
    result=NAMES,
    status=st.integers(0, 999),
    duration_ms=FLOATS,
    at=FLOATS,
    error=st.text(),
)


@given(EVENTS)
def test_an_event_comes_back(event: Event) -> None:
    again = decode_event(encode(event))
    assert again == event
    assert bytes(again.data) == bytes(event.data)


@given(DELIVERIES)
def test_a_delivery_comes_back_and_its_event_to_the_byte(delivery: Delivery) -> None:
    again = decode_delivery(encode(delivery))
    assert again == delivery
    assert bytes(again.event) == bytes(delivery.event)
    assert encode(decode_event(again.event)) == bytes(delivery.event)


@given(DEAD_LETTERS)
def test_a_dead_letter_comes_back(letter: DeadLetter) -> None:
    assert decode_dead_letter(encode(letter)) == letter


@given(st.lists(ROUTED, max_size=3), st.lists(ATTEMPTED, max_size=3))
def test_outcome_records_come_back(routed: list[Routed], attempted: list[Attempted]) -> None:
    assert msgspec.json.decode(encode(routed), type=list[Routed]) == routed
    assert msgspec.json.decode(encode(attempted), type=list[Attempted]) == attempted


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":2}',
        b'{ "amount" : 1.10, "n": 1e2 }',
        b"12345678901234567890123",
        b'"\\u00e9\\/"',
        b"[1,\n\t2]",
        '"é😀"'.encode(),
        b"null",
    ],
)
def test_the_payload_keeps_its_spelling(data: bytes) -> None:
    stored = b'{"event_id":"e","event_type":"t","source":"s","timestamp":1,"accepted_at":1,"data":%b}' % data
    event = decode_event(stored)
    assert bytes(event.data) == data
    assert data in encode(event)
    assert bytes(decode_event(encode(event)).data) == data


def test_an_event_without_payload_has_null() -> None:
    event = Event(event_id="e", event_type="t", source="s", timestamp=1, accepted_at=1)
    assert event.data == JSON_NULL
    assert decode_event(encode(event)) == event


def test_metadata_is_not_shared_between_events() -> None:
    one, other = (Event(event_id="e", event_type="t", source="s", timestamp=1, accepted_at=1) for _ in range(2))
    one.metadata["k"] = "v"
    assert other.metadata == {}


def test_a_newer_writer_may_add_fields() -> None:
    event = Event(event_id="e", event_type="t", source="s", timestamp=1, accepted_at=1)
    stored = encode(event)
    assert decode_event(stored[:-1] + b',"new":{"x":1}}') == event


# What ingest lets into event_id and source: text without control characters.
PRINTABLE = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(PRINTABLE, PRINTABLE, PRINTABLE, PRINTABLE)
def test_the_key_tells_events_apart(source: str, event_id: str, other_source: str, other_id: str) -> None:
    same = (source, event_id) == (other_source, other_id)
    assert (event_key(source, event_id) == event_key(other_source, other_id)) == same


@given(PRINTABLE, st.data())
def test_the_key_sees_where_the_source_ends(text: str, data: st.DataObject) -> None:
    one, other = (data.draw(st.integers(0, len(text)), label="split") for _ in range(2))
    keys = {event_key(text[:at], text[at:]) for at in (one, other)}
    assert len(keys) == len({one, other})


def test_the_key_is_stable() -> None:
    assert event_key("auth-service", "evt-123") == "063c69d95875167c1490775cf1619433"
    event = Event(event_id="evt-123", event_type="t", source="auth-service", timestamp=1, accepted_at=1)
    assert webhook_id(event) == "evt_" + event_key("auth-service", "evt-123")


def test_a_letter_without_data_has_no_text_of_a_template_either() -> None:
    event = Event(event_id="e", event_type="t", source="s", timestamp=1, accepted_at=1, data=Raw(b'{"a":1}'))
    owed = Delivery(event=Raw(encode(event)), event_seq=7, revision=1, body="a=1", content_type="text/plain")
    bare = without_data(DeadLetter(target_id="a", event_id="e", reason="r", at=1, delivery=owed), event, "too large")
    assert lacks_data(bare)
    assert (bare.delivery.body, bare.delivery.content_type) == (None, None)
