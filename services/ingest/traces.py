"""The spans of an event on its way in: one for what its client asked, and below it one for its publish."""

from tas_mcp.errors import Rejected, TasError
from tas_mcp.messages import Event
from tas_mcp.tracing import Span, Tracer, messaging

HTTP = "POST /api/v1/events"
OPERATIONS = {"http": HTTP, "cloudevents": HTTP, "grpc": "mcp.v1.MCPService/IngestEvent", "websocket": "WebSocket event"}
"""What the span of a request is called, by its protocol."""


class Trace:
    """Of one sampled event. ``traceparent`` is what its client is told."""

    __slots__ = ("_request", "_send", "_tracer")

    def __init__(self, tracer: Tracer, protocol: str, traceparent: str) -> None:
        self._tracer = tracer
        self._request = tracer.begin(OPERATIONS[protocol], "SERVER", traceparent, {"tas.protocol": protocol})
        self._send: Span | None = None

    @property
    def traceparent(self) -> str:
        return self._request.traceparent

    @property
    def trace_id(self) -> str:
        return self._request.trace_id

    def send(self, event: Event, size: int) -> str:
        """The event is about to be published: the ``traceparent`` that goes with it."""
        attributes = {
            **messaging("send", "tas.events"),
            "messaging.message.id": event.event_id,
            "messaging.message.body.size": size,
            "tas.event.type": event.event_type,
            "tas.event.source": event.source,
        }
        self._send = self._tracer.begin("send tas.events", "PRODUCER", self._request.traceparent, attributes)
        return self._send.traceparent

    def end(self, error: TasError | None = None) -> None:
        """It is stored, or not."""
        detail = error.detail if error is not None else ""
        code = {"error.type": error.code if isinstance(error, Rejected) else type(error).__name__} if error is not None else None
        if self._send is not None:
            self._send.end(detail, code)
        self._request.end(detail, code)
