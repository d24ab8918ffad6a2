"""What the broker should hold, as tables: the streams, the buckets and the consumers, in the server's own words. Pure."""

from typing import Any

from services.control.settings import Settings
from tas_mcp import subjects
from tas_mcp.errors import Misconfigured

SECOND = 1_000_000_000
HOUR = 3600 * SECOND

HISTORY = 64
SCHEMA_HISTORY = 8
MAX_CONSUMERS = 20_000
TARGETS_STREAM = subjects.bucket_stream(subjects.TARGETS_BUCKET)
SCHEMAS_STREAM = subjects.bucket_stream(subjects.SCHEMAS_BUCKET)
KEYS_STREAM = subjects.bucket_stream(subjects.KEYS_BUCKET)
STATUS_STREAM = subjects.bucket_stream(subjects.STATUS_BUCKET)

SHARES = {
    subjects.EVENTS: 0.40,
    subjects.DELIVERIES: 0.25,  # no limit of the stream but the mark above which process takes on no event
    subjects.OUTCOMES: 0.12,
    subjects.DEAD: 0.10,
    subjects.AUDIT: 0.04,
    subjects.REJECTED: 0.02,
    TARGETS_STREAM: 0.01,
    SCHEMAS_STREAM: 0.01,
    KEYS_STREAM: 0.004,
    STATUS_STREAM: 0.005,
}
"""The part of ``store_bytes`` that each stream may use. What is left is room for the broker's own files: a store full to the brim
could not even take the outcome that lets a delivery be acked."""

_FIXED = ("storage", "retention")
"""What the server lets nobody change."""


def share(settings: Settings, stream: str) -> int:
    return int(settings.store_bytes * SHARES[stream])


def needed(settings: Settings) -> int:
    """The bytes that an account must be allowed to store."""
    return sum(share(settings, stream) for stream in SHARES) * settings.replicas


def streams(settings: Settings) -> list[dict[str, Any]]:
    """The configuration of every stream."""
    limited = {
        subjects.EVENTS: {
            "subjects": [subjects.ALL_EVENTS],
            "discard": "new",
            "duplicate_window": int(settings.dedupe_seconds * SECOND),
            "allow_direct": True,
        },
        subjects.OUTCOMES: {"subjects": [subjects.ALL_OUTCOMES], "discard": "old", "max_age": 72 * HOUR},
        subjects.DEAD: {"subjects": [subjects.ALL_DEAD], "discard": "new", "max_age": 30 * 24 * HOUR, "allow_direct": True},
        subjects.REJECTED: {
            "subjects": [subjects.ALL_REJECTED],
            "discard": "old",
            "max_age": 7 * 24 * HOUR,
            "allow_direct": True,
        },
        subjects.AUDIT: {
            "subjects": [subjects.ALL_AUDIT],
            "discard": "old",
            "allow_direct": True,
            "deny_delete": True,
            "deny_purge": True,
        },
        TARGETS_STREAM: _bucket(subjects.TARGETS_BUCKET, HISTORY),
        SCHEMAS_STREAM: _bucket(subjects.SCHEMAS_BUCKET, SCHEMA_HISTORY),
        KEYS_STREAM: _bucket(subjects.KEYS_BUCKET, 1),
        STATUS_STREAM: {**_bucket(subjects.STATUS_BUCKET, 1), "discard": "old"},
    }
    deliveries = {
        "name": subjects.DELIVERIES,
        "subjects": [subjects.ALL_DELIVERIES, subjects.ALL_RETRIES],
        "retention": "workqueue",
        "discard": "old",  # never happens, there is no limit; schedules are refused with "new"
        "allow_msg_schedules": True,
        "allow_direct": True,
        "max_consumers": MAX_CONSUMERS,
        "metadata": {subjects.HIGH_WATER: str(share(settings, subjects.DELIVERIES))},
    }
    found = [{"name": name, "retention": "limits", "max_bytes": share(settings, name), **rest} for name, rest in limited.items()]
    return [{"storage": "file", "num_replicas": settings.replicas, **each} for each in (*found, deliveries)]


def _bucket(bucket: str, history: int) -> dict[str, Any]:
    return {
        "subjects": [subjects.bucket_keys(bucket)],
        "discard": "new",
        "max_msgs_per_subject": history,
        "allow_direct": True,
        "deny_delete": True,
        "allow_rollup_hdrs": True,
    }


def update(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any] | None:
    """What to change an existing stream to, or None where it is as wanted. What is not ours to say (placement, compression,
    foreign metadata ...) stays, and so does a storage that cannot be changed.

    Raises:
        Misconfigured: the stream keeps its messages in another way, which can neither be changed nor worked with.
    """
    if current["retention"] != wanted["retention"]:
        raise Misconfigured(
            f"stream {wanted['name']} exists with retention {current['retention']}, but {wanted['retention']} is needed: "
            "it belongs to something else; remove it, or use another NATS account"
        )
    changed = {key: value for key, value in wanted.items() if key not in (*_FIXED, "metadata")}
    changed["metadata"] = {**(current.get("metadata") or {}), **wanted.get("metadata", {})}
    same = all((current.get(key) or None) == (value or None) for key, value in changed.items())
    return None if same else {**current, **changed}


def process_consumer(settings: Settings) -> dict[str, Any]:
    """The consumer of the process tier on EVENTS."""
    return _consumer(subjects.PROCESS, settings.process_ack_wait_seconds, settings.process_ack_pending)


def forward_consumer(settings: Settings, target_id: str) -> dict[str, Any]:
    """The consumer of one target's lane on DELIVERIES."""
    consumer = _consumer(subjects.forward_consumer(target_id), settings.target_ack_wait_seconds, settings.target_ack_pending)
    memory = {"mem_storage": True} if settings.target_consumers_in_memory else {}
    return {**consumer, **memory, "filter_subject": subjects.deliveries(target_id)}


def _consumer(name: str, ack_wait: float, max_ack_pending: int) -> dict[str, Any]:
    return {
        "durable_name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait * SECOND),
        "max_ack_pending": max_ack_pending,
        "max_deliver": -1,
        "replay_policy": "instant",
    }
