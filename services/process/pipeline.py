"""The step of the process tier: decide for one event, store a delivery for each matching target, store what was decided, ack.

The order is the promise: the event is acked only after the broker has acked its deliveries and its routed record. Whatever fails
for want of the broker is tried again, with the same message ids, until it is stored; meanwhile the event is held.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

import msgspec
from msgspec import Raw

from services.process.rulebook import Rules
from tas_mcp import subjects, telemetry
from tas_mcp.broker import Publisher, Pulled
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import (
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
from tas_mcp.routing import Match, View

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
        self, publisher: Publisher, outcomes: Outcomes, rules: Rules, full: Full, clock: Callable[[], float] = time.time
    ):
        self._publisher = publisher
        self._outcomes = outcomes
        self._rules = rules
        self._full = full
        self._clock = clock
        self._backlog: deque[Pulled] = deque()
        self._catching_up: asyncio.Task[None] | None = None
        self._results = {result: ROUTED.labels(result) for result in ("queued", "queue_full", "dropped", "too_large", "poison")}

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
        matches = self._rules.book.route(View(event))
        EVALUATION_SECONDS.observe(time.perf_counter() - began)
        EVALUATED.inc()
        Step(self._publisher, self._outcomes, pulled, event, self._clock(), len(matches)).run(
            [(match, self._plan(match)) for match in matches], self._results
        )

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
        step = Step(self._publisher, self._outcomes, pulled, event, now, 1)
        step.dead(Match(subjects.POISON, 0, ""), reason, detail, self._results["poison"].inc)


class Step:
    """One event on its way: counts what is not stored yet, then records and acks."""

    __slots__ = ("_event", "_left", "_now", "_outcomes", "_publisher", "_pulled", "_routed")

    def __init__(
        self, publisher: Publisher, outcomes: Outcomes, pulled: Pulled, event: Event, now: float, deliveries: int
    ) -> None:
        self._publisher = publisher
        self._outcomes = outcomes
        self._pulled = pulled
        self._event = event
        self._now = now
        self._left = deliveries
        self._routed: list[RoutedTo] = []

    def run(self, plans: list[tuple[Match, str]], results: dict[str, CounterChild]) -> None:
        if not plans:
            self._record()
        for match, result in plans:
            if result == "queued":
                self._queue(match, results)
            elif result == "queue_full":
                self.dead(match, result, "the target's queue is full (max_queue)", results[result].inc)
            else:
                self._done(match, result, results[result].inc)

    def _queue(self, match: Match, results: dict[str, CounterChild]) -> None:
        seq = self._pulled.seq
        payload = encode(Delivery(event=Raw(self._pulled.data), event_seq=seq, revision=match.revision, rule_id=match.rule_id))

        def refused(error: Rejected) -> None:
            self.dead(match, "output_too_large", error.detail, results["too_large"].inc)

        self._store(
            subjects.deliveries(match.target_id),
            payload,
            f"{seq}:{match.target_id}",
            lambda: self._done(match, "queued", results["queued"].inc),
            refused,
        )

    def dead(self, match: Match, reason: str, detail: str, count: Callable[[], None]) -> None:
        """Store a dead letter instead of a delivery."""
        seq = self._pulled.seq
        delivery = Delivery(event=Raw(encode(self._event)), event_seq=seq, revision=match.revision, rule_id=match.rule_id)
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

        msg_id = f"{seq}:{match.target_id}:d0"
        self._store(subjects.dead(match.target_id), encode(letter), msg_id, done, refused)

    def _store(
        self, subject: str, payload: bytes, msg_id: str, done: Callable[[], None], refused: Callable[[Rejected], None]
    ) -> None:
        """Publish until it is stored. A duplicate was stored before: this event was already here, and its worker died."""

        def settle(answer: PubAck | TasError) -> None:
            if isinstance(answer, PubAck):
                done()
            elif isinstance(answer, Rejected):
                refused(answer)
            else:
                asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._store, subject, payload, msg_id, done, refused)

        try:
            self._publisher.publish(subject, payload, settle, msg_id=msg_id)
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
        routed = Routed(self._pulled.seq, event.event_id, event.accepted_at, self._now, self._routed)
        self._outcomes.record(routed, self._pulled.ack)


def log_refused(error: Rejected) -> None:
    """A dead letter without its data was refused for its size: the event stays held, and is looked at by a person."""
    log.error("a dead letter cannot be stored", detail=error.detail)
