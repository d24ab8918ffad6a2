"""What the tiers say to each other: the body of every message on the broker, and how it is encoded.

Structs only, no I/O. All are JSON, so that an operator can read any message with ``nats stream view``; the outcome
records, of which there are many per message, are arrays. ``data`` stays the sender's own text (``msgspec.Raw``) from the
socket to the target unless a rule or a transform looks into it.
"""

import hashlib
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from tas_mcp import subjects

JSON_NULL = Raw(b"null")
TRACEPARENT = "traceparent"
"""The header of what belongs to a sampled trace (W3C Trace Context)."""
INBOX = "Tas-Inbox"
"""The header of an event that somebody waits for: the subject on which he hears what is decided and tried (no promise)."""


class Event(Struct, kw_only=True, omit_defaults=True):
    """An accepted event as it is stored in EVENTS and carried in a delivery.

    ``timestamp`` is what the sender wrote (Unix seconds or RFC 3339 text), or the Unix seconds of its acceptance.
    ``accepted_at`` is our own clock, Unix nanoseconds. ``cloudevent`` holds the attributes of what came as a CloudEvent, all but
    ``id``, ``source`` and ``type``, as received, and its ``data_base64`` where its data is no text; it is empty for other events.
    """

    event_id: str
    event_type: str
    source: str
    timestamp: int | str
    accepted_at: int
    data: Raw = JSON_NULL
    metadata: dict[str, str] = {}
    cloudevent: dict[str, bool | int | str] = {}


class Attempt(Struct, kw_only=True, omit_defaults=True):
    """One try to deliver, as it travels with a parked delivery and stands in a dead letter.

    ``at`` is Unix seconds; ``status`` the target's own status code (0: there was no answer); ``response`` the first KiB of the
    body of an answer that refused.
    """

    number: int
    at: float
    duration_ms: float
    status: int = 0
    error: str = ""
    response: str = ""


class Delivery(Struct, kw_only=True, omit_defaults=True):
    """One event owed to one target (the subject names which).

    ``event`` is an encoded ``Event``, kept raw: forwarding an untransformed event copies its bytes. ``revision`` is that of
    the target document which decided; ``redrives`` counts how often an operator has put it back, ``redriven_at`` (Unix
    seconds) is when that was last. ``body`` is what a transform's template wrote: it is sent as it stands, as ``content_type``
    (None: what the target's headers say), and not the event. ``trace`` is the ``traceparent`` of a sampled event, kept with a
    delivery that waits for its next attempt; ``inbox`` is where somebody waits for what becomes of it.
    """

    event: Raw
    event_seq: int
    revision: int
    rule_id: str = ""
    redrives: int = 0
    redriven_at: float = 0.0
    attempts: list[Attempt] = []
    body: str | None = None
    content_type: str | None = None
    trace: str = ""
    inbox: str = ""


class DeadLetter(Struct, kw_only=True, omit_defaults=True):
    """A delivery given up (or an event that kills its worker, under the target ``_process``), with all needed to redrive it."""

    target_id: str
    event_id: str
    reason: str
    detail: str = ""
    at: float
    delivery: Delivery


class EventError(Struct):
    """One thing that is wrong in an event: where (a JSON pointer) and what."""

    pointer: str
    detail: str


class RefusedEvent(Struct, kw_only=True, omit_defaults=True):
    """An event refused by a schema, as it stands in REJECTED: the event as it would have been stored, what is wrong with it, and
    the name and revision of the schema. ``at`` is Unix seconds."""

    event: Raw
    errors: list[EventError]
    schema: str
    revision: int
    at: float


class RoutedTo(Struct, array_like=True):
    """One target that an event was routed to, and what decided it."""

    target_id: str
    revision: int
    rule_id: str = ""
    result: str = "queued"


class Routed(Struct, array_like=True):
    """What was decided for one event; ``targets`` is empty when nothing matched. ``at`` is Unix seconds."""

    event_seq: int
    event_id: str
    accepted_at: int
    at: float
    targets: list[RoutedTo]


