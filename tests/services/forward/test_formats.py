"""What a target receives."""

import json
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from services.forward import cloudevents
from services.forward.formats import FORMATS, standard, tas
from tas_mcp.messages import Event
from tas_mcp.targets import HttpConfig

PAYLOADS = {
    "an object": ('{"b": 1, "a":[1.0,1e2]}', '{"b": 1, "a":[1.0,1e2]}'),
    "an array": ("[1,\n 2]", "[1,\n 2]"),
    "a number": ("1.50", "1.50"),
    "a large number": ("123456789012345678901234567890", "123456789012345678901234567890"),
    "null": ("null", "null"),
    "the same member twice": ('{"a":1,"a":2}', '{"a":1,"a":2}'),
    "unicode": ('{"é":"\U0001f600"}', '{"é":"\U0001f600"}'),
    "escapes": ('{"a":"\\u00e9\\n"}', '{"a":"\\u00e9\\n"}'),
    "a plain string": ('"hello"', '"hello"'),
    "a string of a number": ('"5"', '"5"'),
    "a string that only looks like JSON": ('"{not json"', '"{not json"'),
    "the classic form": ('"{\\"b\\": 1, \\"a\\": [1.0]}"', '{"b": 1, "a": [1.0]}'),
    "a classic array": ('"[1, 2]"', "[1, 2]"),
    "a classic form with unicode": ('"{\\"a\\":\\"\\u00e9\\\\u00e9\\"}"', '{"a":"é\\u00e9"}'),
}


def event(payload: str) -> Event:
    return Event(
        event_id="e1",
        event_type="user.created",
        source="auth",
        timestamp=1703001234,
        accepted_at=9,
        data=Raw(payload.encode()),
        metadata={"k": "v"},
    )


@pytest.mark.parametrize(("given", "text"), PAYLOADS.values(), ids=PAYLOADS.keys())
def test_the_payload_byte_for_byte(given: str, text: str) -> None:
    assert cloudevents.payload(event(given)) == text.encode()
    assert json.loads(tas(event(given)))["data"] == text


def test_the_classic_event() -> None:
    assert tas(event('{"a": 1}')) == (
        b'{"event_id":"e1","event_type":"user.created","source":"auth","timestamp":1703001234,'
        b'"data":"{\\"a\\": 1}","metadata":{"k":"v"}}'
    )


def test_members_are_there_when_empty_and_a_text_time_stays() -> None:
    bare = Event(event_id="e1", event_type="t", source="s", timestamp="2024-01-01T00:00:00.50+02:00", accepted_at=9)
    assert json.loads(tas(bare)) == {
        "event_id": "e1",
        "event_type": "t",
        "source": "s",
        "timestamp": "2024-01-01T00:00:00.50+02:00",
        "data": "null",
        "metadata": {},
    }


@given(st.text(), st.text())
def test_any_text_arrives(key: str, value: str) -> None:
    payload = json.dumps({key: value}, ensure_ascii=False)
    assert cloudevents.payload(event(payload)) == payload.encode()
    assert json.loads(tas(event(payload)))["data"] == payload


def test_the_standard_shape() -> None:
    assert standard(event('"{\\"a\\": 1.0}"')) == (
        b'{"type":"user.created","timestamp":"2023-12-19T15:53:54Z","data":{"a": 1.0}}'
    )


def test_the_table_has_the_formats_of_the_documents() -> None:
    assert set(FORMATS) == set(get_args(get_type_hints(HttpConfig)["format"]))
