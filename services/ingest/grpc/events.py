"""What clients send, read. Pure: messages in, events out, or ``Rejected``."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from msgspec import Raw

from tas_mcp.errors import Rejected
from tas_mcp.messages import JSON_NULL, Event
from tas_mcp.submission import Limits, Submission, accept, check_size
from tas_mcp.v1 import mcp_pb2

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
        metadata=dict(metadata) if metadata else None,
    )
    return accept(submission, limits, now_ns, new_id)
