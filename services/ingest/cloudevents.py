"""CloudEvents 1.0 as events: the JSON format, and the binary mode of the HTTP binding. Pure: what was sent in, ``Event`` out, or
``Rejected``.

``id``, ``source`` and ``type`` are those of the event, ``time`` its timestamp. All attributes but the first three are kept as
received, so that the ``cloudevents`` formats of a target give back the same event. Data that is neither JSON nor text is kept as
``data_base64``.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
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
TEXTS = ("datacontenttype", "dataschema", "subject", "time")
"""The optional attributes of the specification; an extension may also be a number or a boolean, and empty."""

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
    """A request in the binary mode: its ``ce-`` headers without that prefix, as they were sent, its Content-Type and its body."""

    attributes: Sequence[tuple[bytes, bytes]]
    content_type: bytes
    body: bytes


def read_structured(body: bytes | Raw, limits: Limits, now_ns: int, _: NewId) -> tuple[Event, object]:
    """One event in the JSON format; for the rest see ``tas_mcp.submission.read``."""
    check_size(len(body), limits)
    try:
        members = _decode(body)
    except (ValueError, RecursionError) as error:
        raise invalid(flaw(error)) from None
    data, encoded = members.pop("data", JSON_NULL), members.pop("data_base64", JSON_NULL)
    attributes: Attributes = {}
    for name, raw in members.items():
        try:
            value = _decode_value(raw)
        except (ValueError, RecursionError):
            refuse("/" + escape(name), "an attribute is a string, an integer or a boolean")
        if value is not None:  # null stands for an attribute that is not there
            attributes[name] = value
    if encoded != JSON_NULL:
        if data != JSON_NULL:
            refuse("/data_base64", "an event has data or data_base64, not both")
        return _event(attributes, JSON_NULL, _base64(encoded), limits, now_ns), None
    value = None if data == JSON_NULL else check_data(data, limits.depth)
    return _event(attributes, data, None, limits, now_ns), value


def read_binary(given: Binary, limits: Limits, now_ns: int, _: NewId) -> tuple[Event, object]:
    """One event in the binary mode. A flaw of a header points to the attribute, as if it had been sent in the JSON format."""
    check_size(len(given.body), limits)
    attributes: Attributes = {}
    for header, raw in given.attributes:
        name = header.decode("latin-1").lower()
        if name in attributes:
            refuse("/" + escape(name), f"the header ce-{name} is there twice")
        attributes[name] = _text(name, raw)
    if "datacontenttype" in attributes:
        refuse("/datacontenttype", "it is the Content-Type, and must not be sent as a ce- header")
    if given.content_type:
        attributes["datacontenttype"] = _utf8("datacontenttype", given.content_type)
    if not given.body:
        return _event(attributes, JSON_NULL, None, limits, now_ns), None
    if not given.content_type or _is_json(given.content_type):
        data = Raw(given.body)
    else:
        try:
            data = Raw(encode(given.body.decode()))
        except UnicodeDecodeError:
            return _event(attributes, JSON_NULL, b64encode(given.body).decode(), limits, now_ns), None
    value = check_data(data, limits.depth)
    return _event(attributes, data, None, limits, now_ns), value


def _event(attributes: Attributes, data: Raw, data_base64: str | None, limits: Limits, now_ns: int) -> Event:
    _check(attributes, limits)
    if attributes.get("specversion") != "1.0":
        refuse("/specversion", 'must be "1.0"')
    event_id = _required(attributes, "id", MAX_ID_BYTES)
    source = _required(attributes, "source", MAX_NAME_BYTES)
    event_type = _required(attributes, "type", MAX_NAME_BYTES)
    time = attributes.get("time")
    if data_base64 is not None:
        attributes["data_base64"] = data_base64
    return Event(
        event_id=event_id,
        event_type=event_type,
        source=source,
        timestamp=time if isinstance(time, str) else now_ns // 1_000_000_000,
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


def _check(attributes: Attributes, limits: Limits) -> None:
    """Hold names and values against the type system of the specification (CloudEvents 3.1), and our limits."""
    if len(attributes) > limits.metadata + 4:
        refuse("", f"has {len(attributes)} attributes; the limit is {limits.metadata} beside the required ones")
    for name, value in attributes.items():
        if isinstance(value, str) and 0 < len(value) <= MAX_VALUE_BYTES and plain(value) and _known(name):
            continue
        pointer = "/" + escape(name)
        if not _NAME(name) or len(name) > MAX_NAME_BYTES or name in ("data", "data_base64"):
            refuse(pointer, "the name of an attribute is made of the letters a-z and digits, and is not data")
        if not isinstance(value, str):
            if name in TEXTS:
                refuse(pointer, "must be a string")
            if abs(value) > MAX_INTEGER:
                refuse(pointer, f"an integer lies within {-MAX_INTEGER} and {MAX_INTEGER}")
        elif value or name in TEXTS:
            check_text(pointer, value, MAX_VALUE_BYTES)
    time = attributes.get("time", "")
    if time and not is_time(str(time)):
        refuse("/time", f"{str(time)[:64]!r} is no RFC 3339 time")


@lru_cache(maxsize=1024)
def _known(name: str) -> bool:
    """Whether the name is sound. (An event has few; most are seen again and again.)"""
    return _NAME(name) is not None and len(name) <= MAX_NAME_BYTES and name not in ("data", "data_base64")


def _text(name: str, raw: bytes) -> str:
    """The value of a header (HTTP binding 3.1.3.2): what a quoted string holds, then percent-decoded once."""
    text = _utf8(name, raw).strip(" \t")
    if text[:1] == '"' and (quoted := _QUOTED(text)):
        text = _ESCAPED.sub(r"\1", quoted.group(1))
    return _utf8(name, unquote_to_bytes(text)) if "%" in text else text


def _utf8(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        refuse("/" + escape(name), "the header is no UTF-8")


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
