"""The text frames of a WebSocket, in and out. Pure.

    in    {"type": "event", "id", "event"}                    {"type": "batch", "id", "events"}
          {"type": "subscribe", "id", "event_types"?, "conditions"?, "since"? | "after"?}
          {"type": "unsubscribe", "id"}
    out   {"type": "ack", "id", "results", "after"?}          {"type": "error", "id", "problem", "retry_after"?}
          {"type": "event", "sequence", "event"}              {"type": "lagged", "missed"}

``id`` is the client's own, a text or an integer, and comes back in the answer; it may be left out.
"""

from collections.abc import Sequence
from struct import pack
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from services.ingest.answers import Result, result
from services.ingest.intake import Accepted
from tas_mcp.errors import Overloaded, Rejected, TasError, Unavailable
from tas_mcp.http import Problem, problem
from tas_mcp.routing import Condition
from tas_mcp.validation import flaw

MAX_ID = 128
ENVELOPE_BYTES = 1024
"""What a frame may have around its events."""

Id = Annotated[str, Meta(max_length=MAX_ID)] | int | None | UnsetType


class _In(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    id: Id = UNSET


class Send(_In, kw_only=True, forbid_unknown_fields=True, tag="event"):
    event: Raw


class SendMany(_In, kw_only=True, forbid_unknown_fields=True, tag="batch"):
    events: Raw


class Subscribe(_In, kw_only=True, forbid_unknown_fields=True, tag="subscribe"):
    """``after``: the sequence that was seen last."""

    event_types: list[str] = []
    conditions: list[Condition] = []
    since: int | str | None = None
    after: Annotated[int, Meta(ge=0)] | None = None


class Unsubscribe(_In, kw_only=True, forbid_unknown_fields=True, tag="unsubscribe"):
    """Hear no more events."""


Frame = Send | SendMany | Subscribe | Unsubscribe


class _Ack(Struct, kw_only=True, tag_field="type", tag="ack"):
    id: Id = UNSET
    results: list[Result]
    after: int | UnsetType = UNSET


class _Error(Struct, kw_only=True, tag_field="type", tag="error"):
    id: Id = UNSET
    problem: Problem
    retry_after: float | UnsetType = UNSET


class _Named(Struct):
    id: Id = UNSET


_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)
_decode_named = msgspec.json.Decoder(_Named).decode


def decode(text: bytes) -> Frame:
    """Read a frame of a client.

    Raises:
        Rejected: ``INVALID_REQUEST``.
    """
    try:
        return _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        what = flaw(error)
        raise Rejected("INVALID_REQUEST", f"{what.pointer or 'the frame'}: {what.detail}", [what]) from None


def id_of(text: bytes) -> Id:
    """The id in a frame that is not valid, where it can be told."""
    try:
        return _decode_named(text).id
    except (ValueError, RecursionError):
        return UNSET


def ack(given: Id, answers: Sequence[Accepted | TasError], after: int | UnsetType = UNSET) -> bytes:
    """What came of each event of a frame; of a subscription the sequence ``after`` which events are told."""
    return _encode(_Ack(id=given, results=[result(answer) for answer in answers], after=after))


def error(given: Id, refused: TasError, request_id: str) -> bytes:
    """Why a frame as a whole came to nothing; ``retry_after`` (seconds) where it may be sent again."""
    wait = refused.retry_after if isinstance(refused, Overloaded | Unavailable) else UNSET
    return _encode(_Error(id=given, problem=problem(refused, request_id), retry_after=wait))


def event(sequence: int, text: bytes) -> bytes:
    """A stored event."""
    return b'{"type":"event","sequence":%d,"event":%b}' % (sequence, text)


def lagged(missed: int) -> bytes:
    """The last frame for a client that does not keep up."""
    return b'{"type":"lagged","missed":%d}' % missed


def framed(text: bytes) -> bytes:
    """A text frame of a server: whole and not masked (RFC 6455 5.2)."""
    size = len(text)
    if size < 126:
        return b"\x81%c%b" % (size, text)
    return b"\x81" + (pack(">BH", 126, size) if size < 65_536 else pack(">BQ", 127, size)) + text
