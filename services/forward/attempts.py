"""Attempts to deliver, and what follows from each: everything after the sending that is common to all target types.

    delivered -> record the attempt -> ack
    failed    -> park until the next attempt, or dead letter -> record the attempt -> ack
    refused   -> dead letter -> record the attempt -> ack
    gone      -> disable the target -> record the attempt -> give back

A delivery is acked after what follows from it is stored, never before.
"""

import math
import random
import time
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct

from services.forward.counted import Counted
from services.forward.deadlines import Deadlines
from services.forward.gate import Gate
from services.forward.redaction import redacted
from services.forward.retry import wait
from services.forward.storage import Storage
from services.forward.targets import BatchSender, Sender, deliver
from services.forward.traces import Traces
from services.forward.verdict import Failed, Gone, Refused
from tas_mcp import telemetry
from tas_mcp.broker import Pulled
from tas_mcp.errors import Rejected
from tas_mcp.messages import TRACEPARENT, Attempt, Attempted, Delivery, Event, decode_delivery, decode_event, encode
from tas_mcp.outcomes import Outcomes
from tas_mcp.targets import AnyTarget
from tas_mcp.tracing import Span

log = telemetry.logger("lane")

ERROR_CHARACTERS = 300


class Owed(Struct, frozen=True, gc=False):
    """A delivery in hand."""

    pulled: Pulled
    delivery: Delivery
    event: Event

    @property
    def number(self) -> int:
        """Which attempt is next, from 1."""
        return len(self.delivery.attempts) + 1

    @property
    def origin(self) -> str:
        """The ``traceparent`` of its event where that is sampled, else ``""``."""
        return self.delivery.trace or self.pulled.header(TRACEPARENT)

    def attempt(self, at: float, seconds: float, status: int) -> Attempt:
        """An attempt that began ``at`` and took ``seconds``."""
        return Attempt(number=self.number, at=at, duration_ms=seconds * 1e3, status=status)

    def no_attempt(self, why: str) -> Attempt:
        """What is recorded where it is not tried any more."""
        return Attempt(number=len(self.delivery.attempts), at=time.time(), duration_ms=0.0, error=why)


def read(pulled: Pulled) -> Owed:
    """The delivery in a message.

    Raises:
        ValueError: there is none.
    """
    try:
        delivery = decode_delivery(pulled.data)
        return Owed(pulled, delivery, decode_event(delivery.event))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


