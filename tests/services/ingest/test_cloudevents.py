"""CloudEvents become events; what is wrong with one is said. The way back to a target, and the reference SDK, are in
tests/e2e/test_cloudevents.py."""

import json
from typing import Any

import pytest

from services.ingest.cloudevents import Binary, attributes, read_binary, read_structured
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.messages import Event
from tas_mcp.submission import Limits

NOW = 1_703_001_234_000_000_000
LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}


def new_id(_: int) -> str:
    raise AssertionError("a CloudEvent has an id")


def structured(members: dict[str, Any], limits: Limits | None = None) -> tuple[Event, object]:
    body = json.dumps({**LEAST, **members}).encode()
    return read_structured(body, limits or Limits(), NOW, new_id)


def binary(
    headers: dict[str, str] | list[tuple[str, str]], body: bytes = b"", content_type: bytes = b"application/json"
) -> tuple[Event, object]:
    given = {**LEAST, **headers}.items() if isinstance(headers, dict) else headers
    sent = attributes((b"ce-" + name.encode(), value.encode("latin-1")) for name, value in given)
    return read_binary(Binary(sent, content_type, body), Limits(), NOW, new_id)


def test_the_least_event() -> None:
    found, data = structured({})
    assert found == Event(
        event_id="1",
        event_type="order.created",
        source="/shop",
        timestamp=1_703_001_234,
        accepted_at=NOW,
        cloudevent={"specversion": "1.0"},
    )
    assert data is None


def test_all_attributes_are_kept_as_received() -> None:
    optional = {
        "time": "2024-01-31T12:00:00.5+01:00",
        "subject": "ü",
        "dataschema": "urn:x",
        "datacontenttype": "application/json",
    }
    extensions = {"traceparent": "00-a-b-01", "sequence": 5, "sampled": True, "empty": ""}
    found, data = structured({**optional, **extensions, "data": {"a": 1.0}})
    assert found.cloudevent == {"specversion": "1.0", **optional, **extensions}
    assert found.timestamp == optional["time"]
    assert (json.loads(bytes(found.data)), data) == ({"a": 1.0}, {"a": 1.0})
    assert found.metadata == {}


def test_null_stands_for_what_is_not_there() -> None:
    found, _ = structured({"subject": None, "time": None, "data": None, "data_base64": None})
    assert found.cloudevent == {"specversion": "1.0"}


def test_base64_is_kept_as_it_came() -> None:
    found, data = structured({"datacontenttype": "image/png", "data_base64": "AP8="})
    assert found.cloudevent["data_base64"] == "AP8="
    assert (bytes(found.data), data) == (b"null", None)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"specversion": "0.3"}, "/specversion"),
    ({"specversion": None}, "/specversion"),
    ({"id": None}, "/id"),
    ({"id": ""}, "/id"),
    ({"id": 5}, "/id"),
    ({"id": "x" * 129}, "/id"),
    ({"source": ""}, "/source"),
    ({"source": "a\nb"}, "/source"),
    ({"type": True}, "/type"),
    ({"type": "ü" * 128}, "/type"),
    ({"time": "yesterday"}, "/time"),
    ({"time": 5}, "/time"),
    ({"subject": ""}, "/subject"),
    ({"subject": "a\0b"}, "/subject"),
    ({"dataschema": 1}, "/dataschema"),
    ({"bad_name": "x"}, "/bad_name"),
    ({"Capital": "x"}, "/Capital"),
    ({"a/b": "x"}, "/a~1b"),
    ({"": "x"}, "/"),
    ({"number": 2**31}, "/number"),
    ({"fraction": 1.5}, "/fraction"),
    ({"object": {}}, "/object"),
    ({"long": "x" * 4097}, "/long"),
    ({"data": 1, "data_base64": "AA=="}, "/data_base64"),
    ({"data_base64": "AA="}, "/data_base64"),
    ({"data_base64": 5}, "/data_base64"),
]


@pytest.mark.parametrize(("members", "pointer"), REFUSED)
def test_what_is_wrong_is_said(members: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Rejected) as error:
        structured(members)
    assert error.value.code == "INVALID_EVENT"
    assert [flaw.pointer for flaw in error.value.flaws] == [pointer]


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'{"specversion":"1.0"', b"\xff", b'{"a":' * 2000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Rejected, match="the event"):
        read_structured(body, Limits(), NOW, new_id)


