"""The spans of the attempts to deliver to one target.

The first attempt is a part of its event's trace. A retry, which may come hours later, begins a trace of its own, with a link to
the event's; so does a request that carries several deliveries, with a link for each. Where the event is not sampled there is no
span, but one for each attempt that failed if the operator wants those (``TAS_TRACE_ERRORS``).
"""

from collections.abc import Sequence

from services.forward.verdict import Failed, Refused
from tas_mcp.messages import Attempt, Event
from tas_mcp.targets import AnyTarget
from tas_mcp.tracing import Span, Tracer, Value

LINKS = 128
"""The SDK keeps no more."""


class Traces:
    """``on`` is False where there is nothing to do, ever."""

    def __init__(self, tracer: Tracer, *, errors: bool) -> None:
        self.on = tracer.on
        self._tracer = tracer
        self._errors = errors

    def begin(self, target: AnyTarget, event: Event, number: int, origin: str) -> Span | None:
        """The span of attempt ``number``; ``origin`` is the event's ``traceparent``, or ``""``."""
        if not origin:
            return None
        attributes = _attributes(target, event, number)
        if number > 1:
            return self._tracer.begin(_name(target), "CLIENT", "", attributes, [origin])
        return self._tracer.begin(_name(target), "CLIENT", origin, attributes)

    def begin_together(self, target: AnyTarget, origins: Sequence[str]) -> Span | None:
        """The span of a request for many."""
        links = [origin for origin in origins if origin]
        if not links:
            return None
        attributes: dict[str, Value] = {"tas.target.id": target.id, "messaging.batch.message_count": len(origins)}
        return self._tracer.begin(_name(target), "CLIENT", "", attributes, links[:LINKS])

    def end(self, span: Span | None, status: int, failure: Failed | Refused | None = None) -> None:
        """The attempt is over (None: it is not traced)."""
        if span is None:
            return
        ended: dict[str, Value] = {"http.response.status_code": status} if status else {}
        if failure is not None:
            ended["error.type"] = str(status or type(failure).__name__)
        span.end(failure.detail if failure is not None else "", ended)

    def cut_short(self, span: Span | None, error: BaseException) -> None:
        """The attempt neither succeeded nor failed: its lane was closed, or there is an error of ours."""
        if span is not None:
            span.end(f"cut short: {type(error).__name__}")

    def failed(self, target: AnyTarget, event: Event, attempt: Attempt, failure: Failed | Refused) -> str:
        """An attempt failed whose event is not sampled: the id of its trace, or ``""`` where the operator wants none."""
        if not self._errors:
            return ""
        began = int(attempt.at * 1e9)
        span = self._tracer.begin(_name(target), "CLIENT", "", _attributes(target, event, attempt.number), start_ns=began)
        self.end(span, attempt.status, failure)
        return span.trace_id


def _name(target: AnyTarget) -> str:
    return f"deliver {type(target).__struct_config__.tag}"


def _attributes(target: AnyTarget, event: Event, number: int) -> dict[str, Value]:
    return {
        "tas.target.id": target.id,
        "tas.attempt": number,
        "messaging.message.id": event.event_id,
        "tas.event.type": event.event_type,
        "tas.event.source": event.source,
    }
