"""Events as CloudEvents 1.0. Pure.

``event_id``, ``source`` and ``event_type`` are ``id``, ``source`` and ``type``. What came as a CloudEvent goes with the
attributes that it came with; metadata becomes extension attributes (``subject`` and ``dataschema`` themselves), its names bare of
what an attribute's may not have: ``correlation_id`` goes as ``correlationid``.

Data that is not JSON is a JSON string in an event, or base64: in the structured mode it goes so, in the binary mode as it was.
"""

import re
from base64 import b64decode
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec
from msgspec import Raw

from tas_mcp.messages import JSON_NULL, Event, encode
from tas_mcp.routing import payload_text

STRUCTURED = "application/cloudevents+json"
DATA = "application/json"
_OWN = frozenset(("specversion", "id", "source", "type", "time", "datacontenttype", "data", "data_base64"))
_JSON_TYPE = re.compile(r"[^;/]+/([^;/]+\+)?json[ \t]*(;|$)", re.IGNORECASE).match
_FOREIGN = re.compile(r"[^a-z0-9]")
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")


def attributes(event: Event) -> dict[str, bool | int | str]:
    """All attributes; ``datacontenttype`` among them, but where an event came without data. Metadata that cannot be an attribute
    (by its value: control characters) stays out."""
    found: dict[str, bool | int | str] = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": event.source,
        "type": event.event_type,
    }
    if event.cloudevent:
        found |= event.cloudevent
        found.pop("data_base64", None)
        if "time" in found:
            found["time"] = time(event)
        if "datacontenttype" in found:
            found["datacontenttype"] = data_type(event)
    else:
        found["time"] = time(event)
        found["datacontenttype"] = DATA
    for key, value in event.metadata.items():
        name = _FOREIGN.sub("", key.lower())
        if name and name not in _OWN and value and _TEXT.fullmatch(value):
            found.setdefault(name, value)
    return found


def texts(event: Event) -> dict[str, str]:
    """The attributes with their values as text (CloudEvents 3.1), for headers; ``datacontenttype`` is ``data_type``."""
    return {name: text(value) for name, value in attributes(event).items()} | {"datacontenttype": data_type(event)}


def text(value: bool | int | str) -> str:
    """The value of an attribute as text."""
    if isinstance(value, str):
        return value
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def data_type(event: Event) -> str:
    """The type of ``payload``: what the CloudEvent came with, as long as it is true (a transform may have made JSON of it)."""
    said = str(event.cloudevent.get("datacontenttype", DATA))
    return said if _JSON_TYPE(said) or _foreign_data(event) is not None else DATA


def payload(event: Event) -> bytes:
    """The data alone, as it was sent."""
    found = _foreign_data(event)
    if found is not None:
        return found
    return bytes(event.data) if event.cloudevent else payload_text(event.data)


def _foreign_data(event: Event) -> bytes | None:
    """The data of a CloudEvent that is not JSON: bytes, or text."""
    own = event.cloudevent
    if not own:
        return None
    if event.data == JSON_NULL and "data_base64" in own:
        return b64decode(str(own["data_base64"]))
    if "datacontenttype" not in own or _JSON_TYPE(str(own["datacontenttype"])):
        return None
    if event.data == JSON_NULL:
        return b""
    return msgspec.json.decode(event.data, type=str).encode() if bytes(event.data).startswith(b'"') else None


def structured(event: Event) -> bytes:
    """The JSON format (CloudEvents JSON 3), its data the payload as it was sent."""
    own = event.cloudevent
    if not own:
        return encode({**attributes(event), "data": Raw(payload_text(event.data))})
    if event.data != JSON_NULL:
        return encode({**attributes(event), "data": event.data})
    if "data_base64" in own:
        return encode({**attributes(event), "data_base64": own["data_base64"]})
    return encode(attributes(event))


def header(value: str) -> str:
    """An attribute as the value of a header (HTTP binding 3.1.3.2, and NATS' the same)."""
    return quote(value, safe=_VISIBLE)


def header_lines(event: Event) -> str:
    """The attributes as HTTP headers (the binary mode of the HTTP binding, 3.1). ``datacontenttype`` is the Content-Type."""
    found = attributes(event)
    found.pop("datacontenttype", None)
    return "".join(f"ce-{name}: {header(text(value))}\r\n" for name, value in found.items())


def time(event: Event) -> str:
    """RFC 3339, as sent if it was sent so."""
    if isinstance(event.timestamp, str):
        return event.timestamp
    return datetime.fromtimestamp(event.timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
