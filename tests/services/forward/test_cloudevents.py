"""Events as CloudEvents, read back by the reference SDK."""

import json

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, structs

from services.forward.cloudevents import DATA, STRUCTURED, attributes, header, header_lines, structured, time
from tas_mcp.messages import Event

EVENT = Event(
    event_id="e1",
    event_type="user.created",
    source="auth",
    timestamp=1703001234,
    accepted_at=9,
    data=Raw(b'{"a": 1.0}'),
    metadata={"correlation_id": "req-7", "subject": "user/5", "Id": "x", "type": "y", "--": "z", "tab": "a\tb", "none": ""},
)
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "e1",
    "source": "auth",
    "type": "user.created",
    "time": "2023-12-19T15:53:54Z",
    "datacontenttype": "application/json",
    "correlationid": "req-7",
    "subject": "user/5",
}


def test_attributes() -> None:
    assert attributes(EVENT) == ATTRIBUTES


def test_the_structured_form() -> None:
    body = structured(EVENT)
    assert json.loads(body) == {**ATTRIBUTES, "data": {"a": 1.0}}
    assert b'"data":{"a": 1.0}' in body, "the payload's own text"


def test_the_reference_sdk_reads_it() -> None:
    found = from_http_event(HTTPMessage(headers={"content-type": STRUCTURED}, body=structured(EVENT)))
    assert (found.get_id(), found.get_source(), found.get_type()) == ("e1", "auth", "user.created")
    assert found.get_data() == {"a": 1.0}
    assert found.get_subject() == "user/5"
    assert found.get_extension("correlationid") == "req-7"


@pytest.mark.parametrize(
    ("timestamp", "said"),
    [(0, "1970-01-01T00:00:00Z"), (253402300799, "9999-12-31T23:59:59Z"), ("2016-12-31t23:59:60Z", "2016-12-31t23:59:60Z")],
)
def test_times(timestamp: int | str, said: str) -> None:
    assert time(structs.replace(EVENT, timestamp=timestamp)) == said


def test_header_values() -> None:
    """The example of the specification, and what it must not touch."""
    assert header("Euro \u20ac \U0001f600") == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert header("a\"b%c~!/?'") == "a%22b%25c~!/?'"


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1), st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_the_reference_sdk_reads_the_binary_form(text: str, more: str) -> None:
    sent = structs.replace(EVENT, source=text, metadata={"subject": more})
    lines = header_lines(sent)
    assert lines.isascii()
    headers = dict(line.split(": ", 1) for line in lines.removesuffix("\r\n").split("\r\n"))
    assert "ce-datacontenttype" not in headers
    found = from_http_event(HTTPMessage(headers={**headers, "content-type": DATA}, body=b'{"a": 1.0}'))
    assert (found.get_id(), found.get_source(), found.get_type(), found.get_subject()) == ("e1", text, "user.created", more)
    assert found.get_data() == {"a": 1.0}


def test_headers_are_percent_encoded_as_the_binding_says() -> None:
    lines = header_lines(structs.replace(EVENT, source='a "b" 100% Ü', metadata={}))
    assert lines == (
        "ce-specversion: 1.0\r\nce-id: e1\r\nce-source: a%20%22b%22%20100%25%20%C3%9C\r\nce-type: user.created\r\n"
        "ce-time: 2023-12-19T15:53:54Z\r\n"
    )
