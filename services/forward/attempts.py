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
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from services.forward.counted import Counted
from services.forward.deadlines import Deadlines
from services.forward.gate import Gate
from services.forward.retry import wait
from services.forward.storage import Storage
from services.forward.targets import BatchSender, Sender, deliver
from services.forward.verdict import Failed, Gone, Refused
from tas_mcp import telemetry
from tas_mcp.broker import Pulled
from tas_mcp.errors import Rejected
from tas_mcp.messages import Attempt, Attempted, Delivery, Event, decode_delivery, decode_event, encode
from tas_mcp.outcomes import Outcomes
from tas_mcp.targets import AnyTarget

T = TypeVar("T")

log = telemetry.logger("lane")

ERROR_CHARACTERS = 300


class Owed(NamedTuple):
    """A delivery in hand."""

    pulled: Pulled
    delivery: Delivery
    event: Event

    def attempt(self, at: float, seconds: float, status: int, failure: Failed | Refused | None) -> Attempt:
        """An attempt that began ``at`` and took ``seconds``."""
        attempt = Attempt(number=len(self.delivery.attempts) + 1, at=at, duration_ms=seconds * 1e3, status=status)
        if failure is not None:
            attempt.error, attempt.response = failure.detail[:ERROR_CHARACTERS], failure.response
        return attempt

    def no_attempt(self, why: str) -> Attempt:
        """What is recorded where it is not tried any more."""
        return Attempt(number=len(self.delivery.attempts), at=time.time(), duration_ms=0.0, error=why)


class Attempts:
    """Those of one target."""

    def __init__(self, target_id: str, gate: Gate, deadlines: Deadlines, storage: Storage, outcomes: Outcomes) -> None:
        self._target_id = target_id
        self._gate = gate
        self._deadlines = deadlines
        self._storage = storage
        self._outcomes = outcomes
        self._counted = Counted(target_id)
        self._under_way = 0

    def forget(self) -> None:
        """The lane is closed: take it out of the metrics."""
        self._counted.forget()

    async def read(self, pulled: Pulled) -> Owed | None:
        """The delivery in a message; one that is none is dead, and kept for people to see."""
        try:
            delivery = decode_delivery(pulled.data)
            return Owed(pulled, delivery, decode_event(delivery.event))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            await self._unreadable(pulled, str(error))
            return None

    async def deliver(self, target: AnyTarget, sender: Sender, owed: Owed) -> None:
        """Try once, within the target's timeout."""
        at, began = time.time(), time.perf_counter()
        failure: Failed | Refused | None = None
        try:
            status = await self._within(target, deliver(sender, owed.event, owed.delivery.body, owed.delivery.content_type))
        except (Failed, Refused) as error:
            failure, status = error, error.status
        seconds = time.perf_counter() - began
        self._judge(seconds, failure)
        await self._settle(target, owed, owed.attempt(at, seconds, status, failure), failure)

    async def deliver_together(self, target: AnyTarget, sender: BatchSender, batch: list[Owed]) -> None:
        """One request for many. What it refuses as a whole is tried one by one: one bad one must not take the others along."""
        at, began = time.time(), time.perf_counter()
        verdicts: list[int | Failed | Refused]
        try:
            verdicts = await self._within(target, sender.send_batch([each.event for each in batch]))
        except Refused:
            for owed in batch:
                await self.deliver(target, sender, owed)
            return
        except Failed as error:
            verdicts = [error] * len(batch)
        seconds = time.perf_counter() - began
        failures = [verdict for verdict in verdicts if not isinstance(verdict, int)]
        self._judge(seconds, failures[0] if len(failures) == len(batch) else None)
        for owed, verdict in zip(batch, verdicts, strict=True):
            failure = None if isinstance(verdict, int) else verdict
            status = verdict if isinstance(verdict, int) else verdict.status
            await self._settle(target, owed, owed.attempt(at, seconds, status, failure), failure)

    async def _within(self, target: AnyTarget, work: Awaitable[T]) -> T:
        self._under_way += 1
        try:
            return await self._deadlines.within(target.delivery.timeout, work)
        except TimeoutError:
            raise Failed(0, f"no answer within {target.delivery.timeout}") from None
        finally:
            self._under_way -= 1

    def _judge(self, seconds: float, failure: Failed | Refused | None) -> None:
        """Tell the gate how a request went."""
        if failure is None:
            self._gate.delivered(seconds, self._under_way + 1)
        else:
            self._gate.failed(failure)

    async def _settle(self, target: AnyTarget, owed: Owed, attempt: Attempt, failure: Failed | Refused | None) -> None:
        """Do what follows from an attempt."""
        if failure is None:
            self._counted.delivered(attempt, time.time() - owed.event.accepted_at / 1e9)
            self._record(owed, attempt, "delivered")
            return
        self._counted.failed(attempt)
        if isinstance(failure, Gone):
            await self._gate.disable(failure)
            self._record(owed, attempt, "gone", owed.pulled.nak)  # it stays in the queue, as all the others
            return
        owed.delivery.attempts.append(attempt)
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

    async def _unreadable(self, pulled: Pulled, detail: str) -> None:
        """A message that is no delivery (written by hand?): kept for people to see."""
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


def expiry(target: AnyTarget, owed: Owed) -> float:
    """When a delivery is too old to be tried: counted from its event's acceptance, or its last redrive. Unix seconds."""
    if target.delivery.expires is None:
        return math.inf
    return max(owed.event.accepted_at / 1e9, owed.delivery.redriven_at) + target.delivery.expires
