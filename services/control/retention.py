"""How long EVENTS keeps an event: until its retention time is over, or room runs short, and never before everybody has read it.

EVENTS itself has no max_age: JetStream's would also drop what nobody has acked.
"""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tas_mcp import subjects, telemetry
from tas_mcp.broker import JetStream

log = telemetry.logger("retention")

HIGH_FILL = 0.80
"""Above this part of max_bytes events are dropped before their time, the oldest first, down to ``LOW_FILL``: a full stream
refuses new ones."""
LOW_FILL = 0.60


class Retention:
    """Purges EVENTS."""

    def __init__(self, jetstream: JetStream, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._jetstream = jetstream
        self._seconds = seconds
        self._clock = clock

    async def purge(self) -> None:
        """Delete what is old enough, or in the way, and done with by every durable consumer."""
        info = await self._jetstream.stream_info(subjects.EVENTS)
        state = info["state"]
        if not state["messages"]:
            return
        read = await self._read_by_all()
        end = min(read, max(await self._expired(state), _crowded(info)))
        if end > state["first_seq"]:
            purged = await self._jetstream.purge(subjects.EVENTS, before_seq=end)
            log.info("events purged", events=purged, before_seq=end)

    async def _read_by_all(self) -> int:
        """The first sequence that some durable consumer is not done with. Without one nothing may go: the consumer of the process
        tier is there always, or is about to be made again."""
        consumers = await self._jetstream.consumers(subjects.EVENTS)
        floors = [each["ack_floor"]["stream_seq"] for each in consumers if each["config"].get("durable_name")]
        return min(floors) + 1 if any(each["name"] == subjects.PROCESS for each in consumers) else 0

    async def _expired(self, state: dict[str, Any]) -> int:
        """The first sequence that is within its retention time."""
        since = datetime.fromtimestamp(self._clock() - self._seconds, UTC)
        if datetime.fromisoformat(state["first_ts"]) >= since:
            return 0
        request = {"start_time": since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "batch": 1}
        found = await self._jetstream.direct(subjects.EVENTS, request)
        return found[0].sequence if found else int(state["last_seq"]) + 1


def _crowded(info: dict[str, Any]) -> int:
    """The first sequence to keep for the sake of room; events are taken to be of the same size."""
    state, limit = info["state"], info["config"]["max_bytes"]
    if limit <= 0 or state["bytes"] <= HIGH_FILL * limit:
        return 0
    surplus = (state["bytes"] - LOW_FILL * limit) / (state["bytes"] / state["messages"])
    return int(state["first_seq"] + math.ceil(surplus))
