"""The bodies that an event can be delivered as. Pure."""

from msgspec import UNSET, Raw, Struct, UnsetType

from services.forward.cloudevents import payload, structured, time
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
    cloudevent: dict[str, bool | int | str] | UnsetType


class _Standard(Struct):
    """The payload shape that Standard Webhooks recommends."""

    type: str
    timestamp: str
    data: Raw


def tas(event: Event) -> bytes:
    """The whole event; ``data`` is its JSON text in a string, ``cloudevent`` there for what came as one."""
    text = payload_text(event.data).decode()
    attributes = event.cloudevent or UNSET
    return encode(_Classic(event.event_id, event.event_type, event.source, event.timestamp, text, event.metadata, attributes))


def standard(event: Event) -> bytes:
    """Type, time (RFC 3339) and payload."""
    return encode(_Standard(event.event_type, time(event), Raw(payload_text(event.data))))


FORMATS = {"tas": tas, "cloudevents": structured, "cloudevents-binary": payload, "standard": standard, "data": payload}