class Attempts:
    """Those of one target."""

    def __init__(
        self, target_id: str, gate: Gate, deadlines: Deadlines, storage: Storage, outcomes: Outcomes, traces: Traces
    ) -> None:
        self._target_id = target_id
        self._gate = gate
        self._deadlines = deadlines
        self._storage = storage
        self._outcomes = outcomes
        self._traces = traces
        self._counted = Counted(target_id)

    def forget(self) -> None:
        """The lane is closed: take it out of the metrics."""
        self._counted.forget()

    async def deliver(self, target: AnyTarget, sender: Sender, owed: Owed) -> None:
        """Try once, within the target's timeout."""
        at, began = time.time(), time.monotonic()
        span = self._traces.begin(target, owed.event, owed.number, owed.origin) if self._traces.on else None
        try:
            trace = span.traceparent if span is not None else ""
            work = deliver(sender, owed.event, owed.delivery.body, owed.delivery.content_type, trace)
            status = await self._deadlines.within(target.delivery.timeout, began, work)
        except (Failed, Refused, TimeoutError) as error:
            failure = redacted(error, target) if isinstance(error, Failed | Refused) else _late(target)
            attempt = owed.attempt(at, time.monotonic() - began, failure.status)
            self._traces.end(span, failure.status, failure)
            self._gate.failed(failure)
            await self._failed(target, owed, attempt, failure, span)
            return
        except BaseException as error:
            self._traces.cut_short(span, error)
            raise
        self._traces.end(span, status)
        now = time.monotonic()
        self._gate.delivered(now, now - began, self._deadlines.under_way + 1)
        self._delivered(owed, owed.attempt(at, now - began, status), span)

    async def deliver_together(self, target: AnyTarget, sender: BatchSender, batch: list[Owed]) -> None:
        """One request for many. What it refuses as a whole is tried one by one: one bad one must not take the others along."""
        at, began = time.time(), time.monotonic()
        verdicts: list[int | Failed | Refused]
        span = self._traces.begin_together(target, [owed.origin for owed in batch]) if self._traces.on else None
        try:
            work = sender.send_batch([each.event for each in batch], span.traceparent if span is not None else "")
            verdicts = await self._deadlines.within(target.delivery.timeout, began, work)
            verdicts = [each if isinstance(each, int) else redacted(each, target) for each in verdicts]
        except Refused as error:
            self._traces.end(span, error.status, redacted(error, target))
            for owed in batch:
                await self.deliver(target, sender, owed)
            return
        except Failed as error:
            verdicts = [redacted(error, target)] * len(batch)
        except TimeoutError:
            verdicts = [_late(target)] * len(batch)
        except BaseException as error:
            self._traces.cut_short(span, error)
            raise
        now = time.monotonic()
        seconds = now - began
        failures = [verdict for verdict in verdicts if not isinstance(verdict, int)]
        self._traces.end(span, 0, failures[0] if failures else None)
        if len(failures) < len(batch):
            self._gate.delivered(now, seconds, self._deadlines.under_way + 1)
        else:
            self._gate.failed(failures[0])
        for owed, verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, int):
                self._delivered(owed, owed.attempt(at, seconds, verdict), span)
            else:
                await self._failed(target, owed, owed.attempt(at, seconds, verdict.status), verdict, span)

    def _delivered(self, owed: Owed, attempt: Attempt, span: Span | None) -> None:
        seconds = attempt.at + attempt.duration_ms / 1e3 - owed.event.accepted_at / 1e9
        self._counted.delivered(attempt, seconds, span.trace_id if span is not None else "")
        self._record(owed, attempt, "delivered")

    async def _failed(
        self, target: AnyTarget, owed: Owed, attempt: Attempt, failure: Failed | Refused, span: Span | None
    ) -> None:
        """Do what follows from an attempt that failed."""
        attempt.error, attempt.response = failure.detail[:ERROR_CHARACTERS], failure.response
        trace_id = span.trace_id if span is not None else ""
        if self._traces.on and not owed.origin:  # the span of a batch is not its own
            trace_id = self._traces.failed(target, owed.event, attempt, failure)
        self._counted.failed(attempt, trace_id)
        if isinstance(failure, Gone):
            await self._gate.disable(failure)
            self._record(owed, attempt, "gone", owed.pulled.nak)  # it stays in the queue, as all the others
            return
        owed.delivery.attempts.append(attempt)
        with telemetry.context(trace_id=trace_id):
            await self._follow_up(target, owed, failure)

    async def _follow_up(self, target: AnyTarget, owed: Owed, failure: Failed | Refused) -> None:
        """Park a delivery whose last attempt failed, or give it up."""
        attempts = owed.delivery.attempts
        attempt = attempts[-1]
        ended = attempt.at + attempt.duration_ms / 1e3
        seconds, reason = None, "refused"
        if isinstance(failure, Failed):
            reason = "attempts_exhausted"
            elapsed = ended - attempts[0].at
            seconds = wait(target.delivery.retry, len(attempts), failure.retry_after, elapsed, random.random)
            if seconds is not None and ended + seconds > expiry(target, owed):
                seconds, reason = None, "expired"
        if seconds is not None:
            owed.delivery.trace = owed.origin
            try:
                await self._storage.park(owed.delivery, ended + seconds)
            except Rejected:  # too large with its history
                seconds, reason = None, "output_too_large"
        if seconds is not None:
            self._counted.retried()
            self._record(owed, attempt, "retrying")
        else:
            await self._bury(owed, attempt, reason, attempt.error)
        log.warning(
            "delivery failed",
            target=target.id,
            event_id=owed.event.event_id,
            attempt=attempt.number,
            status=attempt.status,
            error=attempt.error,
            duration_ms=round(attempt.duration_ms, 1),
            next_in_seconds=None if seconds is None else round(seconds, 1),
        )

    async def remove(self, owed: Owed, *, discard: bool) -> None:
        """The target was deleted: what was owed to it is dead, or dropped where its owner said so."""
        if discard:
            self._record(owed, owed.no_attempt("target removed"), "dropped")
        else:
            await self.give_up(owed, "target_removed", "the target was deleted")

    async def give_up(self, owed: Owed, reason: str, detail: str) -> None:
        """A dead letter without another attempt."""
        await self._bury(owed, owed.no_attempt(detail), reason, detail)

    async def _bury(self, owed: Owed, attempt: Attempt, reason: str, detail: str) -> None:
        await self._storage.bury(owed.delivery, owed.event, reason, detail)
        self._counted.died()
        self._record(owed, attempt, "dead")

    async def keep_unreadable(self, pulled: Pulled, detail: str) -> None:
        """A message that is no delivery (written by hand?) is dead, and kept for people to see."""
        log.error("unreadable delivery", target=self._target_id, seq=pulled.seq, detail=detail)
        event = Event(
            event_id=f"delivery-{pulled.seq}", event_type="", source="", timestamp=0, accepted_at=0, data=Raw(encode(pulled.data))
        )
        delivery = Delivery(event=Raw(encode(event)), event_seq=0, revision=0)
        await self._storage.bury(delivery, event, "unreadable", detail, f"{event.event_id}:{self._target_id}")
        self._counted.died()
        pulled.ack()

    def _record(self, owed: Owed, attempt: Attempt, result: str, done: Callable[[], None] | None = None) -> None:
        """Account for the attempt, then ack (or what ``done`` does)."""
        record = Attempted(
            owed.delivery.event_seq,
            owed.event.event_id,
            owed.event.accepted_at,
            self._target_id,
            owed.delivery.revision,
            attempt.number,
            result,
            attempt.status,
            round(attempt.duration_ms, 3),
            attempt.at,
            attempt.error,
        )
        self._outcomes.record(record, done or owed.pulled.ack)
        if owed.delivery.inbox:
            self._outcomes.tell(owed.delivery.inbox, record)


def _late(target: AnyTarget) -> Failed:
    return Failed(0, f"no answer within {target.delivery.timeout}")


def expiry(target: AnyTarget, owed: Owed) -> float:
    """When a delivery is too old to be tried: counted from its event's acceptance, or its last redrive. Unix seconds."""
    if target.delivery.expires is None:
        return math.inf
    return max(owed.event.accepted_at / 1e9, owed.delivery.redriven_at) + target.delivery.expires
