"""The metrics of one lane, their labels looked up once."""

from tas_mcp import telemetry
from tas_mcp.messages import Attempt

DELIVERIES = telemetry.counter("mcp_deliveries", "Delivery attempts, by what came of them", ["target", "outcome"])
LATENCY = telemetry.histogram("mcp_forwarding_latency_seconds", "One delivery attempt, seconds", ["target"])
END_TO_END = telemetry.histogram("mcp_end_to_end_seconds", "From acceptance to delivery, seconds", ["target"])
RETRIES = telemetry.counter("mcp_retries", "Deliveries parked for another attempt", ["target"])
DEAD = telemetry.counter("mcp_dead_letters", "Deliveries given up", ["target"])


class Counted:
    """Counts for one target."""

    def __init__(self, target_id: str) -> None:
        self._id = target_id
        self._delivered = DELIVERIES.labels(target_id, "delivered")
        self._failed = DELIVERIES.labels(target_id, "failed")
        self._latency = LATENCY.labels(target_id)
        self._end_to_end = END_TO_END.labels(target_id)
        self._retries = RETRIES.labels(target_id)
        self._dead = DEAD.labels(target_id)

    def delivered(self, attempt: Attempt, end_to_end_seconds: float, trace_id: str) -> None:
        """``trace_id``, where there is one, is shown as an example of how long it takes."""
        self._delivered.inc()
        self._latency.observe(attempt.duration_ms / 1e3)
        self._end_to_end.observe(end_to_end_seconds)
        if trace_id:
            self._latency.point(attempt.duration_ms / 1e3, trace_id)
            self._end_to_end.point(end_to_end_seconds, trace_id)

    def failed(self, attempt: Attempt, trace_id: str) -> None:
        """``trace_id`` as for ``delivered``."""
        self._failed.inc()
        self._latency.observe(attempt.duration_ms / 1e3)
        if trace_id:
            self._latency.point(attempt.duration_ms / 1e3, trace_id)

    def retried(self) -> None:
        self._retries.inc()

    def died(self) -> None:
        self._dead.inc()

    def forget(self) -> None:
        """Take the target out of the metrics: it is gone."""
        for outcome in ("delivered", "failed"):
            DELIVERIES.remove(self._id, outcome)
        for metric in (LATENCY, END_TO_END, RETRIES, DEAD):
            metric.remove(self._id)
