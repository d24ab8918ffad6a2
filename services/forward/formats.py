"""The bodies that an event can be delivered as. Pure."""

from datetime import datetime

from msgspec import Raw, Struct

from services.forward.cloudevents import structured, time
from tas_mcp.messages import Event, encode
from tas_mcp.routing import payload_text


class _Classic(Struct):
    """The ``tas`` format: the event as it was submitted, its data as a JSON string (what classic receivers expect)."""

    event_id: str
    event_type: str
    source: str
    timestamp: int | str
    data: str
    metadata: dict[str, str]


class _Standard(Struct):
    """The payload shape that Standard Webhooks recommends."""

    type: str
    timestamp: str
    data: Raw


def tas(event: Event) -> bytes:
    """The whole event; ``data`` is its JSON text in a string."""
    text = payload_text(event.data).decode()
    return encode(_Classic(event.event_id, event.event_type, event.source, event.timestamp, text, event.metadata))


def data(event: Event) -> bytes:
    """The payload alone, byte for byte as it was sent."""
    return payload_text(event.data)


def standard(event: Event) -> bytes:
    """Type, time (RFC 3339) and payload."""
    return encode(_Standard(event.event_type, time(event), Raw(payload_text(event.data))))


def unix_seconds(event: Event) -> int:
    """The event's time as a number. A leap second, which Python has no time for, counts as the moment of acceptance."""
    if isinstance(event.timestamp, int):
        return event.timestamp
    try:
        return int(datetime.fromisoformat(event.timestamp.upper()).timestamp())
    except ValueError:
        return event.accepted_at // 1_000_000_000


FORMATS = {"tas": tas, "cloudevents": structured, "cloudevents-binary": data, "standard": standard, "data": data}
