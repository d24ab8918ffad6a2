"""What clients may submit: each check names the member and the limit; what is taken passes byte for byte."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.errors import Rejected
from tas_mcp.messages import Event, decode_event, encode
from tas_mcp.submission import Limits, read

NOW = 1_700_000_000_123_456_789
LIMITS = Limits()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read_now(body: bytes, limits: Limits = LIMITS) -> Event:
    return read(body, limits, NOW, lambda now: f"made-{now}")[0]


def event(**members: Any) -> bytes:
    return json.dumps({"event_type": "user.created", "source": "auth", **members}).encode()


def raw(data: str) -> bytes:
    return b'{"event_type":"a","source":"b","data":%s}' % data.encode()


def refused(body: bytes, limits: Limits = LIMITS) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read_now(body, limits)
    return caught.value


def refusal(body: bytes) -> Rejected | None:
    try:
        read_now(body)
    except Rejected as error:
        return error
    return None


def test_all_members() -> None:
    body = (
        b'{"event_id": "evt-123", "event_type": "user.created", "source": "auth-service", "timestamp": 1703001234,'
        b' "data": {"user_id": "usr-456"}, "metadata": {"correlation_id": "req-789"}}'
    )
    assert read_now(body) == Event(
        event_id="evt-123",
        event_type="user.created",
        source="auth-service",
        timestamp=1703001234,
        accepted_at=NOW,
        data=msgspec.Raw(b'{"user_id": "usr-456"}'),
        metadata={"correlation_id": "req-789"},
    )


def test_defaults() -> None:
    found = read_now(event())
    assert (found.event_id, found.timestamp, found.metadata) == (f"made-{NOW}", NOW // 10**9, {})
    assert bytes(found.data) == b"null"


def test_empty_means_absent() -> None:
    found = read_now(event(event_id="", timestamp=None, metadata=None))
    assert (found.event_id, found.timestamp, found.metadata) == (f"made-{NOW}", NOW // 10**9, {})


@pytest.mark.parametrize(
    "members",
    [
        {"event_id": "x" * 128},
        {"event_id": "é" * 64},
        {"event_type": "x" * 255},
        {"source": "日" * 85},
        {"event_type": "with blank.and*and>"},
        {"timestamp": 0},
        {"timestamp": 253_402_300_799},
        {"timestamp": "2024-02-29T23:59:59Z"},
        {"timestamp": "2024-02-29t23:59:59.123456789+05:30"},
        {"metadata": {f"k{number}": "x" * 4096 for number in range(64)}},
        {"metadata": {"a/b": ""}},
    ],
)
def test_at_the_border(members: dict[str, Any]) -> None:
    found = read_now(event(**members))
    assert all(getattr(found, name) == value for name, value in members.items())


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (b'{"source":"a"}', "/event_type", "missing"),
        (b'{"event_type":"a"}', "/source", "missing"),
        (event(event_type=""), "/event_type", "must not be empty"),
        (event(source=""), "/source", "must not be empty"),
        (event(event_type=5), "/event_type", "Expected `str`"),
        (event(event_type="x" * 256), "/event_type", "has 256 bytes; the limit is 255"),
        (event(source="é" * 128), "/source", "has 256 bytes; the limit is 255"),
        (event(event_id="x" * 129), "/event_id", "has 129 bytes; the limit is 128"),
        (event(event_type="a\nb"), "/event_type", "control characters"),
        (event(source="a\u007f"), "/source", "control characters"),
        (event(event_id="a\u0085"), "/event_id", "control characters"),
        (event(extra=1), "/extra", "unknown field `extra`"),
        (event(**{"a/b": 1}), "/a~1b", "unknown field"),
        (event(timestamp=-1), "/timestamp", "between 0 and 253402300799"),
        (event(timestamp=253_402_300_800), "/timestamp", "between 0 and 253402300799"),
        (event(timestamp=10**30), "/timestamp", ""),
        (event(timestamp=1.5), "/timestamp", "Expected `int | str | null`"),
        (event(timestamp=True), "/timestamp", "Expected `int | str | null`"),
        (event(timestamp="yesterday"), "/timestamp", "neither Unix seconds nor an RFC 3339 time"),
        (event(timestamp="2024-02-30T00:00:00Z"), "/timestamp", "RFC 3339"),
        (event(timestamp="2024-01-01T25:00:00Z"), "/timestamp", "RFC 3339"),
        (event(timestamp="2024-01-01T00:00:00"), "/timestamp", "RFC 3339"),
        (event(timestamp="1703001234"), "/timestamp", "RFC 3339"),
        (event(metadata=[]), "/metadata", "Expected `object | null`"),
        (event(metadata={"a": 1}), "/metadata/*", "Expected `str`"),
        (event(metadata={f"k{n}": "" for n in range(65)}), "/metadata", "has 65 entries; the limit is 64"),
        (event(metadata={"a/b": "x" * 4097}), "/metadata/a~1b", "has 4097 characters; the limit is 4096"),
        (event(metadata={"": "x"}), "/metadata/", "must not be empty"),
        (event(metadata={"k" * 256: "x"}), "/metadata/" + "k" * 256, "has 256 bytes; the limit is 255"),
        (event(metadata={"a": "x\ry"}), "/metadata/a", "control characters"),
        (raw("[" * 33 + "]" * 33), "/data", "nested deeper than 32 levels"),
        (event(data="[" * 33 + "]" * 33), "/data", "nested deeper than 32 levels"),
        (event(data=" {" + '"a":{' * 32 + "}" * 33), "/data", "nested deeper than 32 levels"),
        (raw("[" * 100_000 + "]" * 100_000), "", "nested too deep"),
        (event(data="[" * 100_000 + "]" * 100_000), "/data", "nested too deep"),
        (raw("1e999"), "/data", "out of range"),
        (raw("[1,-1e999]"), "/data/1", "out of range"),
        (raw("9" * 5000), "/data", "out of range"),
        (raw("NaN"), "", "malformed"),
        (raw("Infinity"), "", "malformed"),
        (raw('{"a":1,}'), "", "malformed"),
        (raw('"a\nb"'), "", ""),
        (b"\xef\xbb\xbf" + event(), "", "malformed"),
        (event() + b"{}", "", "trailing characters"),
        (event()[:-1], "", "truncated"),
        (b'{"event_type":"a\xff","source":"b"}', "", "not UTF-8"),
        (b'{"event_type":"a","source":"b","data":"\xff"}', "/data", "not UTF-8"),
        (b'{"event_type":"a","source":"b","data":{"\xc3\x28":1}}', "/data", "not UTF-8"),
        (b"", "", "truncated"),
        (b"[]", "", "Expected `object`, got `array`"),
        (b"null", "", "Expected `object`, got `null`"),
    ],
)
def test_what_is_refused_and_why(body: bytes, pointer: str, detail: str) -> None:
    error = refused(body)
    assert error.code == "INVALID_EVENT"
    assert [flaw.pointer for flaw in error.flaws] == [pointer]
    assert detail in error.flaws[0].detail
    assert error.flaws[0].detail in error.detail
    assert (pointer or "the event") in error.detail


def test_limits_are_settings() -> None:
    limits = Limits(event_bytes=100, depth=1, metadata=1)
    assert refused(event(source="x" * 100), limits).code == "EVENT_TOO_LARGE"
    assert "the limit is 100" in refused(event(source="x" * 100), limits).detail
    assert "deeper than 1 levels" in refused(raw("[[]]"), limits).detail
    assert "the limit is 1" in refused(event(metadata={"a": "", "b": ""}), limits).detail
    exact = event(source="x" * (100 - len(event(source=""))))
    assert len(exact) == 100
    assert read_now(exact, limits).source.startswith("x")
    assert bytes(read_now(raw("[5]"), limits).data) == b"[5]"


@pytest.mark.parametrize(
    "data",
    [
        '{"b":1, "a":[1.0,1e2,-0,0.10]}',
        '{"a":1,"a":2}',
        '"\\u00e9\\/\\n"',
        '"é\U0001f600"',
        "123456789012345678901234567890",
        "1.000000000000000000000001",
        "[" * 32 + "]" * 32,
        '"{not json"',
        '"[1,2"',
        '"{\\"a\\": 1}"',
        '"' + "[" * 50 + '"',
        "true",
        "[ 1 , 2 ]",
    ],
)
def test_data_passes_byte_for_byte(data: str) -> None:
    found = read_now(raw(data))
    assert bytes(found.data) == data.encode()
    assert bytes(decode_event(encode(found)).data) == data.encode()


@given(JSON, st.booleans(), st.sampled_from([None, 1, 3]))
def test_any_json_passes_byte_for_byte(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert bytes(read_now(raw(text)).data) == text.encode()


@given(
    st.binary(max_size=300)
    | st.text(max_size=100).map(lambda text: event(data=text)[:-1])
    | JSON.map(lambda v: json.dumps(v).encode())
)
def test_nothing_raises_anything_else(body: bytes) -> None:
    error = refusal(body)
    assert error is None or (error.detail and error.flaws)


@given(st.data())
def test_a_broken_event_is_refused_or_read(data: st.DataObject) -> None:
    """Bytes of a good event, changed here and there."""
    body = bytearray(event(event_id="e", timestamp=5, metadata={"a": "b"}, data={"x": [1, "é", {"y": None}]}))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    if refusal(bytes(body)) is None:
        found = read_now(bytes(body))
        assert decode_event(encode(found)) == found
