"""The way in that all protocols share: check an event, store it, and only then say that it is accepted.

``submit`` is synchronous up to the publish; what came of it is told through the callback, so that a protocol needs no task per
event.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from msgspec import UNSET, Struct, UnsetType

from services.ingest.ids import uuid7
from services.ingest.names import Names
from services.ingest.rates import Rates, Types
from services.ingest.schemas import Schemas
from services.ingest.traces import Trace
from tas_mcp import subjects, telemetry
from tas_mcp.broker import Publisher
from tas_mcp.callers import Caller
from tas_mcp.errors import Overloaded, Rejected, TasError
from tas_mcp.messages import INBOX, TRACEPARENT, Event, PubAck, encode, event_key
from tas_mcp.submission import Limits
from tas_mcp.tracing import Tracer

EVENTS = telemetry.counter("mcp_events", "Events submitted, by what came of them", ["protocol", "outcome"])
EVENT_BYTES = telemetry.histogram("mcp_event_bytes", "Size of accepted events as submitted", buckets=telemetry.SIZE_BUCKETS)
INGEST_SECONDS = telemetry.histogram("mcp_ingest_seconds", "From the request's body to the broker's ack, seconds")


class Accepted(Struct):
    """The answer to a stored event; ``duplicate`` when it was stored before."""

    event_id: str
    status: str = "accepted"
    duplicate: bool | UnsetType = UNSET


T = TypeVar("T")

Settle = Callable[[Accepted | TasError], None]
Reader = Callable[[T, Limits, int, Callable[[int], str]], tuple[Event, object]]
"""Makes what a protocol was given into an event, and its data decoded: see ``tas_mcp.submission.read``."""


class Counted:
    """The counters of one protocol, their labels looked up once."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self._accepted = EVENTS.labels(protocol, "accepted")
        self._duplicate = EVENTS.labels(protocol, "duplicate")
        self._rejected = EVENTS.labels(protocol, "rejected")
        self._limited = EVENTS.labels(protocol, "limited")
        self._unavailable = EVENTS.labels(protocol, "unavailable")

    def count(self, answer: Accepted | TasError) -> None:
        if isinstance(answer, Accepted):
            (self._duplicate if answer.duplicate is True else self._accepted).inc()
            return
        match answer:
            case Rejected():
                self._rejected.inc()
            case Overloaded():
                self._limited.inc()
            case _:
                self._unavailable.inc()


class Intake:
    """Checks and stores events for all protocols."""

    def __init__(
        self,
        publisher: Publisher,
        limits: Limits,
        schemas: Schemas,
        rates: Rates | None = None,
        types: Types | None = None,
        names: Names | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._publisher = publisher
        self._schemas = schemas
        self._rates = rates
        self._types = types
        self._names = names
        self._tracer = tracer or Tracer()
        self.limits = limits

    async def room(self) -> None:
        """Wait until more events can be taken without refusing them."""
        await self._publisher.room()

    def admit(self, caller: Caller, events: int, size: int) -> None:
        """Whether the caller may send a request of so many events, of ``size`` bytes together, now.

        Raises:
            Overloaded: not now.
        """
        if self._rates is not None:
            self._rates.admit(caller, events, size, time.monotonic())

    def trace(self, counted: Counted, traceparent: str) -> Trace | None:
        """The trace of an event that comes with this ``traceparent`` (or ``""``), where it is sampled; ``submit`` or ``take``
        ends its spans."""
        return Trace(self._tracer, counted.protocol, traceparent) if self._tracer.samples(traceparent) else None

    def submit(
        self,
        given: T,
        size: int,
        read: Reader[T],
        caller: Caller,
        counted: Counted,
        settle: Settle,
        inbox: str = "",
        trace: Trace | None = None,
    ) -> None:
        """Check and store one event of ``size`` bytes, as ``read`` makes it of what was given; ``settle`` is called exactly once,
        now or later. ``inbox`` is where somebody waits for what becomes of it."""
        if self._rates is not None:
            try:
                self._rates.admit(caller, 1, size, time.monotonic())
            except Overloaded as error:
                _refuse(error, counted, settle, trace)
                return
        self.take(given, size, read, caller, counted, settle, inbox, trace)

    def take(
        self,
        given: T,
        size: int,
        read: Reader[T],
        caller: Caller,
        counted: Counted,
        settle: Settle,
        inbox: str = "",
        trace: Trace | None = None,
    ) -> None:
        """As ``submit``, for an event of a request that was admitted as a whole."""
        began = time.perf_counter()

        def stored(ack: PubAck | TasError) -> None:
            if isinstance(ack, TasError):
                answer: Accepted | TasError = ack
            else:
                answer = Accepted(event.event_id, duplicate=True) if ack.duplicate else Accepted(event.event_id)
                seconds = time.perf_counter() - began
                EVENT_BYTES.observe(size)
                INGEST_SECONDS.observe(seconds)
                if trace is not None:
                    INGEST_SECONDS.point(seconds, trace.trace_id)
            if trace is not None:
                trace.end(ack if isinstance(ack, TasError) else None)
            counted.count(answer)
            settle(answer)

        try:
            caller.require("events:write")
            event, data = read(given, self.limits, time.time_ns(), uuid7)
            if self._names is not None:
                self._names.check(event.event_type, event.source)
            if caller.restricted:
                caller.admit(event.event_type, event.source)
            if self._types is not None and not self._types.known(event.event_type):
                self._types.admit(caller, event.event_type, time.monotonic())
            if self._schemas.active:
                self._schemas.check(event, data)
            key = event_key(event.source, event.event_id)
            headers = {INBOX: inbox} if inbox else None
            if trace is not None:
                headers = {**(headers or {}), TRACEPARENT: trace.send(event, size)}
            self._publisher.publish(subjects.events(event.event_type), encode(event), stored, msg_id=key, headers=headers)
        except TasError as error:
            _refuse(error, counted, settle, trace)


def _refuse(error: TasError, counted: Counted, settle: Settle, trace: Trace | None) -> None:
    """Nothing was sent to be stored."""
    counted.count(error)
    if trace is not None:
        trace.end(error)
    settle(error.bare())
