"""The forms that events come in over HTTP: which one a request has, and how it is read. Pure.

The Content-Type decides (CloudEvents HTTP binding 3): that of a CloudEvent says what the body is; with any other, headers that
begin with ``ce-`` make the request a CloudEvent in the binary mode, whose Content-Type is that of its data.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from services.ingest.cloudevents import read_binary, read_structured
from services.ingest.paths import BATCH_PATH, EVENTS_PATH
from tas_mcp import submission
from tas_mcp.errors import Rejected
from tas_mcp.messages import Event
from tas_mcp.submission import Limits
from tas_mcp.validation import flaw

Entry = bytes | Raw
COMMAS = 50_000
"""A body with more of them is looked at for how many entries it has before these are made."""
Split = Callable[[bytes, int, int], Sequence[Entry]]
"""Makes a body into entries, each still unread: see ``array``."""


class Form(NamedTuple):
    """``read`` makes an event of the body, or, where ``split`` makes entries of it, of each. ``protocol`` is for metrics."""

    protocol: str
    read: Callable[[Any, Limits, int, Callable[[int], str]], tuple[Event, object]]
    split: Split | None = None


def array(body: bytes, max_bytes: int, max_events: int) -> Sequence[Entry]:
    """The entries of a JSON array.

    Raises:
        Rejected: the body as a whole is malformed or empty (``INVALID_EVENT``), or too large (``BATCH_TOO_LARGE``).
    """
    return _some(batched(body, max_bytes, max_events))


def batched(body: bytes, max_bytes: int, max_events: int) -> Sequence[Entry]:
    """The same, but there may be none, as the batch format of CloudEvents allows."""
    _check_bytes(body, max_bytes)
    try:
        if body.count(b",") > COMMAS and _more(body, max_events):
            raise Rejected("BATCH_TOO_LARGE", f"the batch has more than {max_events} events, which is the limit")
        entries = _decode(body)
    except (ValueError, RecursionError) as error:
        what = flaw(error)
        raise Rejected("INVALID_EVENT", f"the batch is no JSON array of events: {what.detail}", [what]) from None
    _check_count(len(entries), max_events)
    return entries


def lines(body: bytes, max_bytes: int, max_events: int) -> Sequence[Entry]:
    """The lines of NDJSON; blank ones are skipped, and count. Raises as ``array`` does."""
    _check_bytes(body, max_bytes)
    stripped = body.strip()
    _check_count(stripped.count(b"\n") + 1, max_events)
    return _some([line for line in map(bytes.strip, stripped.split(b"\n")) if line])


def _more(body: bytes, limit: int) -> bool:
    """Whether an array has more than ``limit`` entries."""
    return getattr(_counter(limit).decode(body), f"entry_{limit}") is not _NONE


@lru_cache(maxsize=1)
def _counter(limit: int) -> msgspec.json.Decoder[Any]:
    """Reads an array as a struct of ``limit`` members and one more. What is beyond them is skipped, where a list would have an
    object for each of the millions of entries that fit into a body."""
    members = [(f"entry_{number}", Raw, _NONE) for number in range(limit + 1)]
    return msgspec.json.Decoder(msgspec.defstruct("Entries", members, array_like=True))


def _check_bytes(body: bytes, max_bytes: int) -> None:
    if len(body) > max_bytes:
        raise Rejected("BATCH_TOO_LARGE", f"the batch has {len(body)} bytes; the limit is {max_bytes}")


def _some(entries: Sequence[Entry]) -> Sequence[Entry]:
    if not entries:
        raise Rejected("INVALID_EVENT", "the batch is empty")
    return entries


def _check_count(events: int, max_events: int) -> None:
    if events > max_events:
        raise Rejected("BATCH_TOO_LARGE", f"the batch has {events} events; the limit is {max_events}")


_NONE = Raw()
_decode = msgspec.json.Decoder(list[Raw]).decode

JSON = Form("http", submission.read)
ARRAY = Form("http", submission.read, array)
LINES = Form("http", submission.read, lines)
STRUCTURED = Form("cloudevents", read_structured)
BINARY = Form("cloudevents", read_binary)
BATCHED = Form("cloudevents", read_structured, batched)

SINGLE = {"application/json": JSON, "application/cloudevents+json": STRUCTURED}
MANY = {
    "application/json": ARRAY,
    "application/x-ndjson": LINES,
    "application/ndjson": LINES,
    "application/jsonl": LINES,
    "application/cloudevents-batch+json": BATCHED,
}
"""The forms of a batch, by media type."""
UNSAID = frozenset(("", "application/octet-stream"))
"""Read as JSON."""
FORM_TYPE = "application/x-www-form-urlencoded"
"""What curl sends when nobody says otherwise; read as JSON, except from a foreign web page, whose forms need no permission."""


def form_of(content_type: str, *, many: bool, attributed: bool, foreign: bool) -> Form:
    """The form of a request: ``many`` to the batch route, ``attributed`` with ``ce-`` headers, ``foreign`` from a web page of
    another site.

    Raises:
        Rejected: ``UNSUPPORTED_MEDIA_TYPE``: there is none, or not on this route.
    """
    media, _, parameters = content_type.lower().partition(";")
    media = media.strip()
    if attributed and not many and not media.startswith("application/cloudevents"):
        return BINARY
    charset = parameters.partition("charset=")[2].strip(' "')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise Rejected("UNSUPPORTED_MEDIA_TYPE", f"charset {charset}: events are UTF-8")
    if media in UNSAID or (media == FORM_TYPE and not foreign):
        media = "application/json"
    form = (MANY if many else SINGLE).get(media)
    if form is not None:
        return form
    if media in (SINGLE if many else MANY):
        raise Rejected(
            "UNSUPPORTED_MEDIA_TYPE",
            f"Content-Type {content_type!r} goes to {EVENTS_PATH if many else BATCH_PATH}: this route takes {_list(many)}",
        )
    raise Rejected("UNSUPPORTED_MEDIA_TYPE", f"Content-Type {content_type!r}: this route takes {_list(many)}")


def _list(many: bool) -> str:
    return ", ".join(MANY if many else SINGLE)
