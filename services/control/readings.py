"""What the broker holds right now: streams, consumers, and what is owed to each target; for people, and as metrics."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from services.control.store import Entry, Store
from services.control.streams import SHARES
from tas_mcp import subjects, telemetry
from tas_mcp.broker import BrokerError, JetStream
from tas_mcp.broker.jetstream import CONSUMER_NOT_FOUND
from tas_mcp.documents import Reader
from tas_mcp.status import Status, decode
from tas_mcp.statuses import StatusBucket

MAX_TARGETS = 1000
"""For how many targets one answer tells the counts."""

FILL = telemetry.gauge("mcp_stream_fill_ratio", "Part of its room that a stream uses", ["stream"])
DELIVERABLE = telemetry.gauge(
    "mcp_deliverable_pending", "Deliveries owed to targets that take them now: what the forward tier is scaled by"
)
PENDING = telemetry.gauge("mcp_consumer_pending", "Messages that a consumer is not done with", ["stream", "consumer"])
OLDEST = telemetry.gauge(
    "mcp_oldest_pending_seconds",
    "Age of the oldest delivery that waits for a target, seconds: since it was queued, or put back for another attempt",
    ["target"],
)
HELD = telemetry.gauge("mcp_dead_letters_held", "Dead letters that are kept, by the target they were for", ["target"])
READ_AT = telemetry.gauge("mcp_readings_timestamp_seconds", "When the broker was last read for these metrics, Unix seconds")


class Readings:
    """Reads from the broker."""

    def __init__(
        self, jetstream: JetStream, store: Store, statuses: StatusBucket, clock: Callable[[], float] = time.time
    ) -> None:
        self._jetstream = jetstream
        self._store = store
        self._statuses = statuses
        self._clock = clock
        self._found = Reader(jetstream, subjects.STATUS_BUCKET)
        self._known: dict[str, Status] = {}

    async def refresh(self) -> None:
        """Set the gauges."""
        streams = await self.streams()
        pending = {
            (stream, info["name"]): info["num_pending"] + info["num_ack_pending"]
            for stream in (subjects.EVENTS, subjects.DELIVERIES)
            for info in await self._jetstream.consumers(stream)
        }
        closed = await self._closed()
        targets = [entry.id for entry in await self._store.all()]
        waiting = [each for each in targets if pending.get((subjects.DELIVERIES, subjects.forward_consumer(each)))]
        oldest = {(each,): await self._oldest(subjects.deliveries(each)) or 0.0 for each in waiting}
        dead = await self._jetstream.subjects(subjects.DEAD, subjects.ALL_DEAD)
        telemetry.show(FILL, {(name,): stream["fill"] for name, stream in streams.items()})
        telemetry.show(PENDING, pending)
        telemetry.show(OLDEST, {(each,): 0.0 for each in targets} | oldest)
        none = {(each,): 0.0 for each in (*targets, subjects.POISON)}
        telemetry.show(HELD, none | {(subjects.target_id(subject),): float(count) for subject, count in dead.items()})
        DELIVERABLE.set(
            sum(count for (stream, name), count in pending.items() if stream == subjects.DELIVERIES and name not in closed)
        )
        READ_AT.set(self._clock())

    async def _closed(self) -> set[str]:
        """The consumers of targets to which nothing is sent now, however many replicas there are: paused, gone, or down."""
        if (found := await self._found.changed()) is not None:
            self._known = {each.key: decode(each.value) for each in found}
        now = self._clock()
        closed = {key for key, known in self._known.items() if known.gone or known.open_until > now}
        closed |= {entry.id for entry in await self._store.all() if entry.target is not None and entry.target.paused}
        return {subjects.forward_consumer(key) for key in closed}

    async def streams(self) -> dict[str, dict[str, Any]]:
        """How full each stream is. The room of DELIVERIES is its high-water mark."""
        found = {}
        for name in SHARES:
            info = await self._jetstream.stream_info(name)
            state, config = info["state"], info["config"]
            mark = int((config.get("metadata") or {}).get(subjects.HIGH_WATER, 0))
            room = mark or max(0, config["max_bytes"])
            found[name] = {
                "messages": state["messages"],
                "bytes": state["bytes"],
                "max_bytes": room,
                "fill": round(state["bytes"] / room, 4) if room else 0.0,
                "first_seq": state["first_seq"],
                "last_seq": state["last_seq"],
            }
        return found

    async def process(self) -> dict[str, int]:
        """The lag of the process tier."""
        return _lag(await self._jetstream.consumer_info(subjects.EVENTS, subjects.PROCESS))

    async def targets(self) -> dict[str, dict[str, int]]:
        """What is owed to each target, and what was given up; the first ``MAX_TARGETS``."""
        consumers = {info["name"]: _lag(info) for info in await self._jetstream.consumers(subjects.DELIVERIES)}
        dead = await self._jetstream.subjects(subjects.DEAD, subjects.ALL_DEAD)
        any_parked = await self._jetstream.count(subjects.DELIVERIES, subjects.ALL_RETRIES)
        found = {}
        for entry in (await self._store.all())[:MAX_TARGETS]:
            lag = consumers.get(subjects.forward_consumer(entry.id), {})
            parked = await self._jetstream.count(subjects.DELIVERIES, subjects.all_retries(entry.id)) if any_parked else 0
            found[entry.id] = {"pending": sum(lag.values()), "parked": parked, "dead": dead.get(subjects.dead(entry.id), 0)}
        return found

    async def status(self, entry: Entry) -> dict[str, Any]:
        """The state of one target, as far as it is known here."""
        target = entry.target
        state = "invalid" if target is None else "disabled" if not target.enabled else "paused" if target.paused else "active"
        try:
            info = await self._jetstream.consumer_info(subjects.DELIVERIES, subjects.forward_consumer(entry.id))
            pending = sum(_lag(info).values())
        except BrokerError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise
            state, pending = "waiting", 0  # the janitor makes it again
        _, found = await self._statuses.read(entry.id)
        checked = target is not None and target.delivery.health_check is not None
        return {
            "state": "gone" if found.gone else state,
            "breaker": "open" if found.open_until > self._clock() else "closed",
            "pending": pending,
            "parked": await self._jetstream.count(subjects.DELIVERIES, subjects.all_retries(entry.id)),
            "dead": await self._jetstream.count(subjects.DEAD, subjects.dead(entry.id)),
            "oldest_pending_seconds": await self._oldest(subjects.deliveries(entry.id)) if pending else None,
            "healthy": found.healthy if checked else None,
            "checked_at": found.checked_at or None if checked else None,
            "last_success": found.last_success or None,
            "last_error": {"detail": found.last_error, "at": found.last_error_at} if found.last_error else None,
        }

    async def _oldest(self, subject: str) -> float | None:
        found = await self._jetstream.direct(subjects.DELIVERIES, {"seq": 1, "next_by_subj": subject, "batch": 1})
        if not found:
            return None
        at = datetime.fromisoformat(found[0].headers["Nats-Time-Stamp"]).timestamp()
        return round(max(0.0, self._clock() - at), 3)


def _lag(info: dict[str, Any]) -> dict[str, int]:
    return {"pending": info["num_pending"], "ack_pending": info["num_ack_pending"]}
