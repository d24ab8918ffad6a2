"""Events by gRPC and by HTTP: both take the same, and both refuse the same."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.grpc.events import SMALL_BYTES, decode, decode_batch, read
from tas_mcp import submission
from tas_mcp.errors import Rejected
from tas_mcp.messages import encode
from tas_mcp.submission import Limits
from tas_mcp.v1 import mcp_pb2

LIMITS = Limits(event_bytes=2000, depth=4, metadata=3)
NOW = 1_700_000_000_123_456_789

TEXTS = st.text(max_size=6) | st.sampled_from(["", "a", "ä" * 128, "x" * 128, "x" * 129, "x" * 255, "x" * 256, "a\x7f", "a\n"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
DATA = JSON.map(json.dumps) | JSON.map(lambda value: json.dumps(json.dumps(value))) | st.sampled_from(
    ["1e999", "NaN", '{"a":', "[" * 5 + "]" * 5, '"' + "x" * 1990 + '"', '"\\ud800"', "01"]
)  # fmt: skip
METADATA = st.dictionaries(TEXTS, TEXTS | st.just("x" * 4097), max_size=4)


def outcome(reader: Any, form: Any) -> Any:
    """The event as it is stored, and its data; or what is refused and why."""
    try:
        event, data = reader(form, LIMITS, NOW, lambda _: "made")
        return encode(event), data
    except Rejected as error:
        return error.code, error.flaws


@given(st.fixed_dictionaries({"event_id": TEXTS, "event_type": TEXTS, "source": TEXTS}), st.integers(-5, 2**40), DATA, METADATA)
@example({"event_id": "", "event_type": "a", "source": "s"}, 253_402_300_800, "null", {})
def test_they_take_and_refuse_the_same(names: dict[str, str], timestamp: int, data: str, metadata: dict[str, str]) -> None:
    message = mcp_pb2.Event(**names, timestamp=timestamp, data=data, metadata=metadata)
    members: dict[str, Any] = {**names, "data": msgspec.Raw(data.encode()), "metadata": metadata}
    if timestamp:  # 0 is what proto3 says where there is none
        members["timestamp"] = timestamp
    by_grpc = outcome(read, decode(mcp_pb2.Event, message.SerializeToString()))
    by_http = outcome(submission.read, msgspec.json.encode(members))
    if "EVENT_TOO_LARGE" in (by_grpc[0], by_http[0]):  # the forms of one event have not the same size
        return
    if by_http[0] == "INVALID_EVENT" and not by_http[1][0].pointer:  # its data broke the JSON around it
        assert by_grpc[0] == "INVALID_EVENT"
        return
    if "/metadata" in str(by_grpc[1]) and "/metadata" in str(by_http[1]):  # the entries of a protobuf map have no order
        assert by_grpc[0] == by_http[0]
        return
    assert by_grpc == by_http


def test_data_is_kept_byte_for_byte() -> None:
    event, data = read(mcp_pb2.Event(event_type="a", source="s", data='{"n": 1.50,  "m":[]}'), LIMITS, NOW, str)
    assert (bytes(event.data), data) == (b'{"n": 1.50,  "m":[]}', {"n": 1.5, "m": []})


@pytest.mark.parametrize("data", ["{", "hello", "{} {}", '1,"event_id":"x"', "\x00"])
def test_data_that_is_no_json_is_refused(data: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(mcp_pb2.Event(event_type="a", source="s", data=data), LIMITS, NOW, str)
    assert caught.value.flaws[0].pointer == "/data"


def test_an_event_that_is_too_large_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        read(mcp_pb2.Event(event_type="a", source="s", data=f'"{"x" * 2000}"'), LIMITS, NOW, str)
    assert caught.value.code == "EVENT_TOO_LARGE"
    assert str(caught.value).startswith("the event has 2011 bytes")


@pytest.mark.parametrize("size", [10, SMALL_BYTES // 2])
def test_a_batch_of_too_many_events_is_refused(size: int) -> None:
    with pytest.raises(Rejected, match="more than 9 events"):
        decode_batch(b"\x12\x00" * size, 9)


def test_a_batch_of_very_many_events_is_refused_before_it_is_read() -> None:
    """Read they would take half a gigabyte. What is broken behind them is not seen."""
    with pytest.raises(Rejected, match="more than 1000 events"):
        decode_batch(b"\x12\x00" * 5_000_000 + b"\xff", 1000)


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=20))
def test_a_large_batch_is_read_as_a_small_one(sizes: list[int], sequence: int, rest: bytes) -> None:
    """Whatever its fields are; ``rest`` may be fields that are not known, or none."""
    events = [mcp_pb2.Event(event_type="a", source="x" * size) for size in [*sizes, SMALL_BYTES]]
    body = mcp_pb2.EventBatch(sequence=sequence, events=events).SerializeToString() + rest
    wanted, found = (_text(read) for read in (lambda: decode(mcp_pb2.EventBatch, body), lambda: decode_batch(body, 100)))
    assert found == wanted
    with pytest.raises(Rejected):
        decode_batch(body, len(sizes))


def _text(batch: Callable[[], mcp_pb2.EventBatch]) -> str:
    """A batch, or why it cannot be read."""
    try:
        return str(batch())
    except Rejected as error:
        return error.detail
