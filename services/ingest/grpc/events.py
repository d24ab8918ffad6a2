"""What clients send, read. Pure: messages in, events out, or ``Rejected``."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from msgspec import Raw

from tas_mcp.errors import Rejected
from tas_mcp.messages import JSON_NULL, Event
from tas_mcp.submission import Limits, Submission, accept, check_size
from tas_mcp.v1 import mcp_pb2

SMALL_BYTES = 65_536
VARINT, LENGTH_DELIMITED, FIXED = 0, 2, {1: 8, 5: 4}
EVENTS_FIELD = 2

M = TypeVar("M", bound=Message)

Given = mcp_pb2.Event | mcp_pb2.IngestEventRequest


def decode(kind: type[M], body: bytes) -> M:
    """Read a message.

    Raises:
        Rejected: ``INVALID_REQUEST``.
    """
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise Rejected("INVALID_REQUEST", f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from None


def decode_event(kind: type[M], body: bytes, limits: Limits) -> M:
    """Read a single event, which is looked at only if it is not too large.

    Raises:
        Rejected: ``EVENT_TOO_LARGE`` or ``INVALID_REQUEST``.
    """
    check_size(len(body), limits)
    return decode(kind, body)


def decode_batch(body: bytes, max_events: int) -> mcp_pb2.EventBatch:
    """Read a batch. The events of a large one are counted before: an empty event has two bytes, and a hundred when it is read.

    Raises:
        Rejected: ``BATCH_TOO_LARGE`` or ``INVALID_REQUEST``.
    """
    if len(body) <= SMALL_BYTES or _count(body, max_events) <= max_events:
        batch = decode(mcp_pb2.EventBatch, body)
        if len(batch.events) <= max_events:
            return batch
    raise Rejected("BATCH_TOO_LARGE", f"the batch has more than {max_events} events")


def _count(body: bytes, enough: int) -> int:
    """The events of an encoded ``EventBatch``, by the keys and lengths of its fields (protobuf.dev, "Encoding"). Counts to at
    most one above ``enough``, and ends at what cannot be read."""
    at = found = 0
    try:
        while at < len(body) and found <= enough:
            key, at = _varint(body, at)
            kind = key & 7
            if kind == LENGTH_DELIMITED:
                found += key >> 3 == EVENTS_FIELD
                size, at = _varint(body, at)
                at += size
            elif kind == VARINT:
                _, at = _varint(body, at)
            elif kind in FIXED:
                at += FIXED[kind]
            else:
                break
    except IndexError:  # it ends in the middle of a number
        pass
    return found


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def read(given: Given, limits: Limits, now_ns: int, new_id: Callable[[int], str]) -> tuple[Event, object]:
    """An event, as ``tas_mcp.submission.read`` makes it of JSON. A field that was not sent, which proto3 does not tell from an
    empty one, has its default.

    Raises:
        Rejected: ``INVALID_EVENT`` or ``EVENT_TOO_LARGE``.
    """
    check_size(given.ByteSize(), limits)
    data, metadata = given.data, given.metadata
    submission = Submission(
        event_type=given.event_type,
        source=given.source,
        event_id=given.event_id,
        timestamp=given.timestamp or None,
        data=Raw(data.encode()) if data else JSON_NULL,
        metadata={key: metadata[key] for key in metadata} if metadata else None,  # dict() takes twice as long
    )
    return accept(submission, limits, now_ns, new_id)
