"""The step of the process tier: decide for one event, store a delivery (transformed where the rule says so) for each matching
target, store what was decided, ack.

The order is the promise: the event is acked only after the broker has acked its deliveries and its routed record. Whatever fails
for want of the broker is tried again, with the same message ids, until it is stored; meanwhile the event is held.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw

from services.process.rulebook import Rules
from tas_mcp import subjects, telemetry
from tas_mcp.broker import Publisher, Pulled
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import (
    INBOX,
    TRACEPARENT,
    DeadLetter,
    Delivery,
    Event,
    PubAck,
    Routed,
    RoutedTo,
    decode_event,
    encode,
    without_data,
)
from tas_mcp.metrics import CounterChild
from tas_mcp.outcomes import Outcomes
from tas_mcp.routing import Match, TransformFailed, View
from tas_mcp.tracing import Span, Tracer, messaging

log = telemetry.logger("process")

POISON_DELIVERIES = 5
"""An event that was handed out more often than this and never acked kills its worker: it is set aside."""
AGAIN_SECONDS = 0.5

EVALUATED = telemetry.counter("mcp_rules_evaluated", "Events for which the rules of all targets were evaluated")
EVALUATION_SECONDS = telemetry.histogram(
    "mcp_rule_evaluation_seconds",
    "Evaluating all targets' rules for one event, seconds",
    buckets=(1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 1e-2, 1e-1),
)
ROUTED = telemetry.counter("mcp_routed", "Deliveries that events were routed to, by what became of each", ["result"])

Full = Callable[[str], bool]
"""Whether the queue of a target is full."""


class Pipeline:
    """Handles events. ``outcomes`` writes to tas.outcomes.routed."""

    def __init__(
        self,
        publisher: Publisher,
        outcomes: Outcomes,
        rules: Rules,
        full: Full,
        tracer: Tracer,
        clock: Callable[[], float] = time.time,
    ):
        self._publisher = publisher
        self._outcomes = outcomes
        self._rules = rules
        self._full = full
        self._tracer = tracer
        self._clock = clock
        self._backlog: deque[Pulled] = deque()
        self._catching_up: asyncio.Task[None] | None = None
        results = ("queued", "queue_full", "dropped", "too_large", "transform_failed", "poison")
        self._results = {result: ROUTED.labels(result) for result in results}

    def handle(self, pulled: Pulled) -> None:
        """Take on one event; it is acked when all that follows from it is stored."""
        if self._backlog or self._publisher.crowded:
            self._backlog.append(pulled)
            if self._catching_up is None:
                self._catching_up = asyncio.create_task(self._catch_up())
        else:
            self._route(pulled)

    async def _catch_up(self) -> None:
        """Route what came while too many deliveries waited for their acks (an event may make a thousand)."""
        while self._backlog:
            await self._publisher.room()
            self._route(self._backlog.popleft())
        self._catching_up = None

    def _route(self, pulled: Pulled) -> None:
        try:
            self._decide(pulled)
        except Exception:
            log.exception("event not handled; it will be handed out again", seq=pulled.seq)
            pulled.nak()

    def _decide(self, pulled: Pulled) -> None:
        if pulled.delivered > POISON_DELIVERIES:
            self._set_aside(pulled, "poison", f"handed out {pulled.delivered} times and never done")
            return
        try:
            event = decode_event(pulled.data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._set_aside(pulled, "unreadable", str(error))
            return
        began = time.perf_counter()
        view = View(event)
        matches = self._rules.book.route(view)
        EVALUATION_SECONDS.observe(time.perf_counter() - began)
        EVALUATED.inc()
        step = Step(self._publisher, self._outcomes, pulled, view, self._clock(), len(matches))
        if self._tracer.on and (traceparent := pulled.header(TRACEPARENT)):
            step.trace(self._tracer, traceparent, matches)
        step.run([(match, self._plan(match)) for match in matches], self._results)

    def _plan(self, match: Match) -> str:
        """Where a match goes: its result."""
        if not self._full(match.target_id):
            return "queued"
        target = self._rules.targets.get(match.target_id)
        return "dropped" if target is not None and target.delivery.overflow == "drop" else "queue_full"

    def _set_aside(self, pulled: Pulled, reason: str, detail: str) -> None:
        """Give an event up as a dead letter of ``_process``."""
        log.error("event set aside", reason=reason, detail=detail, seq=pulled.seq, subject=pulled.subject)
        try:
            event = decode_event(pulled.data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            event_type = pulled.subject.removeprefix(subjects.ALL_EVENTS[:-1])
            data = Raw(encode(pulled.data))
            event = Event(event_id=f"seq-{pulled.seq}", event_type=event_type, source="", timestamp=0, accepted_at=0, data=data)
        now = self._clock()
        step = Step(self._publisher, self._outcomes, pulled, View(event), now, 1)
        step.set_aside(reason, detail, self._results["poison"].inc)


class Step:
    """One event on its way: counts what is not stored yet, then records and acks."""

    __slots__ = (
        "_event",
        "_inbox",
        "_left",
        "_now",
        "_outcomes",
        "_publisher",
        "_pulled",
        "_routed",
        "_span",
        "_tracer",
        "_view",
    )

    def __init__(self, publisher: Publisher, outcomes: Outcomes, pulled: Pulled, view: View, now: float, deliveries: int) -> None:
        self._publisher = publisher
        self._outcomes = outcomes
        self._pulled = pulled
        self._inbox = pulled.header(INBOX)
        self._view = view
        self._event = view.event
        self._now = now
        self._left = deliveries
        self._routed: list[RoutedTo] = []
        self._tracer: Tracer | None = None
        self._span: Span | None = None

    def trace(self, tracer: Tracer, traceparent: str, matches: Sequence[Match]) -> None:
        """Record what is done here as a part of the event's trace."""
        self._tracer = tracer
        event = self._event
        self._span = tracer.begin(
            "process tas.events",
            "CONSUMER",
            traceparent,
            {
                **messaging("process", "tas.events"),
                "messaging.message.id": event.event_id,
                "tas.event.type": event.event_type,
                "tas.event.source": event.source,
                "tas.event.sequence": self._pulled.seq,
                "tas.rules.matched": [f"{match.target_id}/{match.rule_id}" for match in matches],
            },
        )

    def run(self, plans: list[tuple[Match, str]], results: dict[str, CounterChild]) -> None:
        if not plans:
            self._record()
        for match, result in plans:
            if result == "dropped":
                self._done(match, result, results[result].inc)
                continue
            try:
                delivery = self._delivery(match)
            except TransformFailed as error:
                self._dead(match, self._as_it_came(match), "transform_failed", str(error), results["transform_failed"].inc)
                continue
            if result == "queued":
                self._queue(match, delivery, results)
            else:
                self._dead(match, delivery, result, "the target's queue is full (max_queue)", results[result].inc)

    def set_aside(self, reason: str, detail: str, count: Callable[[], None]) -> None:
        """Give the event up, as a dead letter of ``_process``."""
        match = Match(subjects.POISON, 0, "")
        self._dead(match, self._as_it_came(match), reason, detail, count)

    def _delivery(self, match: Match) -> Delivery:
        """What the target is owed. ``TransformFailed`` when that cannot be made."""
        raw, body, content_type = Raw(self._pulled.data), None, None
        if match.reshape is not None:
            output = match.reshape(self._view)
            raw, body, content_type = Raw(encode(output.event)), output.body, output.content_type
        return Delivery(
            event=raw,
            event_seq=self._pulled.seq,
            revision=match.revision,
            rule_id=match.rule_id,
            body=body,
            content_type=content_type,
            inbox=self._inbox,
        )

    def _as_it_came(self, match: Match) -> Delivery:
        """The untransformed event: what is kept where nothing could be made of it, or nothing that can be stored."""
        event = Raw(encode(self._event))
        return Delivery(event=event, event_seq=self._pulled.seq, revision=match.revision, rule_id=match.rule_id)

    def _queue(self, match: Match, delivery: Delivery, results: dict[str, CounterChild]) -> None:
        def refused(error: Rejected) -> None:
            if span is not None:
                span.end(error.detail)
            self._dead(match, self._as_it_came(match), "output_too_large", error.detail, results["too_large"].inc)

        def done() -> None:
            if span is not None:
                span.end()
            self._done(match, "queued", results["queued"].inc)

        span = self._publishing("tas.deliveries", match.target_id)
        msg_id = f"{self._pulled.seq}:{match.target_id}"
        self._store(subjects.deliveries(match.target_id), encode(delivery), msg_id, done, refused, span)

    def _publishing(self, destination: str, target_id: str) -> Span | None:
        """The span of a publish, where the event is traced."""
        if self._tracer is None or self._span is None:
            return None
        attributes = {**messaging("send", destination), "tas.target.id": target_id}
        return self._tracer.begin(f"send {destination}", "PRODUCER", self._span.traceparent, attributes)

    def _dead(self, match: Match, delivery: Delivery, reason: str, detail: str, count: Callable[[], None]) -> None:
        """Store a dead letter instead of a delivery."""
        letter = DeadLetter(
            target_id=match.target_id,
            event_id=self._event.event_id,
            reason=reason,
            detail=detail,
            at=self._now,
            delivery=delivery,
        )

        def refused(error: Rejected) -> None:
            """Too large even so: keep all but the data, which is still in EVENTS."""
            bare = without_data(letter, self._event, error.detail)
            self._store(subjects.dead(match.target_id), encode(bare), msg_id, done, log_refused)

        def done() -> None:
            self._done(match, reason, count)

        msg_id = f"{self._pulled.seq}:{match.target_id}:d0"
        self._store(subjects.dead(match.target_id), encode(letter), msg_id, done, refused)

    def _store(
        self,
        subject: str,
        payload: bytes,
        msg_id: str,
        done: Callable[[], None],
        refused: Callable[[Rejected], None],
        span: Span | None = None,
    ) -> None:
        """Publish until it is stored. A duplicate was stored before: this event was already here, and its worker died."""

        def settle(answer: PubAck | TasError) -> None:
            if isinstance(answer, PubAck):
                done()
            elif isinstance(answer, Rejected):
                refused(answer)
            else:
                asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._store, subject, payload, msg_id, done, refused, span)

        try:
            headers = {TRACEPARENT: span.traceparent} if span is not None else None
            self._publisher.publish(subject, payload, settle, msg_id=msg_id, headers=headers)
        except (Rejected, Unavailable) as error:
            settle(error)

    def _done(self, match: Match, result: str, count: Callable[[], None]) -> None:
        count()
        self._routed.append(RoutedTo(match.target_id, match.revision, match.rule_id, result))
        self._left -= 1
        if not self._left:
            self._record()

    def _record(self) -> None:
        event = self._event
        if self._span is not None:
            self._span.end(attributes={"tas.routed": [f"{each.target_id}: {each.result}" for each in self._routed]})
        routed = Routed(self._pulled.seq, event.event_id, event.accepted_at, self._now, self._routed)
        self._outcomes.record(routed, self._pulled.ack)
        if self._inbox:
            self._outcomes.tell(self._inbox, routed)


def log_refused(error: Rejected) -> None:
    """A dead letter without its data was refused for its size: the event stays held, and is looked at by a person."""
    log.error("a dead letter cannot be stored", detail=error.detail)