class Attempted(Struct, array_like=True):
    """What one attempt came to: ``result`` is delivered, retrying, dead or dropped. ``at`` is Unix seconds."""

    event_seq: int
    event_id: str
    accepted_at: int
    target_id: str
    revision: int
    number: int
    result: str
    status: int
    duration_ms: float
    at: float
    error: str = ""


class Presence(Struct):
    """A replica says that it lives, and which revision of the documents that it follows it has in force; or that it leaves."""

    service: str
    instance: str
    revision: int
    leaving: bool = False


class Trial(Struct):
    """What came of sending one event to a target to try it out: see ``Attempt``. ``matched`` says whether its rules take the
    event, and ``rule_id`` which one does; the event is sent in any case."""

    delivered: bool
    status: int
    duration_ms: float
    error: str
    matched: bool
    rule_id: str | None


class AuditRecord(Struct, kw_only=True):
    """One entry of the audit log: what was done (``action``) to what has the ``id`` (empty: to many), by whom, from where, why.

    ``at`` is Unix seconds; ``details`` are ids, revisions, counts and filters, never a secret. ``before`` and ``after`` are the
    hashes of a changed document (see ``chain.fingerprint``; empty: there was none). The rest links it to the record that the same
    process wrote before: see ``chain``.
    """

    at: float
    kind: str
    action: str
    id: str
    author: str
    comment: str = ""
    address: str = ""
    request_id: str = ""
    before: str = ""
    after: str = ""
    details: dict[str, Any] = {}
    writer: str = ""
    count: int = 0
    previous: str = ""
    previous_seq: int = 0
    hash: str = ""


class PubAck(Struct):
    """JetStream's answer to a publish: stored as ``seq`` of ``stream``, or found there already."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


encode = msgspec.json.Encoder().encode
decode_routed = msgspec.json.Decoder(Routed).decode
decode_attempted = msgspec.json.Decoder(Attempted).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_delivery = msgspec.json.Decoder(Delivery).decode
decode_trial = msgspec.json.Decoder(Trial).decode
decode_presence = msgspec.json.Decoder(Presence).decode
decode_refused = msgspec.json.Decoder(RefusedEvent).decode
decode_dead_letter = msgspec.json.Decoder(DeadLetter).decode


def without_data(letter: DeadLetter, event: Event, why: str) -> DeadLetter:
    """A dead letter that is too large (``why``) without the data of its event, and without what a template made of it; its
    detail says where the data still is."""
    bare = msgspec.structs.replace(event, data=JSON_NULL)
    delivery = msgspec.structs.replace(letter.delivery, event=Raw(encode(bare)), body=None, content_type=None)
    return msgspec.structs.replace(letter, delivery=delivery, detail=f"{letter.detail}; {why}: {_where(letter)}")


def lacks_data(letter: DeadLetter) -> bool:
    """Whether a letter was stored by ``without_data``."""
    return _where(letter) in letter.detail and decode_event(letter.delivery.event).data == JSON_NULL


def _where(letter: DeadLetter) -> str:
    return f"the data is in {subjects.EVENTS}, sequence {letter.delivery.event_seq}"


def event_key(source: str, event_id: str) -> str:
    """The identity of an event: two sources may use the same event_id. 32 hex digits; also its Nats-Msg-Id."""
    return hashlib.blake2b(f"{source}\0{event_id}".encode(), digest_size=16).hexdigest()


def unix_seconds(event: Event) -> int:
    """The event's time as a number. A leap second, which Python has no time for, counts as the moment of acceptance."""
    if isinstance(event.timestamp, int):
        return event.timestamp
    try:
        return int(datetime.fromisoformat(event.timestamp.upper()).timestamp())
    except ValueError:
        return event.accepted_at // 1_000_000_000


def webhook_id(event: Event) -> str:
    """The id that a receiver de-duplicates by (Standard Webhooks): the same on every attempt, redrive and replay."""
    return "evt_" + event_key(event.source, event.event_id)
