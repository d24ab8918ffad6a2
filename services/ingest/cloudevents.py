"""CloudEvents 1.0 as events: the JSON format, and the binary mode of the HTTP binding. Pure: what was sent in, ``Event`` out, or
``Rejected``.

``id``, ``source`` and ``type`` are those of the event, ``time`` its timestamp. All attributes but the first three are kept as
received, so that the ``cloudevents`` formats of a target give back the same event. Data that is neither JSON nor text is kept as
``data_base64``.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw

from tas_mcp.errors import Flaw
from tas_mcp.messages import JSON_NULL, Event, encode
from tas_mcp.submission import (
    MAX_ID_BYTES,
    MAX_NAME_BYTES,
    Limits,
    check_data,
    check_size,
    check_text,
    invalid,
    is_time,
    plain,
    refuse,
)
from tas_mcp.validation import escape, flaw

MAX_VALUE_BYTES = 4096
MAX_INTEGER = 2**31 - 1
REQUIRED = 4
TEXTS = ("datacontenttype", "dataschema", "subject", "time")
"""The optional attributes of the specification; an extension may also be a number or a boolean, or empty."""

Attributes = dict[str, bool | int | str]
NewId = Callable[[int], str]

_NAME = re.compile(r"[a-z0-9]+").fullmatch
_JSON_TYPE = re.compile(r"[^;/]+/([^;/]+\+)?json[ \t]*(;|$)").match
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"').fullmatch
_ESCAPED = re.compile(r"\\(.)")

_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_value = msgspec.json.Decoder(bool | int | str | None).decode
_decode_text = msgspec.json.Decoder(str).decode


class Binary(NamedTuple):
    """A request in the binary mode: its attributes (see ``attribute``), its Content-Type and its body."""

    attributes: Mapping[str, str]
    content_type: bytes
    body: bytes


def attribute(header: bytes, raw: bytes) -> tuple[str, str]:
    """The name and the value of an attribute that was sent as this header (HTTP binding 3.1.3): what a quoted string holds, then
    percent-decoded once. (A name of up to 40 letters and digits with a value of up to 128 visible characters, without quotes and
    percent signs, is what it is, in lower case.)

    Raises:
        Rejected: ``INVALID_EVENT``.
    """
    name = header[3:].decode("latin-1").lower()
    text = _utf8(name, raw).strip(" \t")
    if text[:1] == '"' and (quoted := _QUOTED(text)):
        text = _ESCAPED.sub(r"\1", quoted.group(1))
    if "%" in text:
        text = _utf8(name, unquote_to_bytes(text))
    _check(name, text)
    return name, text


def attributes(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The attributes among the headers of a request; raises as ``attribute`` does."""
    found: dict[str, str] = {}
    for header, raw in headers:
        if header[:3].lower() == b"ce-":
            name, value = attribute(header, raw)
            if name in found:
                refuse("/" + name, f"the header ce-{name} is there twice")
            found[name] = value
    return found


def read_structured(body: bytes | Raw, limits: Limits, now_ns: int, _: NewId) -> tuple[Event, object]:
    """One event in the JSON format; for the rest see ``tas_mcp.submission.read``."""
    check_size(len(body), limits)
    try:
        members = _decode(body)
    except (ValueError, RecursionError) as error:
        raise invalid(flaw(error)) from None
    data, encoded = members.pop("data", JSON_NULL), members.pop("data_base64", JSON_NULL)
    found: Attributes = {}
    for name, raw in members.items():
        try:
            value = _decode_value(raw)
        except (ValueError, RecursionError):
            refuse("/" + escape(name), "an attribute is a string, an integer or a boolean")
        if value is not None:  # null stands for an attribute that is not there
            _check(name, value)
            found[name] = value
    if encoded != JSON_NULL:
        if data != JSON_NULL:
            refuse("/data_base64", "an event has data or data_base64, not both")
        return _event(found, JSON_NULL, _base64(encoded), limits, now_ns), None
    value = None if data == JSON_NULL else check_data(data, limits.depth)
    return _event(found, data, None, limits, now_ns), value


