"""The view of an event: decoded at most once, both forms of data alike, and no failure whatever the text is."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tas_mcp.messages import Event
from tas_mcp.routing import MISSING, View, payload_text, view
from tests.shared.routing.reference import a_view, an_event, data_of, events


def raw_view(text: bytes) -> View:
    return View(msgspec.structs.replace(an_event(), data=Raw(text)))


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "text", "", [], {}, [1, {"a": None}], {"a": [1]}])
def test_data_is_the_json_value(value: object) -> None:
    assert a_view(value).data == value


@pytest.mark.parametrize("value", [{}, [], {"a": {"b": [1, "ü"]}}, [1]])
@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_a_string_that_holds_an_object_or_array_is_that(value: object, blank: str) -> None:
    text = blank + json.dumps(value) + blank
    assert a_view(text).data == value
    assert payload_text(an_event(text).data) == text.encode()


@pytest.mark.parametrize(
    "text",
    ["", " ", "1", "null", '"a"', "{", "{a: 1}", "[1,]", "{} {}", '{"a": "\\q"}', '["\\ud800 and"]', "[hi]"],
)
def test_any_other_string_stays_a_string(text: str) -> None:
    assert a_view(text).data == text
    raw = an_event(text).data
    assert payload_text(raw) == bytes(raw)


def test_a_string_is_unwrapped_once_only() -> None:
    inner = json.dumps(json.dumps({"a": 1}))
    assert a_view(inner).data == inner
    assert a_view(json.dumps([json.dumps({"a": 1})])).data == ['{"a": 1}']


DEEP = "[" * 100_000 + "]" * 100_000
HUGE = b'{"a":' + b"9" * 5000 + b"}"
UNDECODABLE = [b"", b"{", b"nan", b"1e999", b'"\\ud800"', b'"\xff"', b'["\xff"]', HUGE, DEEP.encode()]


@pytest.mark.parametrize("text", UNDECODABLE)
def test_what_cannot_be_decoded_is_missing_and_kept_as_text(text: bytes) -> None:
    assert raw_view(text).data is MISSING
    assert payload_text(Raw(text)) == text


def test_a_string_holding_json_that_cannot_be_decoded_is_missing() -> None:
    assert a_view('{"a": 1e999}').data is MISSING
    assert payload_text(an_event('{"a": 1e999}').data) == b'{"a": 1e999}'  # it is JSON all the same
    assert a_view(DEEP).data is MISSING
    assert payload_text(an_event(DEEP).data) == msgspec.json.encode(DEEP)


def test_payload_text_keeps_every_byte() -> None:
    assert payload_text(Raw(b'{ "a" : 1.0 }')) == b'{ "a" : 1.0 }'
    assert payload_text(Raw(b' "{\\"a\\":1.0}"')) == b'{"a":1.0}'


def test_data_is_decoded_once_and_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []

    def decode(text: object) -> object:
        decoded.append(text)
        return {"a": 1}

    monkeypatch.setattr(view, "_decode", decode)
    shown = a_view({"a": 1})
    assert shown.event.event_type == "user.created"
    assert decoded == []
    assert shown.data is shown.data
    assert len(decoded) == 1


def test_missing_is_remembered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = raw_view(b"{")
    assert shown.data is MISSING
    monkeypatch.setattr(view, "_decode", None)
    assert shown.data is MISSING


def test_a_view_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="dato"):
        a_view().dato  # noqa: B018


def test_missing_equals_no_json_value() -> None:
    values: list[object] = [None, False, 0, "", "missing", [], {}]
    assert MISSING not in values


@given(events())
def test_data_is_what_a_plain_reading_gives(event: Event) -> None:
    assert View(event).data == data_of(event)


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: json.dumps(text).encode()))
def test_reading_never_fails_and_the_two_readings_agree(text: bytes) -> None:
    value, payload = raw_view(text).data, payload_text(Raw(text))
    if payload != text:
        assert isinstance(value, dict | list)
        assert json.loads(payload) == value
