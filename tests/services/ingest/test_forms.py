"""Which form a request has, and how a batch becomes entries."""

import pytest

from services.ingest.forms import ARRAY, BATCHED, BINARY, COMMAS, JSON, LINES, STRUCTURED, Form, Split, array, form_of, lines
from tas_mcp.errors import Rejected


@pytest.mark.parametrize(
    ("content_type", "single", "many"),
    [
        ("", JSON, ARRAY),
        ("application/json", JSON, ARRAY),
        ("Application/JSON ; charset=UTF-8", JSON, ARRAY),
        ("application/octet-stream", JSON, ARRAY),
        ("application/x-www-form-urlencoded", JSON, ARRAY),
        ("application/json; charset=latin-1", None, None),
        ("application/x-ndjson", None, LINES),
        ("application/ndjson", None, LINES),
        ("application/jsonl; charset=utf-8", None, LINES),
        ("application/x-ndjson; charset=utf-16", None, None),
        ("application/cloudevents+json", STRUCTURED, None),
        ("APPLICATION/CLOUDEVENTS+JSON; charset=UTF-8", STRUCTURED, None),
        ("application/cloudevents-batch+json", None, BATCHED),
        ("application/cloudevents+xml", None, None),
        ("application/cloudevents", None, None),
        ("application/cloudevents-batch+protobuf", None, None),
        ("text/plain", None, None),
    ],
)
def test_the_content_type_decides(content_type: str, single: Form | None, many: Form | None) -> None:
    assert (found(content_type), found(content_type, many=True)) == (single, many)


def found(content_type: str, *, many: bool = False, attributed: bool = False, foreign: bool = False) -> Form | None:
    try:
        return form_of(content_type, many=many, attributed=attributed, foreign=foreign)
    except Rejected:
        return None


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain; charset=latin-1", "image/png"])
def test_with_ce_headers_the_content_type_is_that_of_the_data(content_type: str) -> None:
    assert found(content_type, attributed=True) is BINARY


def test_the_structured_mode_goes_before_the_headers() -> None:
    assert found("application/cloudevents+json", attributed=True) is STRUCTURED
    assert found("application/cloudevents+xml", attributed=True) is None
    assert found("application/json", many=True, attributed=True) is ARRAY


def test_a_form_of_a_foreign_page_is_refused() -> None:
    assert found("application/x-www-form-urlencoded", foreign=True) is None
    assert found("application/json", foreign=True) is JSON


def test_a_refusal_names_the_right_route_and_types() -> None:
    with pytest.raises(
        Rejected, match="goes to /api/v1/events/batch: this route takes application/json, application/cloudevents"
    ):
        form_of("application/x-ndjson", many=False, attributed=False, foreign=False)
    with pytest.raises(Rejected, match=r"goes to /api/v1/events: this route takes .*application/cloudevents-batch"):
        form_of("application/cloudevents+json", many=True, attributed=False, foreign=False)


@pytest.mark.parametrize(
    ("body", "entries"),
    [
        (b"{}", [b"{}"]),
        (b"{}\n", [b"{}"]),
        (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
        (b"\n\n {} \n\nx\n\n", [b"{}", b"x"]),
    ],
)
def test_lines(body: bytes, entries: list[bytes]) -> None:
    assert lines(body, 100, 4) == entries


@pytest.mark.parametrize(("split", "five"), [(array, b"[1,2,3,4,5]"), (lines, b"1\n2\n3\n4\n5\n")])
def test_the_limits_of_a_batch(split: Split, five: bytes) -> None:
    assert len(split(five, len(five), 5)) == 5
    for max_bytes, max_events in ((len(five) - 1, 5), (len(five), 4)):
        with pytest.raises(Rejected, match="the limit is") as error:
            split(five, max_bytes, max_events)
        assert error.value.code == "BATCH_TOO_LARGE"


def test_a_flood_of_blank_lines_is_refused_before_it_is_read() -> None:
    with pytest.raises(Rejected, match="the limit is 5"):
        lines(b"1" + b"\n" * 10 + b"2", 100, 5)


@pytest.mark.parametrize("body", [b"", b"\n \n"])
def test_nothing_is_no_batch(body: bytes) -> None:
    with pytest.raises(Rejected, match="the batch is empty"):
        lines(body, 100, 5)


WIDE = b"[%s]" % b",".join([b"0"] * COMMAS)
"""An entry with so many commas that entries are counted before they are made."""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[%s,%s]" % (WIDE, WIDE), ""),
        (b"[%s,0,0]" % WIDE, ""),
        (b"[%s,0,0,0]" % WIDE, "BATCH_TOO_LARGE"),
        (b"[%s]" % (b"{}," * (COMMAS + 1) + b"{}"), "BATCH_TOO_LARGE"),
        (b"[%s" % (b"{}," * COMMAS), "INVALID_EVENT"),
        (b'{"a":%s,"b":[0,0]}' % WIDE, "INVALID_EVENT"),
        (b"[" * COMMAS + b"," * COMMAS, "INVALID_EVENT"),
    ],
    ids=["wide ones", "three", "four", "a flood", "not ended", "an object", "deep"],
)
def test_entries_are_counted_before_they_are_made(body: bytes, code: str) -> None:
    if not code:
        assert len(array(body, 1_000_000, 3)) <= 3
        return
    with pytest.raises(Rejected) as refused:
        array(body, 1_000_000, 3)
    assert refused.value.code == code
    assert code == "INVALID_EVENT" or "more than 3 events" in refused.value.detail, "how many it has was found by making them"