def read_binary(given: Binary, limits: Limits, now_ns: int, _: NewId) -> tuple[Event, object]:
    """One event in the binary mode. A flaw of a header points to the attribute, as if it had been sent in the JSON format."""
    check_size(len(given.body), limits)
    found: Attributes = dict(given.attributes)
    if "data" in found or "datacontenttype" in found:
        refuse("", "data is the body and datacontenttype the Content-Type: they must not be sent as ce- headers")
    if given.content_type:
        found["datacontenttype"] = _data_type(given.content_type)
    if not given.body:
        return _event(found, JSON_NULL, None, limits, now_ns), None
    if not given.content_type or _is_json(given.content_type):
        data = Raw(given.body)
    else:
        try:
            data = Raw(encode(given.body.decode()))
        except UnicodeDecodeError:
            return _event(found, JSON_NULL, b64encode(given.body).decode(), limits, now_ns), None
    value = check_data(data, limits.depth)
    return _event(found, data, None, limits, now_ns), value


def _event(attributes: Attributes, data: Raw, data_base64: str | None, limits: Limits, now_ns: int) -> Event:
    if len(attributes) > limits.metadata + REQUIRED:
        refuse("", f"has {len(attributes)} attributes; the limit is {limits.metadata} beside the {REQUIRED} required ones")
    if attributes.get("specversion") != "1.0":
        refuse("/specversion", 'must be "1.0"')
    event_id = _required(attributes, "id", MAX_ID_BYTES)
    source = _required(attributes, "source", MAX_NAME_BYTES)
    event_type = _required(attributes, "type", MAX_NAME_BYTES)
    time = attributes.get("time")
    if time is not None and not (isinstance(time, str) and is_time(time)):
        refuse("/time", f"{str(time)[:64]!r} is no RFC 3339 time")
    if data_base64 is not None:
        attributes["data_base64"] = data_base64
    return Event(
        event_id=event_id,
        event_type=event_type,
        source=source,
        timestamp=now_ns // 1_000_000_000 if time is None else time,
        accepted_at=now_ns,
        data=data,
        cloudevent=attributes,
    )


def _required(attributes: Attributes, name: str, limit: int) -> str:
    value = attributes.pop(name, None)
    if value is None:
        refuse("/" + name, "the attribute is missing")
    if not isinstance(value, str):
        refuse("/" + name, "must be a string")
    if not (0 < len(value) <= limit and plain(value)):
        check_text("/" + name, value, limit)
    return value


def _check(name: str, value: bool | int | str) -> None:
    """Hold an attribute against the type system of the specification (CloudEvents 3.1), and our limits."""
    pointer = "/" + escape(name)
    if not _NAME(name) or len(name) > MAX_NAME_BYTES:
        refuse(pointer, "the name of an attribute is made of the letters a-z and digits")
    if not isinstance(value, str):
        if name in TEXTS:
            refuse(pointer, "must be a string")
        if abs(value) > MAX_INTEGER:
            refuse(pointer, f"an integer lies within {-MAX_INTEGER} and {MAX_INTEGER}")
    elif (value or name in TEXTS) and not (0 < len(value) <= MAX_VALUE_BYTES and plain(value)):
        check_text(pointer, value, MAX_VALUE_BYTES)


def _utf8(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        refuse("/" + escape(name), "the header is no UTF-8")


@lru_cache(maxsize=1024)
def _data_type(content_type: bytes) -> str:
    """The attribute that is sent as the Content-Type."""
    text = _utf8("datacontenttype", content_type)
    _check("datacontenttype", text)
    return text


@lru_cache(maxsize=1024)
def _is_json(content_type: bytes) -> bool:
    """Whether data of this type is JSON (RFC 6839: ``application/json``, ``application/geo+json`` ...)."""
    return _JSON_TYPE(content_type.decode("latin-1").lower()) is not None


def _base64(raw: Raw) -> str:
    """The base64 text of ``data_base64``, checked."""
    try:
        text = _decode_text(raw)
        b64decode(text, validate=True)
    except ValueError as error:
        raise invalid(Flaw("/data_base64", f"is no base64 text: {error}")) from None
    return text