def test_the_limits_hold() -> None:
    with pytest.raises(Rejected, match="the limit is 10") as error:
        structured({}, Limits(event_bytes=10))
    assert error.value.code == "EVENT_TOO_LARGE"
    with pytest.raises(Rejected, match="nested deeper than 2 levels"):
        structured({"data": [[[1]]]}, Limits(depth=2))
    two = Limits(metadata=2)
    assert structured({"subject": "a", "ext": "b"}, two)
    with pytest.raises(Rejected, match="the limit is 2 beside the 4 required ones"):
        structured({"subject": "a", "ext": "b", "more": "c"}, two)
    with pytest.raises(Rejected, match="the limit is 10"):
        read_binary(Binary({}, b"", b"x" * 11), Limits(event_bytes=10), NOW, new_id)


# The binary mode.


def test_headers_are_attributes_and_the_body_is_the_data() -> None:
    found, data = binary({"Subject": "a", "EXT": "5", "time": "2024-01-31T12:00:00Z"}, b'{"a": 1.0}')
    assert (found.event_id, found.source, found.event_type, found.timestamp) == (
        "1", "/shop", "order.created", "2024-01-31T12:00:00Z"
    )  # fmt: skip
    assert found.cloudevent == {
        "specversion": "1.0",
        "subject": "a",
        "ext": "5",
        "time": "2024-01-31T12:00:00Z",
        "datacontenttype": "application/json",
    }
    assert (bytes(found.data), data) == (b'{"a": 1.0}', {"a": 1.0})


VALUES = [
    ("plain", "plain"),
    ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € \U0001f600"),
    ("%e2%82%ac", "€"),
    ("%41", "A"),
    ("%2541", "%41"),
    ("100%", "100%"),
    ("  a b \t", "a b"),
    ('"a \\"b\\" %20"', 'a "b"  '),
    ('"', '"'),
    ('a"b', 'a"b'),
    ("\xc3\xbc", "ü"),
]


@pytest.mark.parametrize(("sent", "meant"), VALUES)
def test_values_are_unescaped_and_decoded_once(sent: str, meant: str) -> None:
    assert binary({"ext": sent})[0].cloudevent["ext"] == meant


@pytest.mark.parametrize("value", ["%C0%A0", "%ff", "\xff", "%E2%82", "a%00b", "%0d%0a"])
def test_bad_utf8_and_control_characters_are_refused(value: str) -> None:
    with pytest.raises(Rejected) as error:
        binary({"ext": value})
    assert [flaw.pointer for flaw in error.value.flaws] == ["/ext"]


@pytest.mark.parametrize(
    ("content_type", "body", "data", "kept"),
    [
        ("application/json", b' {"a": 1}\n', b' {"a": 1}\n', None),
        ("Application/Cloud+JSON; charset=utf-8", b'"[1]"', b'"[1]"', None),
        ("", b"[1]", b"[1]", None),
        ("text/plain", b'{"a": 1}', b'"{\\"a\\": 1}"', None),
        ("text/plain", "ü\n".encode(), '"ü\\n"'.encode(), None),
        ("application/jsonp", b"1", b'"1"', None),
        ("application/octet-stream", b"\x00\xff", b"null", "AP8="),
    ],
)
def test_the_data_by_its_type(content_type: str, body: bytes, data: bytes, kept: str | None) -> None:
    found, _ = binary({}, body, content_type.encode())
    assert bytes(found.data) == data
    assert found.cloudevent.get("data_base64") == kept
    assert found.cloudevent.get("datacontenttype") == (content_type or None)


@pytest.mark.parametrize(
    ("headers", "pointer"),
    [
        ({"datacontenttype": "a/b"}, ""),
        ({"data": "x"}, ""),
        ({"data_base64": "x"}, "/data_base64"),
        ({"time": "now"}, "/time"),
        ({"my-ext": "x"}, "/my-ext"),
        ({"": "x"}, "/"),
        ({"specversion": "2"}, "/specversion"),
        ({"id": ""}, "/id"),
        ({"ID": "other"}, "/id"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(headers: dict[str, str], pointer: str) -> None:
    with pytest.raises(Rejected) as error:
        binary(headers)
    assert [flaw.pointer for flaw in error.value.flaws] == [pointer]


@pytest.mark.parametrize("name", LEAST)
def test_a_missing_header_is_named(name: str) -> None:
    given = [(each, value) for each, value in LEAST.items() if each != name]
    with pytest.raises(Rejected) as error:
        binary(given)
    assert error.value.flaws[0].pointer == "/" + name


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[1] 2", b"NaN", b"9" * 5000])
def test_data_that_is_said_to_be_json_and_is_not(body: bytes) -> None:
    with pytest.raises(Rejected) as error:
        binary({}, body)
    assert error.value.flaws[0].pointer == "/data"
    assert isinstance(error.value.flaws[0], Flaw)
