"""Traces: the module that knows OpenTelemetry.

One event, one trace: a span where it comes in, where it is routed, and for each attempt to deliver it. From tier to tier, and to
the target, travels a W3C ``traceparent``, and only that of a sampled trace: what is not sampled has none, and costs a look at a
string. The sampler decides once, where the event comes in; the standard ``OTEL_*`` variables say how, and where spans go. Without
an OTLP endpoint nothing is traced, and the SDK is not even loaded. The SDK raises nothing into what is traced (its specification,
"Error handling"): what it cannot send is lost, and logged.

NATS has no semantic conventions of its own yet: ``messaging.system`` is ``nats``, destinations are subjects without their tokens.
"""

import asyncio
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from tas_mcp import __version__, telemetry
from tas_mcp.errors import Misconfigured

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor

log = telemetry.logger("tracing")

Kind = Literal["SERVER", "PRODUCER", "CONSUMER", "CLIENT"]
Value = str | int | float | bool | Sequence[str]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
QUEUE, BATCH, DELAY_MILLISECONDS = 8192, 1024, 1000
"""More than the SDK's own, as a full queue loses spans."""
SHUTDOWN_SECONDS = 2.0

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?").fullmatch


class Span:
    """One that is recorded, and ended once. ``traceparent`` makes others its children."""

    __slots__ = ("_end", "traceparent")

    def __init__(self, context: "trace.SpanContext", end: Callable[[str, Mapping[str, Value] | None], None]) -> None:
        self._end = end
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def end(self, error: str = "", attributes: Mapping[str, Value] | None = None) -> None:
        """It is over; with an ``error`` it failed."""
        self._end(error, attributes)


class Tracer:
    """Makes the spans of one service. ``on`` is False where nobody collects them: ``samples`` says no then, and ``begin`` must
    not be called.

    Spans are made whole, at their end, and given to the SDK's processor. Its own tracer, with all that may happen to a span
    there, takes four times as long: for an event of a hundred that was more than the 5 % of ingest that traces may cost.
    """

    def __init__(
        self,
        processor: "SpanProcessor | None" = None,
        common: Mapping[str, Any] | None = None,
        ratio: float = 1.0,
        *,
        parents: bool = True,
    ) -> None:
        self.on = processor is not None
        self._processor = processor
        self._common = common or {}
        self._ratio = ratio
        self._parents = parents

    def samples(self, traceparent: str) -> bool:
        """Whether an event that comes in with this ``traceparent`` (or ``""``) is to be traced."""
        if not self.on:
            return False
        if self._parents and traceparent and (found := _TRACEPARENT(traceparent)):
            return bool(int(found[3], 16) & 1)
        return self._ratio >= 1.0 or random.random() < self._ratio

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str = "",
        attributes: Mapping[str, Value] | None = None,
        links: Sequence[str] = (),
        start_ns: int | None = None,
    ) -> Span:
        """A span, child of the one that ``parent`` (a traceparent) names; without one it begins a trace."""
        from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

        above = _context(parent)
        trace_id = above.trace_id if above else random.getrandbits(128) or 1  # 0 is none
        context = SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        begun = {
            "name": name,
            "context": context,
            "parent": above,
            "kind": SpanKind[kind],
            "attributes": dict(attributes or {}),
            "links": [Link(found) for link in links if (found := _context(link))],
            "start_time": time.time_ns() if start_ns is None else start_ns,
        }
        return Span(context, partial(self._end, begun))

    def _end(self, begun: dict[str, Any], error: str, attributes: Mapping[str, Value] | None) -> None:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Status, StatusCode

        assert self._processor is not None  # noqa: S101  (it was begun)
        begun["attributes"].update(attributes or {})
        status = Status(StatusCode.ERROR, error) if error else Status()
        self._processor.on_end(ReadableSpan(**begun, **self._common, status=status, end_time=time.time_ns()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Tracer"]:
        """Leaving sends what is recorded, for a few seconds at most: the SDK would try for half a minute, and the process wait
        for it in any thread that is no daemon."""
        try:
            yield self
        finally:
            if self._processor is not None:
                sending = threading.Thread(target=self._processor.shutdown, daemon=True)
                sending.start()
                await asyncio.to_thread(sending.join, SHUTDOWN_SECONDS)
                if sending.is_alive():
                    log.warning("the last spans were not sent: the collector does not take them")


def open_tracer(service: str, environ: Mapping[str, str]) -> Tracer:
    """The tracer of a service, as the ``OTEL_*`` variables say.

    Raises:
        Misconfigured: a sampler that is not known, a ratio that is none.
    """
    wanted = environ.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp" and any(environ.get(name) for name in ENDPOINTS)
    if not wanted or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Tracer()
    ratio, parents = sampling(environ)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    name = environ.get("OTEL_SERVICE_NAME") or f"tas-{service}"
    common = {
        "resource": Resource.create({"service.name": name, "service.version": __version__}),
        "instrumentation_scope": InstrumentationScope("tas_mcp", __version__),
    }
    processor = BatchSpanProcessor(
        OTLPSpanExporter(),
        max_queue_size=_own("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE, environ),
        schedule_delay_millis=_own("OTEL_BSP_SCHEDULE_DELAY", DELAY_MILLISECONDS, environ),
        max_export_batch_size=_own("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH, environ),
    )
    log.info("traces are sent", to=next(environ[each] for each in ENDPOINTS if environ.get(each)), ratio=ratio)
    return Tracer(processor, common, ratio, parents=parents)


def sampling(environ: Mapping[str, str]) -> tuple[float, bool]:
    """The ratio of traces that begin here, and whether a caller's decision counts (``OTEL_TRACES_SAMPLER``).

    Raises:
        Misconfigured: neither is to be made out.
    """
    name = environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    kind = name.removeprefix("parentbased_")
    if kind in ("always_on", "always_off"):
        return float(kind == "always_on"), kind != name
    if kind != "traceidratio":
        raise Misconfigured(f"OTEL_TRACES_SAMPLER: {name!r} is not known: use parentbased_traceidratio, always_on ...")
    text = environ.get("OTEL_TRACES_SAMPLER_ARG") or "1.0"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise Misconfigured(f"OTEL_TRACES_SAMPLER_ARG: {text!r} is no number from 0 to 1")
    return ratio, kind != name


def messaging(operation: Literal["send", "process"], destination: str) -> dict[str, Value]:
    """The attributes of the semantic conventions for messaging that all spans on the broker have."""
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }


def trace_id(traceparent: str) -> str:
    """The trace that a ``traceparent`` belongs to, or ``""`` where it is none."""
    found = _TRACEPARENT(traceparent)
    return found[1] if found else ""


def _context(traceparent: str) -> "trace.SpanContext | None":
    from opentelemetry.trace import SpanContext, TraceFlags

    found = _TRACEPARENT(traceparent)
    return SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(1)) if found else None


def _own(variable: str, default: int, environ: Mapping[str, str]) -> int | None:
    """Our default, where the variable that the SDK reads says nothing."""
    return None if variable in environ else default
