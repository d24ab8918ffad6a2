"""A CloudEvent that comes in goes out unchanged: through the forms of ingest, what is stored, and the formats of a target; and
the reference SDK writes and reads it as we do."""

import json
from base64 import b64decode, b64encode
from typing import Any

import msgspec
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from services.forward.cloudevents import DATA, STRUCTURED, data_type, header, header_lines, structured, text
from services.forward.formats import FORMATS
from services.ingest.cloudevents import Binary, attributes, read_binary, read_structured
from tas_mcp.messages import Event, decode_event, encode
from tas_mcp.submission import Limits

LIMITS = Limits(depth=10)

values = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)
names = st.text("abcxyz019", min_size=1, max_size=8).filter(lambda name: name not in ("id", "source", "type", "time", "data"))
types = st.sampled_from(["application/json", "text/json; charset=utf-8", "application/geo+json", "text/plain", "image/png"])
json_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=10) | st.sampled_from(['{"a":1}', "[1]", "{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
required = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": values, "source": values, "type": values},
    optional={
        "time": st.sampled_from(["2024-01-31T12:00:00Z", "2024-01-31t12:00:00.123456789+01:00"]),
        "subject": values,
        "dataschema": st.just("https://x/schema"),
    },
)
extensions = st.dictionaries(names, values | st.booleans() | st.integers(-(2**31) + 1, 2**31 - 1), max_size=3)


def stored(event: Event) -> Event:
    """What a target's lane has of it."""
    return decode_event(encode(event))


def from_structured(body: bytes) -> Event:
    return stored(read_structured(body, LIMITS, 1, str)[0])


def from_binary(headers: dict[str, str], body: bytes) -> Event:
    sent = attributes((name.encode(), value.encode()) for name, value in headers.items())
    return stored(read_binary(Binary(sent, headers.get("content-type", "").encode(), body), LIMITS, 1, str)[0])


def binary(event: Event) -> tuple[dict[str, str], bytes]:
    """What a target with the format ``cloudevents-binary`` gets."""
    lines = header_lines(event).removesuffix("\r\n").split("\r\n")
    return {**dict(line.split(": ", 1) for line in lines), "content-type": data_type(event)}, FORMATS["cloudevents-binary"](event)


@given(required, extensions, st.none() | st.just("application/json"), json_data)
def test_structured_to_structured(own: dict[str, Any], more: dict[str, Any], content_type: str | None, data: Any) -> None:
    sent = {
        **more,
        **own,
        **({"datacontenttype": content_type} if content_type else {}),
        **({} if data is None else {"data": data}),
    }
    found = json.loads(structured(from_structured(json.dumps(sent).encode())))
    assert found == sent


@given(required, extensions, st.binary(max_size=20))
def test_bytes_in_base64(own: dict[str, Any], more: dict[str, Any], data: bytes) -> None:
    sent = {**more, **own, "datacontenttype": "image/png", "data_base64": b64encode(data).decode()}
    event = from_structured(json.dumps(sent).encode())
    assert json.loads(structured(event)) == sent
    assert binary(event)[1] == data
    assert FORMATS["data"](event) == data


@given(
    required,
    st.dictionaries(names, values, max_size=3),
    types,
    st.binary(min_size=1, max_size=20) | values.map(str.encode),
    json_data,
)
def test_binary_to_binary(own: dict[str, str], more: dict[str, str], content_type: str, body: bytes, data: Any) -> None:
    if "json" in content_type:
        body = json.dumps(data).encode()
    headers = {f"ce-{name}": header(value) for name, value in {**more, **own}.items()} | {"content-type": content_type}
    assert binary(from_binary(headers, body)) == (headers, body)


@given(required, extensions, st.none() | types, json_data)
def test_structured_to_binary_and_back(own: dict[str, Any], more: dict[str, Any], content_type: str | None, data: Any) -> None:
    """Extensions come back as text, as headers have no types; a null is no data."""
    if content_type and "json" not in content_type:
        data = str(data)
    sent = {**more, **own, **({"datacontenttype": content_type} if content_type else {}), "data": data}
    headers, body = binary(from_structured(json.dumps(sent).encode()))
    found = json.loads(structured(from_binary(headers, body)))
    texts = {name: text(value) for name, value in {**more, **own}.items()}
    assert {"data": None, **found} == {**texts, "datacontenttype": content_type or DATA, "data": data}


@given(required, st.dictionaries(names, values, max_size=3), json_data.map(lambda data: {"a": data}))
def test_the_reference_sdk_writes_what_we_read_and_reads_what_we_write(
    own: dict[str, Any], more: dict[str, str], data: Any
) -> None:
    attributes = {**{f"e{name}": value for name, value in more.items()}, **own, "datacontenttype": DATA}
    attributes.pop("time", None)  # the SDK parses it, and writes it in its own way
    event = CloudEvent(attributes, data)
    in_binary, in_structured = to_binary(event, JSONFormat()), to_structured(event, JSONFormat())
    for read in (from_binary(dict(in_binary.headers), in_binary.body), from_structured(in_structured.body)):
        headers, body = binary(read)
        for message in (HTTPMessage(headers=headers, body=body), HTTPMessage({"content-type": STRUCTURED}, structured(read))):
            found = from_http_event(message)
            assert ({k: v for k, v in found.get_attributes().items() if v is not None}, found.get_data()) == (attributes, data)


def test_the_text_of_json_data_arrives_byte_for_byte() -> None:
    body = b'{"a" : 1.0, "b":"\\u00e9", "a": 2}'
    event = from_structured(b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":%s}' % body)
    assert FORMATS["data"](event) == binary(event)[1] == body
    assert structured(event).endswith(b'"data":%s}' % body)
    assert json.loads(FORMATS["tas"](event))["data"].encode() == body


def test_what_a_transform_made_of_the_data_goes_as_json() -> None:
    plain = from_binary(
        {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "content-type": "text/plain"}, b"x"
    )
    made = msgspec.structs.replace(plain, data=msgspec.Raw(b'{"a":1}'))
    assert binary(made)[0]["content-type"] == DATA
    assert json.loads(structured(made))["datacontenttype"] == DATA
    image = from_structured(
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"a/b","data_base64":"AA=="}'
    )
    made = msgspec.structs.replace(image, data=msgspec.Raw(b"[1]"))
    assert json.loads(structured(made))["data"] == [1]
    assert "data_base64" not in json.loads(structured(made))


def test_metadata_that_a_transform_adds_is_an_attribute_too() -> None:
    event = from_structured(b'{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"own"}')
    made = msgspec.structs.replace(event, metadata={"tier": "gold", "subject": "other"})
    assert json.loads(structured(made)) == {
        "specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": "own", "tier": "gold"
    }  # fmt: skip


def test_the_classic_format_shows_the_attributes() -> None:
    event = from_structured(b'{"specversion":"1.0","id":"1","source":"s","type":"t","n":5,"data_base64":"AA=="}')
    found = json.loads(FORMATS["tas"](event))
    assert found["cloudevent"] == {"specversion": "1.0", "n": 5, "data_base64": "AA=="}
    assert b64decode(found["cloudevent"]["data_base64"]) == b"\0"
