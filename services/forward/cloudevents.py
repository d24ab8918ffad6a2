"""Events as CloudEvents 1.0. Pure.

``event_id``, ``source`` and ``event_type`` are ``id``, ``source`` and ``type``; metadata becomes extension attributes
(``subject`` and ``dataschema`` themselves), its names bare of what an attribute's may not have: ``correlation_id`` goes as
``correlationid``.
"""

import re
from datetime import UTC, datetime
from urllib.parse import quote

from msgspec import Raw

from tas_mcp.messages import Event, encode
from tas_mcp.routing import payload_text

STRUCTURED = "application/cloudevents+json"
DATA = "application/json"
_OWN = frozenset(("specversion", "id", "source", "type", "time", "datacontenttype", "data"))
_FOREIGN = re.compile(r"[^a-z0-9]")
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")


def attributes(event: Event) -> dict[str, str]:
    """All attributes, with their values as text; ``datacontenttype`` among them. Metadata that cannot be an attribute (by its
    value: control characters) stays out."""
    found = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": event.source,
        "type": event.event_type,
        "time": time(event),
        "datacontenttype": DATA,
    }
    for key, value in event.metadata.items():
        name = _FOREIGN.sub("", key.lower())
        if name and name not in _OWN and value and _TEXT.fullmatch(value):
            found.setdefault(name, value)
    return found


def structured(event: Event) -> bytes:
    """The JSON format (CloudEvents JSON 3), its data the payload as it was sent."""
    return encode({**attributes(event), "data": Raw(payload_text(event.data))})


def header(value: str) -> str:
    """An attribute as the value of a header (HTTP binding 3.1.3.2, and NATS' the same)."""
    return quote(value, safe=_VISIBLE)


def header_lines(event: Event) -> str:
    """The attributes as HTTP headers (the binary mode of the HTTP binding, 3.1). ``datacontenttype`` is the Content-Type."""
    found = attributes(event)
    del found["datacontenttype"]
    return "".join(f"ce-{name}: {header(value)}\r\n" for name, value in found.items())


def time(event: Event) -> str:
    """RFC 3339, as sent if it was sent so."""
    if isinstance(event.timestamp, str):
        return event.timestamp
    return datetime.fromtimestamp(event.timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
