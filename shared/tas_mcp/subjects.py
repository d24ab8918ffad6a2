"""The map of the broker: every stream, subject, bucket and consumer name of the system. No other module spells one out.

Free text (event types, target ids) becomes subject tokens losslessly: letters, digits, ``-`` and ``_`` stand for
themselves, every other byte is ``=XX`` (as in quoted-printable), an empty token is ``=``. ``=`` is legal in subjects, KV
keys and consumer names alike. The dots of an event type stay token separators, so that ``tas.events.user.>`` works.
"""

import re
from functools import lru_cache

EVENTS = "EVENTS"
DELIVERIES = "DELIVERIES"
OUTCOMES = "OUTCOMES"
DEAD = "DEAD"
REJECTED = "REJECTED"
AUDIT = "AUDIT"

ALL_EVENTS = "tas.events.>"
ALL_DELIVERIES = "tas.deliveries.>"
ALL_RETRIES = "tas.retries.>"
ALL_OUTCOMES = "tas.outcomes.>"
ALL_DEAD = "tas.dead.>"
ALL_REJECTED = "tas.rejected.>"
ALL_AUDIT = "tas.audit.>"
ROUTED = "tas.outcomes.routed"
ATTEMPTS = "tas.outcomes.attempts"

TARGETS_BUCKET = "tas_targets"
SCHEMAS_BUCKET = "tas_schemas"
KEYS_BUCKET = "tas_keys"
STATUS_BUCKET = "tas_status"

HIGH_WATER = "tas_high_water_bytes"
"""The metadata of DELIVERIES in which ``control`` writes the bytes above which ``process`` takes on no event."""

PROCESS = "process"
"""The durable consumer of the process tier on EVENTS."""
FORWARD_PREFIX = "fwd_"
POISON = "_process"
"""The target id under which events that kill their worker are dead-lettered. No target may be called so."""

ALL_PRESENCE = "tas.live.>"
PRESENCE_QUERY = "tas.rpc.presence"
ALL_TRIALS = "tas.rpc.test.*"

_SAFE = re.compile(r"[A-Za-z0-9_-]+\Z").match
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")


@lru_cache(maxsize=65_536)
def token(text: str) -> str:
    """Encode any text as one subject token."""
    if _SAFE(text):
        return text
    return _UNSAFE.sub(lambda m: b"=%02X" % m.group()[0], text.encode()).decode() or "="


def text(encoded: str) -> str:
    """Decode what ``token`` encoded.

    Raises:
        ValueError: ``encoded`` was not made by it.
    """
    if encoded == "=":
        return ""
    first, *rest = encoded.split("=")
    found = (first.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in rest)).decode()
    if token(found) != encoded:
        raise ValueError(f"{encoded!r} is no token of ours")
    return found


@lru_cache(maxsize=65_536)
def events(event_type: str) -> str:
    return "tas.events." + _tokens(event_type)


def event_type(subject: str) -> str:
    return ".".join(text(part) for part in subject.split(".")[2:])


@lru_cache(maxsize=65_536)
def deliveries(target_id: str) -> str:
    return "tas.deliveries." + token(target_id)


def retries(target_id: str, event_seq: int) -> str:
    return f"tas.retries.{token(target_id)}.{event_seq}"


def all_retries(target_id: str) -> str:
    return f"tas.retries.{token(target_id)}.*"


@lru_cache(maxsize=65_536)
def dead(target_id: str) -> str:
    return "tas.dead." + token(target_id)


@lru_cache(maxsize=65_536)
def rejected(event_type: str) -> str:
    return "tas.rejected." + _tokens(event_type)


def audit(kind: str) -> str:
    return "tas.audit." + token(kind)


def target_id(subject: str) -> str:
    """The target of a delivery, retry or dead-letter subject."""
    return text(subject.split(".")[2])


@lru_cache(maxsize=65_536)
def forward_consumer(target_id: str) -> str:
    """The durable consumer of one target's lane on DELIVERIES."""
    return FORWARD_PREFIX + token(target_id)


def _tokens(event_type: str) -> str:
    return ".".join(token(part) for part in event_type.split("."))


def presence(service: str, instance: str) -> str:
    """Where a replica says that it lives (core NATS, not stored)."""
    return f"tas.live.{service}.{instance}"


def trial(target_id: str) -> str:
    """Where control asks a forward replica to send one event to the target (core NATS request/reply, not stored)."""
    return "tas.rpc.test." + token(target_id)


def notices(instance: str) -> str:
    """Below this an ingest replica hears what becomes of the events that it is asked to wait for (core NATS, not stored)."""
    return f"tas.notices.{instance}"


def bucket_stream(bucket: str) -> str:
    return "KV_" + bucket


def bucket_key(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{token(key)}"


def bucket_keys(bucket: str) -> str:
    return f"$KV.{bucket}.>"
